"""The examples of plug-ins, from training to a model that others load, each in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from process_groups import run_process
from short_runs import leave_out_pictures, use_few_scenes

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"
RECIPE = {
    "backbone": "mobilenetv3_small_050",
    "output_stride": 16,
    "crop_size": [32, 48],
    "hidden_size": 16,
    "attention_size": 8,
    "max_steps": 2,
    "total_batch_size": 2,
    "num_workers": 0,
    "model_options": {"num_distributions": 2, "layer_scale_init_value": 0.5},
}
WITHOUT_PACKAGE = """
import sys
sys.modules["cmdl_hf"] = None
import torch
from transformers import AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert "transformers_modules" in type(model.context_module).__module__
model.save_pretrained(sys.argv[2])
again = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[2], trust_remote_code=True).eval()
images = torch.load(sys.argv[1] + "/images.pt", weights_only=True)
with torch.no_grad():
    logits = torch.load(sys.argv[1] + "/logits.pt", weights_only=True)
    torch.testing.assert_close(model(images).logits, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(again(images).logits, logits, atol=1e-5, rtol=0)
"""


def run_commands(folder, *commands):
    """Run commands of `cmdl` one after the other, in the folder."""
    from cmdl_hf.cli import main

    use_few_scenes()
    leave_out_pictures()
    os.chdir(folder)
    for command in commands:
        main([str(word) for word in command])


def load_strip_net(folder):
    """Load the model without its plug-in, which is refused, and with it; keep what it computes."""
    import torch
    from transformers import AutoModelForSemanticSegmentation

    from cmdl_hf.plugins import import_plugins

    with pytest.raises(ValueError, match=r"no context_module.*'strip'; known are .*plug-in strip_net\.py"):
        AutoModelForSemanticSegmentation.from_pretrained(folder)
    import_plugins([PLUGINS / "strip_net.py"])
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    assert type(model.context_module).__name__ == "StripPooling"
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        torch.save(model(images).logits, folder / "logits.pt")
    torch.save(images, folder / "images.pt")


def write_recipe(folder, **settings):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | settings))
    return path


def test_a_context_module_of_ones_own_travels_with_the_model(tmp_path):
    recipe = write_recipe(tmp_path, framework="stripnet", plugin=[str(PLUGINS / "strip_net.py")])
    out = tmp_path / "out"
    train = ["train", recipe, "--output-dir", out]
    score = ["evaluate", out, "--benchmark", "synthetic", "--split", "test", "--out", tmp_path / "scores.json"]
    run_process(run_commands, tmp_path, train, score)
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["mean_iou"] >= 0
    assert (out / "strip_pooling.py").read_text() == (PLUGINS / "strip_pooling.py").read_text()
    config = json.loads((out / "config.json").read_text())
    assert (config["context_module"], config["context_module_plugin"]) == ("strip", "strip_net.py")
    assert yaml.safe_load((out / "recipe.yaml").read_text())["plugin"] == ["strip_net.py"]
    assert "CMDL-StripNet" in (out / "README.md").read_text()

    run_process(load_strip_net, out)
    environment = {"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", WITHOUT_PACKAGE, out, tmp_path / "again"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def pets(tmp_path):
    """A tree of the Oxford-IIIT Pet data set with two images a split."""
    folder = tmp_path / "pets"
    for kind in ("images", "annotations/trimaps"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, names in {"trainval": ("Birman_1", "pug_2"), "test": ("Birman_3", "pug_4")}.items():
        (folder / "annotations" / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
        for name in names:
            Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(folder / f"images/{name}.jpg")
            trimap = np.resize(np.array([1, 2, 3], dtype=np.uint8), (40, 56))
            Image.fromarray(trimap).save(folder / f"annotations/trimaps/{name}.png")
    return folder


def test_a_benchmark_of_ones_own_is_a_value_of_every_command(tmp_path, pets):
    given = ["--data-dir", pets, "--plugin", PLUGINS / "oxford_pets.py"]
    named = ["--benchmark", "oxford_pets", *given]
    out = tmp_path / "out"
    commands = [
        ["train", write_recipe(tmp_path), "--output-dir", out, *named],
        ["evaluate", out, *named, "--split", "test", "--out", tmp_path / "scores.json", "--update-card"],
        ["explore", out, *named, "--out", tmp_path / "inside"],
        ["prepare", "oxford_pets", *given, "--out", tmp_path / "parquet"],
    ]
    run_process(run_commands, tmp_path, *commands)
    card = (out / "README.md").read_text()
    assert "Oxford-IIIT Pet" in card
    assert "license_name: oxford-pets-terms" in card
    assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "background", "1": "pet"}
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["mean_iou"] > 0
    assert (tmp_path / "inside" / "report.html").is_file()
    assert (tmp_path / "parquet" / "README.md").is_file()


def train_with_aerial(folder, recipe, start_method):
    """Train with workers that a start method makes."""
    import torch

    torch.multiprocessing.set_start_method(start_method, force=True)
    run_commands(folder, ["train", recipe, "--output-dir", folder / "out"])


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_transform_of_ones_own_runs_in_the_workers(tmp_path, start_method):
    plugin = [str(PLUGINS / "aerial.py")]
    recipe = write_recipe(tmp_path, transform="aerial", plugin=plugin, num_workers=1, crop_size=[96, 128])
    run_process(train_with_aerial, tmp_path, recipe, start_method)
    assert "| transform | aerial |" in (tmp_path / "out" / "README.md").read_text()
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) > 1
