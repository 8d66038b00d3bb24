"""Scores that are there are replaced by the same evaluation alone; default names tell data and models apart."""

import json
from pathlib import Path

import pytest

from cmdl_hf.cli.options import DataOptions, name_of_data, name_of_model
from cmdl_hf.evaluation.earlier import check_earlier

FACTS = {
    "model": "outputs/mine",
    "benchmark": "own",
    "split": "validation",
    "data_folder": "leaves",
    "image_ids": "1a",
    "protocol": {"name": "whole", "resize": (360, 480)},
    "mixed_precision": "no",
}


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(FACTS | {"scores": {"mean_iou": 0.5}}))
    return path


@pytest.mark.parametrize("model", ["outputs/mine", "outputs/mine/"])
def test_the_same_evaluation_replaces_its_scores(out, model):
    check_earlier(out, FACTS | {"model": model})


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("model", "outputs/other", "model"),
        ("split", "test", "split"),
        ("data_folder", "flowers", "folder of the data"),
        ("image_ids", "2b", "images"),
        ("protocol", {"name": "whole", "resize": None}, "protocol"),
    ],
)
def test_other_scores_are_kept(out, name, value, what):
    with pytest.raises(
        FileExistsError, match=f"mine on own, validation, which differ in: {what}; they are kept. Name an"
    ):
        check_earlier(out, FACTS | {name: value})


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_other_files_are_kept(out, text):
    out.write_text(text)
    with pytest.raises(FileExistsError, match="is no file of scores; name another one with --out"):
        check_earlier(out, FACTS)


def test_default_names_tell_models_and_own_data_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("demo/model", "mine/last", "mine", "leaves.v2"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    assert [name_of_model(name) for name in ("demo/model", "mine/last", "mine/", "ORG/NAME")] == [
        "demo-model",
        "mine-last",
        "mine",
        "ORG-NAME",
    ]
    assert name_of_data(DataOptions(benchmark="own", data_dir=Path("leaves.v2")), "test") == "own-leaves.v2-test"
    assert name_of_data(DataOptions(benchmark="own", data_dir=Path("mine/pairs.csv")), "train") == "own-pairs-train"
    assert name_of_data(DataOptions(benchmark="camvid", data_dir=Path("mine")), "test") == "camvid-test"
