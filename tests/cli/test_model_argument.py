"""The model is an argument that can be left out: which arguments are images, and which model is taken then."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cmdl_hf.cli import main
from cmdl_hf.inference import is_input

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of an image below another folder, of a model, and of a training without a model yet."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/summer", "model", "run", "empty"):
        Path(name).mkdir(parents=True)
    Image.effect_noise((64, 48), 90).convert("RGB").save("photos/summer/street.jpg")
    Path("model/config.json").write_text("{}")
    Path("run/recipe.yaml").write_text("benchmark: own")
    for name in ("model", "run"):
        Image.new("RGB", (4, 4)).save(f"{name}/curves.png")
    return tmp_path


@pytest.mark.parametrize(
    "given", ["photos", "photos/summer/street.jpg", "photos/*/*.jpg", "missing.png", "drive.mp4", "photos/**/*"]
)
def test_images_videos_patterns_and_folders_of_them_are_inputs(folder, given):
    assert is_input(given)


@pytest.mark.parametrize("given", ["model", "run", "empty", "missing", "ORG/NAME", "model/config.json"])
def test_all_others_are_models(folder, given):
    assert not is_input(given)


def test_predict_without_a_model_takes_the_small_one_and_says_so(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "photos", "--out", "out"])
    assert not stopped.value.code
    assert "model: street scenes of CamVid, " in capsys.readouterr().err
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["model"] == str(ROOT / "model_cards/camvid")
    assert Path("out/summer/street.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict"], "there is nothing to segment; name image files"),
        (["predict", "run"], "nothing to segment: run holds no images or videos, or is the model; name image files"),
        (
            ["predict", "missing/"],
            "nothing to segment: missing/ is not here, and is taken for a model of the Hub; name",
        ),
        (["predict", "run", "photos"], "run contains no model: it has no config.json"),
        (["predict", "photos", "missing.jpg"], "missing.jpg is no image file, no folder with images"),
    ],
)
def test_what_is_no_input_and_no_model_is_named(folder, words, message):
    with pytest.raises(SystemExit, match=message):
        main(words)


@pytest.mark.parametrize(
    ("words", "module"),
    [(["export"], "export.export_model"), (["explore", "--benchmark", "synthetic"], "explore.explore")],
)
def test_export_and_explore_take_the_small_model(monkeypatch, capsys, words, module):
    taken = []

    def take(model, *rest, **options):
        taken.append(model)
        raise ValueError("stop")

    monkeypatch.setattr(f"cmdl_hf.{module}", take)
    with pytest.raises(SystemExit, match="stop"):
        main(words)
    assert Path(taken[0]).resolve() == ROOT / "model_cards/camvid"
    assert "name another one as the first argument" in capsys.readouterr().err


def test_an_installed_package_asks_for_a_model(monkeypatch, tmp_path):
    shutil.copy(ROOT / "examples/space/images/street_1.jpg", tmp_path)
    monkeypatch.setattr("cmdl_hf.extras._CHECKOUT", tmp_path)
    with pytest.raises(SystemExit, match="no model is named"):
        main(["predict", str(tmp_path / "street_1.jpg"), "--out", str(tmp_path / "out")])
