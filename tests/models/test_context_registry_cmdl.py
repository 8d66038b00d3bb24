"""Context modules by name: ours, those of others, and what a saved model takes along."""

import importlib
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation, register_context_module
from cmdl_hf.models import context_registry_cmdl as registry
from cmdl_hf.models import find_context_module, list_frameworks
from cmdl_hf.training.network import check_remote_code

MODULE = """
from torch import nn


class Mixer(nn.Module):
    def __init__(self, config, channels):
        super().__init__()
        self.mix = nn.ModuleList(nn.Conv2d(c, config.hidden_size, 1) for c in channels[-2:])

    def forward(self, feature_maps):
        coarse, fine = self.mix[1](feature_maps[-1]), self.mix[0](feature_maps[-2])
        return fine + nn.functional.interpolate(coarse, size=fine.shape[-2:])
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "CONTEXT_MODULES", dict(registry.CONTEXT_MODULES))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("mixer", "modeling_cmdl"):
        sys.modules.pop(name, None)


@pytest.fixture
def write(tmp_path):
    """Write a file of a module, and import it."""

    def write(text=MODULE, name="mixer"):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return write


def test_ours_are_known_by_module_and_by_framework():
    assert list_frameworks() == ["fcn", "pspnet", "deeplabv3", "ccnet", "upernet"]
    for framework, name in zip(list_frameworks(), ("none", "ppm", "aspp", "criss_cross", "upernet"), strict=True):
        assert find_context_module(framework) is find_context_module(name)
        assert find_context_module(name).plugin is None
        assert CMDLConfig(context_module=framework).context_module == name


@pytest.mark.parametrize("use_distributions", [True, False])
def test_a_registered_module_makes_a_network_that_trains(write, make_model, make_batch, use_distributions):
    register_context_module("mixer", write().Mixer, "Mixer Net", num_feature_maps=2)
    assert list_frameworks()[-1] == "mixer-net"
    model = make_model(context_module="mixer", use_distributions=use_distributions)
    images, labels = make_batch()
    model(images, labels=labels).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.context_module.parameters())
    assert model.config.context_module_plugin == "test_context_registry_cmdl.py"
    with pytest.raises(StrictDataclassError, match="context_module='mixer' takes 2"):
        make_model(
            context_module="mixer",
            use_auxiliary_head=False,
            use_distributions=use_distributions,
            backbone_config={"backbone": "resnet18", "out_indices": [4]},
        )


def test_its_file_is_saved_and_a_folder_without_it_names_the_plugin(write, make_model, tmp_path):
    module = write()
    register_context_module("mixer", module.Mixer, "Mixer")
    model = make_model(context_module="mixer")
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    model.save_pretrained(folder)  # twice is as once
    assert (folder / "mixer.py").read_text() == MODULE
    assert (folder / "context_registry_cmdl.py").read_text().count("from .mixer import Mixer") == 1
    check_remote_code(model)
    CMDLForSemanticSegmentation.from_pretrained(folder)
    del registry.CONTEXT_MODULES["mixer"]
    message = r"no context_module.*'mixer'; known are none \(fcn\).*plug-in test_context_registry_cmdl\.py"
    for load in (AutoConfig.from_pretrained, CMDLForSemanticSegmentation.from_pretrained):
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_what_would_not_load_elsewhere_is_told_before_training(write, make_model):
    text = MODULE.replace("super().__init__()", "super().__init__()\n        assert 'mixer' in __name__.split('.')[0]")
    register_context_module("mixer", write(text).Mixer, "Mixer")
    with pytest.raises(ValueError, match=r"'mixer' of test_context_registry_cmdl\.py: a saved model would not load"):
        check_remote_code(make_model(context_module="mixer"))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import cmdl_hf", "'cmdl_hf'"),
        ("from .neighbour import value", r"'\.'"),
        ("def make():\n    import scipy.ndimage", "'scipy'"),
    ],
)
def test_a_file_that_imports_more_than_a_folder_has_is_refused(write, tmp_path, line, found):
    module = write()
    (tmp_path / "mixer.py").write_text(f"{MODULE}\n\n{line}\n")
    with pytest.raises(ValueError, match=f"mixer.py, line [0-9]+ imports {found}"):
        register_context_module("mixer", module.Mixer, "Mixer")


def test_what_has_no_file_of_its_own_is_refused(write):
    class Local(nn.Module):
        pass

    for make in (Local, lambda config, channels: nn.Identity(), torch.relu):
        with pytest.raises(ValueError, match="must be a class or function at the top level of a Python file"):
            register_context_module("local", make, "Local")
    with pytest.raises(ValueError, match=r"modeling_cmdl\.py is the name of another file of a model, .*; rename it"):
        register_context_module("mixer", write(name="modeling_cmdl").Mixer, "Mixer")


@pytest.mark.parametrize(("name", "title"), [("ppm", "New"), ("new", "PSPNet"), ("pspnet", "New"), ("new", "PPM")])
def test_a_name_is_taken_once(write, name, title):
    with pytest.raises(ValueError, match=r"there is a context module '(ppm|pspnet)' already \(PSPNet\)"):
        register_context_module(name, write().Mixer, title)
