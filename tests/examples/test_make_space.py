"""The folder of a Space: the app finds its model there, in a clone, or nowhere, and runs it without cmdl_hf."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT_PACKAGE = """
import sys
sys.modules["cmdl_hf"] = None
import models
from PIL import Image
from segmenter import segment
(name,) = models.list_models()
result = segment(*models.load(name), Image.open("images/street_1.jpg"))
print(name, len(result.names))
"""


@pytest.fixture
def make_space(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    module = importlib.import_module("make_space")
    yield module.make_space
    sys.modules.pop("make_space")


@pytest.fixture
def models(monkeypatch):
    """The app's list of models, imported without CMDL_MODEL."""
    monkeypatch.delenv("CMDL_MODEL", raising=False)
    monkeypatch.syspath_prepend(ROOT / "examples" / "space")
    yield importlib.import_module("models")
    for name in ("class_maps", "models", "segmenter"):
        sys.modules.pop(name, None)


def test_in_a_clone_the_app_serves_the_small_model(models):
    assert models.list_models() == ["camvid"]
    model, processor = models.load("camvid")
    assert model.config.id2label[3] == "Road"
    assert processor.size["shortest_edge"] == 360


def test_elsewhere_there_is_no_default(models, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "_HERE", tmp_path)
    monkeypatch.setattr(models, "_CLONE", tmp_path)
    assert models.find_default_model() == ""


def test_a_made_space_serves_its_model_without_the_package(make_space, tmp_path):
    space = tmp_path / "space"
    make_space(space)
    assert (space / "camvid" / "modeling_cmdl.py").is_file()
    assert (space / "camvid" / "model.safetensors").stat().st_size < 11e6
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE],
        cwd=space,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.split() == ["camvid", "11"], done.stderr
    with pytest.raises(FileExistsError, match="is not empty; name a new folder"):
        make_space(space)
