"""The sheet of training images as the transforms of a recipe leave them."""

import numpy as np
import pytest
from PIL import Image
from short_runs import load_few_scenes, use_few_scenes

from cmdl_hf.cli import main
from cmdl_hf.data import TrainingStream, TrainTransform
from cmdl_hf.training import CMDLTrainingArguments, augmented, draw_augmented


@pytest.fixture
def sheets(monkeypatch):
    """The samples of every sheet that is drawn."""
    use_few_scenes(monkeypatch.setattr)
    drawn = []
    draw = augmented.draw_contact_sheet
    monkeypatch.setattr(augmented, "draw_contact_sheet", lambda *args: drawn.append(args[0]) or draw(*args))
    return drawn


def test_the_sheet_shows_what_a_run_reads_first(sheets, tmp_path):
    args = CMDLTrainingArguments(crop_size=(64, 96), rotation=10.0, seed=3)
    ids = draw_augmented(args, tmp_path / "sheet.png")
    transform = TrainTransform((64, 96), args.scale_range, rotation=10.0)
    stream = TrainingStream(load_few_scenes()["train"].with_transform(transform), seed=3)
    (samples,) = sheets
    assert len(ids) == len(samples) == 8
    for place, (id_, image, label) in enumerate(samples):
        assert id_ == ids[place] == stream.sample_id(place)
        assert image.size == label.size == (96, 64)
        assert np.array_equal(np.asarray(label), stream[place]["labels"].numpy())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000


def test_colours_are_those_of_the_image(sheets, tmp_path):
    args = CMDLTrainingArguments(crop_size=(128, 160), scale_range=(1.0, 1.0), color_strength=0.0, use_flip=False)
    draw_augmented(args, tmp_path / "sheet.png")
    scenes = {sample["id"]: sample["image"] for sample in load_few_scenes()["train"]}
    for id_, image, _ in sheets[0]:
        difference = np.asarray(image, dtype=int) - np.asarray(scenes[id_], dtype=int)
        assert abs(difference).max() <= 1


def test_from_the_command_line(sheets, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("benchmark: synthetic\ncrop_size: [32, 48]\n")
    sheet = tmp_path / "new" / "sheet.png"
    main(["check-data", "--augmented", str(tmp_path / "mine.yaml"), "--contact-sheet", str(sheet)])
    assert f"contact sheet: {sheet}" in capsys.readouterr().out
    assert sheet.is_file()
    assert sheets[0][0][1].size == (48, 32)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a data set, to check it, or a recipe with --augmented RECIPE"),
        (["camvid", "--augmented", "camvid"], "name a data set, to check it, or a recipe with --augmented RECIPE"),
        (["--augmented", "nothing"], "there is no recipe nothing"),
        (["--augmented", "camvid"], "give --data-dir"),
    ],
)
def test_mistakes_are_one_message(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["check-data", *words])
    assert message in str(stopped.value)
    assert not list(tmp_path.iterdir())
