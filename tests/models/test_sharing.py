"""Auto classes, remote code and pipelines: what a shared folder must do for those who load it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForSemanticSegmentation, pipeline

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation, make_image_processor

WITHOUT_PACKAGE = """
import sys
sys.modules["cmdl_hf"] = None  # importing it now raises ImportError
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
folder, again = sys.argv[1:]
model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True).eval()
assert "transformers_modules" in type(model).__module__, type(model)
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).num_distributions == 3
AutoImageProcessor.from_pretrained(folder)
images = torch.load(folder + "/images.pt", weights_only=True)
with torch.no_grad():
    logits = model(images).logits
model.save_pretrained(again)
with torch.no_grad():
    again = AutoModelForSemanticSegmentation.from_pretrained(again, trust_remote_code=True).eval()(images).logits
assert torch.equal(logits, again)
torch.save(logits, folder + "/logits.pt")
"""


@pytest.fixture
def folder(make_model, tmp_path):
    options = {"context_module": "upernet", "voting": "posterior", "contrast_target": "assigned"}
    make_model(**options, id2label={i: f"class {i}" for i in range(5)}).save_pretrained(tmp_path)
    make_image_processor().save_pretrained(tmp_path)
    return tmp_path


def run(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "", "HF_HUB_OFFLINE": "1"} | {key: str(value) for key, value in environment.items()},
    )


def test_a_saved_folder_carries_the_sources_it_needs(folder):
    sources = {path.name for path in folder.glob("*.py")}
    assert sources == {
        f"{name}_cmdl.py"
        for name in (
            "aggregation",
            "allowed",
            "assignment",
            "backbone",
            "checkpointing",
            "checks",
            "clusters",
            "configuration",
            "constants",
            "configuration_checks",
            "context",
            "context_registry",
            "cross_entropy",
            "distributions",
            "hub_errors",
            "large_pieces",
            "layers",
            "losses",
            "memory",
            "modeling",
            "peft",
            "pieces",
            "processes",
            "saving",
            "similarity",
            "triton_cross_entropy",
        )
    }
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_cmdl.CMDLConfig",
        "AutoModelForSemanticSegmentation": "modeling_cmdl.CMDLForSemanticSegmentation",
    }


def test_remote_code_works_in_a_process_without_the_package(folder, tmp_path_factory):
    images = torch.randn(1, 3, 64, 64)
    torch.save(images, folder / "images.pt")
    home = tmp_path_factory.mktemp("home")
    result = run(WITHOUT_PACKAGE, folder, home / "again", HF_HOME=home)
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        expected = CMDLForSemanticSegmentation.from_pretrained(folder)(images).logits
    torch.testing.assert_close(torch.load(folder / "logits.pt", weights_only=True), expected, atol=1e-6, rtol=0)


def test_auto_classes_know_cmdl(folder):
    assert type(AutoConfig.from_pretrained(folder)) is CMDLConfig
    assert type(AutoModelForSemanticSegmentation.from_pretrained(folder)) is CMDLForSemanticSegmentation
    assert type(AutoModelForSemanticSegmentation.from_config(AutoConfig.from_pretrained(folder)))


@pytest.mark.parametrize(
    "code",
    [
        "import cmdl_hf; from transformers import AutoModelForSemanticSegmentation as Auto",
        pytest.param("import cmdl_hf; from transformers import Trainer, AutoConfig as Auto", marks=pytest.mark.slow),
        "from transformers import AutoConfig as Auto; import cmdl_hf",
        pytest.param("import cmdl_hf; from transformers import AutoConfig as Auto", marks=pytest.mark.slow),
        pytest.param(
            "from cmdl_hf import CMDLConfig; from transformers import AutoModelForSemanticSegmentation as Auto",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import cmdl_hf; from transformers import UperNetConfig, SegformerImageProcessor, AutoConfig as Auto",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_importing_the_package_registers_it_in_any_order(folder, code):
    check = "; import sys; assert type(Auto.from_pretrained(sys.argv[1])).__module__.startswith('cmdl_hf')"
    result = run(code + check, folder)
    assert result.returncode == 0, result.stderr


def test_image_segmentation_pipeline(folder):
    segmenter = pipeline("image-segmentation", model=str(folder), trust_remote_code=False)
    image = Image.new("RGB", (75, 50), (200, 30, 60))
    segments = segmenter(image)
    assert segments
    assert {segment["label"] for segment in segments} <= {f"class {i}" for i in range(5)}
    assert all(segment["mask"].size == image.size for segment in segments)
    covered = sum(np.asarray(segment["mask"]).astype(int) // 255 for segment in segments)
    assert (covered == 1).all()


def test_a_save_in_another_shape_replaces_the_weights(make_model, tmp_path):
    """One file, then shards, then one file: what was saved last is loaded."""
    for seed, options in enumerate(({}, {"max_shard_size": "60KB"}, {})):
        torch.manual_seed(seed)
        model = make_model().eval()
        model.decode_head[-1].bias.data.fill_(seed)
        model.save_pretrained(tmp_path, **options)
        names = {path.name for path in tmp_path.glob("*.safetensors*")}
        assert ("model.safetensors" in names) != ("model.safetensors.index.json" in names)
        assert len(names) > 2 if options else names == {"model.safetensors"}
        loaded = CMDLForSemanticSegmentation.from_pretrained(tmp_path)
        assert torch.equal(loaded.decode_head[-1].bias, model.decode_head[-1].bias)
