import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from short_runs import leave_out_pictures, use_few_scenes
from transformers import AutoImageProcessor

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.cli import main
from cmdl_hf.data import EvalTransform, SegmentationDataset, TrainTransform, load_synthetic
from cmdl_hf.diagnostics import cosine_within_class, effective_number
from cmdl_hf.evaluation import evaluate, read_counts
from cmdl_hf.inference import whole_image_logits
from cmdl_hf.metrics import SegmentationMetrics
from cmdl_hf.training import CMDLTrainingArguments, run, save, train, training_run
from cmdl_hf.training.optimization import make_optimizer


@pytest.fixture(scope="module")
def scenes():
    return load_synthetic(num_train=8, num_validation=2, num_test=3, size=(64, 64), num_labels=5)


def make_args(**overrides):
    settings = {"max_steps": 12, "total_batch_size": 4, "learning_rate": 0.05, "num_workers": 0, "logging_steps": 1}
    return CMDLTrainingArguments(**(settings | overrides))


@pytest.mark.parametrize("use_distributions", [True, False])
def test_the_loss_falls_and_the_bank_moves(make_model, scenes, use_distributions):
    model = make_model(use_distributions=use_distributions)
    rows = train(model, scenes["train"], TrainTransform((64, 64), (1, 1)), make_args())
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert sum(row["loss"] for row in rows[-3:]) < 0.8 * sum(row["loss"] for row in rows[:3])
    for row in rows:
        parts = sum(value for name, value in row.items() if name.endswith("_loss"))
        assert parts == pytest.approx(row["loss"], rel=1e-4)
    if use_distributions:
        assert model.memory_bank.num_updates.sum() > 0


def test_the_learning_rate_falls_by_a_polynomial_counted_in_steps(make_model, scenes):
    args = make_args(learning_rate=0.1, min_learning_rate=0.02, power=2.0)
    rows = train(make_model(), scenes["train"], TrainTransform((64, 64)), args)
    expected = [0.02 + 0.08 * (1 - step / 12) ** 2 for step in range(12)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)


def test_the_same_seed_gives_the_same_weights(make_model, scenes):
    weights = []
    for memory_format in (False, False, True):
        torch.manual_seed(3)
        model = make_model(dropout=0.0)
        train(
            model, scenes["train"], TrainTransform((64, 64)), make_args(max_steps=3, use_channels_last=memory_format)
        )
        weights.append(model.decode_head[-1].weight.detach())
    assert torch.equal(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2], atol=1e-3, rtol=1e-2)  # another order of the sums


def test_heads_learn_faster_and_norms_and_biases_do_not_decay(make_model):
    model = make_model()
    optimizer = make_optimizer(model, make_args(learning_rate=0.1, head_learning_rate_factor=10, weight_decay=0.5))
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(settings) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate = 0.1 if name.startswith("backbone.") else 1.0
        decay = 0.0 if parameter.dim() == 1 or "norm" in name else 0.5
        assert settings[id(parameter)] == (rate, decay), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"total_batch_size": 0}, "total_batch_size"),
        ({"min_learning_rate": 0.5}, r"min_learning_rate must lie in \[0, 0.05\)"),
        ({"momentum": 1.0}, "momentum"),
        ({"head_learning_rate_factor": 0}, "head_learning_rate_factor"),
    ],
)
def test_impossible_recipes_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        make_args(**overrides)


def test_evaluation_scores_at_the_labels_size_and_leaves_the_model_as_it_was(make_model, scenes):
    model = make_model().train()
    scores = evaluate(model, scenes["test"], EvalTransform(resize=(32, 32)), num_labels=5)
    assert model.training
    model.eval()
    metrics = SegmentationMetrics(5)
    for sample in scenes["test"].with_transform(EvalTransform(resize=(32, 32))):
        assert sample["pixel_values"].shape == (3, 32, 32)
        assert sample["labels"].shape == (64, 64)
        logits = whole_image_logits(model, sample["pixel_values"][None], (64, 64))
        metrics.update(logits.argmax(dim=1)[0], sample["labels"])
    assert scores["per_class_iou"] == pytest.approx(metrics.compute()["per_class_iou"], nan_ok=True)


