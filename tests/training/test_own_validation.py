"""Runs on own data without a validation split."""

import dataclasses
import json
import logging

import pytest
from own_data import write_flat_data
from short_runs import leave_out_pictures

from cmdl_hf.training import CMDLTrainingArguments, run, training_run

ARGS = CMDLTrainingArguments(
    benchmark="own",
    crop_size=(32, 32),
    backbone="mobilenetv3_small_050",
    output_stride=16,
    hidden_size=8,
    attention_size=8,
    max_steps=2,
    total_batch_size=2,
    num_workers=0,
)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train on ten flat pairs; keywords change the recipe. Returns the facts of the run and its scores."""
    leave_out_pictures(monkeypatch.setattr)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_flat_data(tmp_path)

    def train(name="run", **changes):
        args = dataclasses.replace(ARGS, **changes)
        scores = run(args, tmp_path / name, tmp_path / "own", tmp_path / "classes.txt")
        return json.loads((tmp_path / name / "run.json").read_text()), scores

    return train


@pytest.fixture
def interrupted(train, tmp_path, monkeypatch):
    """Leave a run that ended just before its last scores; returns its facts."""

    def interrupt(**changes):
        def stop(_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(training_run.TrainingRun, "finish", stop)
            with pytest.raises(KeyboardInterrupt):
                train(**changes)
        return json.loads((tmp_path / "run/run.json").read_text())

    return interrupt


def test_a_fifth_is_set_apart_whatever_the_seed_and_stands_in_the_folder(train, tmp_path, caplog):
    facts, scores = train()
    assert scores.keys() == {"validation"}
    assert facts["num_images"] == {"train": 8, "validation": 2}
    ids = (tmp_path / "run/validation_ids.txt").read_text().split()
    assert facts["set_apart"] == {"fraction": 0.2, "num_images": 2, "ids": facts["data"]["splits"]["validation"]}
    assert "2 of its 10 training images (20 %) are set apart for validation" in caplog.text
    card = (tmp_path / "run/README.md").read_text()
    assert "| validation | 2 images, set apart from the training images (20 %) |" in card
    again, _ = train("again", seed=7)
    assert again["data"]["splits"] == facts["data"]["splits"]
    assert (tmp_path / "again/validation_ids.txt").read_text().split() == ids
    assert len(ids) == 2


def test_without_validation_the_last_model_is_the_result(train, tmp_path, caplog):
    facts, scores = train(use_validation=False)
    assert scores == {}
    assert (facts["num_images"], facts["best_step"], facts["best_metric"]) == ({"train": 10}, 2, None)
    assert facts["set_apart"] is None
    assert not (tmp_path / "run/validation_ids.txt").exists()
    assert "training without validation: the last model is the result" in caplog.text
    card = (tmp_path / "run/README.md").read_text()
    assert "| validation | none |" in card
    assert "No validation split chose it: it is the model of the last step" in card


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_images(interrupted, train):
    facts = interrupted(validation_fraction=0.3)
    with pytest.raises(FileExistsError, match=r"validation_fraction was 0\.3 and is now 0\.2"):
        train()
    finished, _ = train(validation_fraction=0.3)
    assert finished["data"] == facts["data"]
    assert finished["is_finished"]


@pytest.mark.slow
@pytest.mark.parametrize("has_digests", [True, False])
def test_a_run_of_an_earlier_version_goes_on_without_validation(interrupted, train, tmp_path, caplog, has_digests):
    facts = interrupted(use_validation=False)
    for name in ("validation", "validation_fraction", "merge_classes"):
        del facts["recipe"][name]
    for name in ("set_apart", "merged_classes", *(() if has_digests else ("data",))):
        del facts[name]
    (tmp_path / "run/run.json").write_text(json.dumps(facts))
    finished, scores = train()
    assert (finished["num_images"], finished["is_finished"], scores) == ({"train": 10}, True, {})
    assert "this run began without a validation split, and goes on so" in caplog.text


def test_classes_are_merged_by_a_file_that_the_run_keeps(train, tmp_path, caplog):
    (tmp_path / "mine.csv").write_text("from,to\nleaf,plant\nroot,plant\n")
    with caplog.at_level(logging.INFO, logger="cmdl_hf"):
        facts, scores = train(merge_classes=str(tmp_path / "mine.csv"))
    assert facts["recipe"]["merge_classes"] == "mine.csv"
    assert facts["merged_classes"] == {"leaf": "plant", "root": "plant"}
    assert facts["data"]["classes"] == ["ground", "plant"]
    assert len(scores["validation"]["per_class_iou"]) == 2
    assert (tmp_path / "run/merged_classes.csv").read_text() == "from,to\nleaf,plant\nroot,plant\n"
    assert "| merged classes | leaf → plant; root → plant |" in (tmp_path / "run/README.md").read_text()
