"""Conversion of reference checkpoints, made here from torchvision's ResNet and the reference's own key names."""

import collections
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.cli import main
from cmdl_hf.export import convert_reference_checkpoint
from cmdl_hf.export.convert import load_reference_checkpoint, rename_reference_key

FIXTURES = Path(__file__).parents[1] / "fixtures"
STEM = {"conv1.0": "stem.0", "conv1.1": "stem.1", "conv1.3": "stem.3", "conv1.4": "stem.4", "conv1.6": "stem.6"}


def make_tensor(name, like):
    if not like.is_floating_point():
        return torch.tensor(7)
    return torch.rand_like(like) + 0.5 if name.endswith("running_var") else torch.randn_like(like) * 0.05


def make_checkpoint(backbone="resnet50", context_module="none", num_labels=4):
    """State dict with the reference's keys: its heads as in the fixtures, torchvision's names for the backbone."""
    config = CMDLConfig.from_preset(
        "reference",
        num_labels=num_labels,
        num_distributions=3,
        hidden_size=16,
        attention_size=8,
        context_module=context_module,
        backbone_config={"backbone": backbone, "out_indices": [1, 2, 3, 4], "output_stride": 8},
    )
    ours = CMDLForSemanticSegmentation(config).state_dict()
    reference = {}
    for key in ours:
        if key.startswith("backbone._backbone."):
            name = key.removeprefix("backbone._backbone.")
            if backbone.endswith("c"):
                prefix, _, leaf = name.rpartition(".")
                name = f"{STEM.get(prefix, 'stem.7' if prefix == 'bn1' else prefix)}.{leaf}"
            reference[f"backbone_net.{name}"] = make_tensor(key, ours[key])
    for key in load_file(FIXTURES / f"reference_{context_module}.safetensors"):
        if key.startswith("state."):
            name = key.removeprefix("state.")
            reference[name] = make_tensor(name, ours[rename_reference_key(name)])
            if name.endswith("running_var"):
                reference[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return reference


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "epoch_140.pth"
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01}]}
    torch.save({"model": make_checkpoint(), "optimizer": optimizer, "cur_epoch": 140, "cur_iter": 9}, path)
    return path


def test_command_line_writes_a_folder_that_loads(checkpoint, tmp_path, capsys):
    folder = tmp_path / "model"
    main(f"convert {checkpoint} {folder} --backbone resnet50 --num-labels 4 --context-module none".split())
    printed, told = capsys.readouterr()
    assert "from_pretrained" in printed
    assert told.index(f"reading {checkpoint}") < told.index("building the model with resnet50, and saving it")
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    assert model.config.assignment == "reference"
    assert (model.config.num_labels, model.config.num_distributions) == (4, 3)
    assert (model.config.hidden_size, model.config.attention_size) == (16, 8)
    AutoImageProcessor.from_pretrained(folder)

    reference = load_reference_checkpoint(checkpoint)
    loaded = model.state_dict()
    for key, tensor in reference.items():
        assert torch.equal(loaded[rename_reference_key(key)], tensor), key
    assert len(loaded) == len(reference) + 1  # num_updates, which the reference does not count


def test_backbone_features_equal_torchvisions_dilated_resnet(checkpoint, tmp_path):
    model = convert_reference_checkpoint(checkpoint, tmp_path / "model", "resnet50", 4)
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    weights = {
        key.removeprefix("backbone_net."): tensor
        for key, tensor in load_reference_checkpoint(checkpoint).items()
        if key.startswith("backbone_net.")
    }
    assert not theirs.load_state_dict(weights, strict=False).unexpected_keys
    x = torch.randn(1, 3, 65, 97)
    expected = x
    with torch.no_grad():
        for name, child in theirs.named_children():
            if name == "avgpool":
                break
            expected = child(expected)
        torch.testing.assert_close(model.backbone(x).feature_maps[-1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("context_module", ["ppm", "aspp"])
def test_context_modules_and_deep_stem(tmp_path, context_module):
    torch.save(make_checkpoint("resnet50c", context_module), tmp_path / "plain_state_dict.pth")
    model = convert_reference_checkpoint(
        tmp_path / "plain_state_dict.pth", tmp_path / "model", "resnet50c", 4, context_module
    )
    assert list(model.config.pool_scales) == [1, 2, 3, 6]
    assert list(model.config.aspp_dilations) == [1, 12, 24, 36]
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).logits.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("resnet18", 4), "basic block"),
        (("resnet34", 4), "basic block"),
        (("resnet50", 4, "criss_cross"), "no reference figures"),
        (("resnet50", 4, "upernet"), "one feature map, but UPerNet needs four"),
        (("vgg16", 4), "unknown"),
        (("resnet50", 5), "has 4 classes, but num_labels is 5"),
        (("resnet50c", 4), r"left over: .*backbone_net.conv1.weight"),
        (("resnet101", 4), r"missing: .*layer3.6"),
        (("resnet50", 4, "ppm"), r"missing: .*context_module.branches.0.0.weight"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_the_reason(checkpoint, tmp_path, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        convert_reference_checkpoint(checkpoint, tmp_path / "model", *arguments)
    assert not (tmp_path / "model").exists()


def test_a_key_nobody_knows_is_an_error(checkpoint, tmp_path):
    state_dict = load_reference_checkpoint(checkpoint) | {"surprise.weight": torch.zeros(1)}
    torch.save({"model": state_dict}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"1 left over: surprise.weight"):
        convert_reference_checkpoint(tmp_path / "model.pth", tmp_path / "out", "resnet50", 4)


def test_an_existing_folder_is_kept(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        convert_reference_checkpoint(checkpoint, tmp_path, "resnet50", 4)
    assert (tmp_path / "notes.txt").read_text() == "mine"


class _Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": 1}}, "contains no state dict"),
        ([1, 2], "contains no state dict"),
        ({"model": collections.OrderedDict(a=torch.zeros(1))}, "not a CMDL checkpoint"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=message):
        convert_reference_checkpoint(tmp_path / "file.pth", tmp_path / "out", "resnet50", 4)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pth").write_bytes(pickle.dumps({"model": _Malicious()}, protocol=2))
    with pytest.raises(ValueError, match="without running code"):
        load_reference_checkpoint("file.pth")
    torch.save({"model": _Malicious()}, "other.pth")
    with pytest.raises(ValueError, match="without running code"):
        load_reference_checkpoint("other.pth")
    assert not Path("executed").exists()


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "b.yaml").write_text("max_steps: 3\n")
    with pytest.raises(ValueError, match="is not a PyTorch checkpoint"):
        load_reference_checkpoint(tmp_path / "b.yaml")


def test_command_line_says_what_is_wrong_in_one_line(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "convert",
                str(tmp_path / "missing.pth"),
                str(tmp_path / "out"),
                "--backbone",
                "resnet50",
                "--num-labels",
                "4",
            ]
        )
    assert "missing.pth" in str(stopped.value)