def test_whole_image_logits_are_enlarged_once_to_the_size_asked(make_model):
    model = make_model().eval()
    pixel_values = torch.randn(2, 3, 64, 96)
    logits = model(pixel_values).logits
    for size in (None, (50, 33)):
        expected = torch.nn.functional.interpolate(logits, size or (64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(whole_image_logits(model, pixel_values, size), expected)


RECIPE = """
benchmark: synthetic
crop_size: [64, 96]
backbone: resnet18
hidden_size: 16
attention_size: 8
total_batch_size: 4
max_steps: 9
num_workers: 0
"""


class TestCommandLine:
    @pytest.fixture
    def recipe(self, tmp_path, monkeypatch):
        use_few_scenes(monkeypatch.setattr)
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        return tmp_path / "recipe.yaml"

    def test_a_recipe_and_flags_train_and_save_a_model(self, recipe, tmp_path, capsys):
        flags = ["--max-steps", "2", "--framework", "pspnet", "--no-distributions"]
        main(["train", str(recipe), "--output-dir", str(tmp_path / "out"), *flags])
        assert "test: mean IoU" in capsys.readouterr().out
        model = CMDLForSemanticSegmentation.from_pretrained(tmp_path / "out")
        assert model.config.context_module == "ppm"
        assert not model.config.use_distributions
        assert model.config.hidden_size == 16
        assert model.config.palette == load_synthetic(1, 1, 1).palette
        scores = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert scores.keys() == {"validation", "test"}
        for split, counts in read_counts(tmp_path / "out" / "scores.npz").items():
            correct, union = counts.stacked.sum(axis=0)
            assert np.nanmean(correct / union) == pytest.approx(scores.pop(split)["mean_iou"])
            assert counts.protocol == "whole, original size"
        assert not scores

    def test_an_evaluation_says_how_different_the_distributions_of_a_class_are(self, recipe, tmp_path):
        main(["train", str(recipe), "--output-dir", str(tmp_path / "out"), "--max-steps", "2", "--no-test-split"])
        row = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
        bank = CMDLForSemanticSegmentation.from_pretrained(tmp_path / "out" / "last").memory_bank
        measures = {"cosine_within_class": cosine_within_class, "distinct_distributions": effective_number}
        for name, measure in measures.items():
            assert row[name] == pytest.approx(float(measure(bank.prototypes).mean()), abs=1e-5)
        for name in ("agreement", "chance_agreement", "posterior_entropy"):
            assert 0 < row[name] <= 1

    @pytest.mark.parametrize(
        ("line", "flags", "message"),
        [
            ("max_stps: 3", [], "Did you mean\n--max-steps?"),
            ("max_steps: many", [], "max_steps"),
            ("", ["--learning-rat", "0.1"], "--learning-rate"),
            ("", ["--framework", "unet"], "framework"),
            ("power: -1", [], "power must be at least 0"),
            ("", ["--backbone", "resnet19"], "backbone='resnet19' is no architecture of timm"),
            ("", ["--output-stride", "7"], "output_stride=7"),
            ("", ["--hidden-size", "0"], "hidden_size must be at least 1"),
            ("", ["--benchmark", "camvid"], "give --data-dir"),
            ("", ["--benchmark", "own", "--data-dir", "."], "give --id2label"),
            ("", ["--benchmark", "camvid", "--data-dir", "."], "trainannot"),
        ],
    )
    def test_mistakes_name_the_key_and_write_nothing(self, recipe, tmp_path, capsys, line, flags, message):
        recipe.write_text(RECIPE.replace("max_steps: 9", line or "max_steps: 9"))
        with pytest.raises(SystemExit) as stopped:
            main(["train", str(recipe), "--output-dir", str(tmp_path / "out"), *flags])
        printed = " ".join((capsys.readouterr().err + str(stopped.value)).replace("│", " ").split())
        assert " ".join(message.split()) in printed
        assert not (tmp_path / "out").exists()

    def test_the_recipe_that_a_run_leaves_repeats_it(self, recipe, tmp_path, monkeypatch):
        runs = []
        monkeypatch.setattr("cmdl_hf.training.run", lambda args, *_, **__: runs.append(args) or {})
        flags = ["--output-stride", "none", "--compile", "--report-to", "tensorboard", "wandb", "--ema-decay", "0.9"]
        main(["train", str(recipe), "--no-distributions", *flags])
        (tmp_path / "again.yaml").write_text(yaml.safe_dump(runs[0].to_recipe()))
        main(["train", str(tmp_path / "again.yaml")])
        assert runs[0] == runs[1]
        assert (runs[1].use_distributions, runs[1].use_compile, runs[1].output_stride) == (False, True, None)

    def test_a_missing_recipe_is_an_error(self, tmp_path):
        with pytest.raises(SystemExit) as stopped:
            main(["train", str(tmp_path / "no.yaml"), "--output-dir", str(tmp_path / "out")])
        assert "no.yaml" in str(stopped.value)

    def test_a_file_as_output_folder_is_refused_at_once(self, recipe, tmp_path):
        with pytest.raises(SystemExit) as stopped:
            main(["train", str(recipe), "--output-dir", str(recipe)])
        assert "is a file" in str(stopped.value)

    def test_a_model_that_cannot_be_scored_is_saved_all_the_same(self, recipe, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise RuntimeError("out of memory")

        monkeypatch.setattr("cmdl_hf.training.scoring.evaluate", fail)
        with pytest.raises(RuntimeError):
            main(["train", str(recipe), "--output-dir", str(tmp_path / "out"), "--max-steps", "1"])
        CMDLForSemanticSegmentation.from_pretrained(tmp_path / "out" / "last")

    def test_a_folder_with_files_is_kept(self, recipe, tmp_path):
        with pytest.raises(SystemExit) as stopped:
            main(["train", str(recipe), "--output-dir", str(tmp_path)])
        assert "not empty" in str(stopped.value)


def test_the_saved_processor_prepares_images_as_the_evaluation_did(tmp_path, make_model):
    (sample,) = load_synthetic(0, 0, 1, size=(90, 120))["test"]
    for resize in (None, (45, 60)):
        save(make_model(), tmp_path, make_args(resize=resize))
        processor = AutoImageProcessor.from_pretrained(tmp_path)
        expected = EvalTransform(resize)({name: [value] for name, value in sample.items()})["pixel_values"][0]
        actual = processor(sample["image"], return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(actual, expected, atol=0.02 if resize else 1e-5, rtol=0)


def test_a_validation_split_without_labelled_pixels_chooses_nothing(tmp_path, scenes, monkeypatch, caplog):
    leave_out_pictures(monkeypatch.setattr)
    void = scenes["validation"].map(lambda sample: {"label": Image.new("L", (64, 64), 255)})
    monkeypatch.setattr(
        "cmdl_hf.training.running.load_data",
        lambda *_: SegmentationDataset(scenes | {"validation": void}, scenes.label_table),
    )
    args = make_args(backbone="mobilenetv3_small_050", output_stride=16, hidden_size=16, attention_size=8, max_steps=4)
    args.crop_size, args.eval_steps = (64, 64), 2
    scores = run(args, tmp_path / "run")
    assert scores.keys() == {"test"}
    assert "no labelled pixel" in caplog.text
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["best_step"], facts["best_metric"]) == (4, None)


@pytest.mark.parametrize(("patience", "steps"), [(1, 4), (3, 8), (None, 10)])
def test_a_training_without_patience_ends_before_its_last_step(tmp_path, scenes, monkeypatch, patience, steps):
    leave_out_pictures(monkeypatch.setattr)
    monkeypatch.setattr("cmdl_hf.training.running.load_data", lambda *_: scenes)
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])  # the first is the best
    score = training_run.score

    def score_worse(*args):
        found, counts = score(*args)
        return found | {"mean_iou": next(scores)}, counts

    monkeypatch.setattr(training_run, "score", score_worse)
    args = make_args(backbone="mobilenetv3_small_050", output_stride=16, hidden_size=16, attention_size=8)
    args = dataclasses.replace(args, crop_size=(64, 64), max_steps=10, eval_steps=2, patience=patience)
    assert run(args, tmp_path / "run").keys() == {"validation", "test"}
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["is_finished"], facts["steps"], facts["best_step"]) == (True, steps, 2)
    shown = f"{steps} of 10" if patience else "10"
    assert f"| optimiser steps | {shown} |" in (tmp_path / "run" / "README.md").read_text()


def test_patience_needs_something_to_wait_for(tmp_path, scenes, monkeypatch):
    train_only = SegmentationDataset({"train": scenes["train"]}, scenes.label_table)
    monkeypatch.setattr("cmdl_hf.training.running.load_data", lambda *_: train_only)
    args = make_args(backbone="mobilenetv3_small_050", output_stride=16, hidden_size=16, attention_size=8, patience=1)
    with pytest.raises(ValueError, match="patience needs a validation split with labels"):
        run(args, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_can_leave_the_test_split_alone(tmp_path, scenes, monkeypatch):
    leave_out_pictures(monkeypatch.setattr)
    monkeypatch.setattr("cmdl_hf.training.running.load_data", lambda *_: scenes)
    args = make_args(backbone="mobilenetv3_small_050", output_stride=16, hidden_size=16, attention_size=8, max_steps=2)
    args.crop_size, args.use_test_split = (64, 64), False
    assert run(args, tmp_path / "run").keys() == {"validation"}
