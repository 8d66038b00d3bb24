"""Training in two processes against one, with gloo on this machine."""

import json
import sys

import pytest
import torch
from process_groups import join, run_processes
from safetensors.torch import load_file, save_file
from short_runs import leave_out_pictures, load_few_scenes, use_few_scenes

from cmdl_hf.cli import main


def _train(rank, num_processes, port, output, model_settings, settings):
    if num_processes > 1:
        join(rank, num_processes, port)
    from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE

    from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
    from cmdl_hf.data import EvalTransform, TrainTransform, load_synthetic
    from cmdl_hf.evaluation import evaluate
    from cmdl_hf.training import CMDLTrainingArguments, train

    torch.manual_seed(0)
    config = CMDLConfig(
        backbone_config=dict(TINY_BACKBONE),
        num_labels=5,
        num_distributions=3,
        hidden_size=16,
        attention_size=8,
        dropout=0.0,
        assignment="argmax",
        **(LIVE_AGGREGATION | model_settings),
    )
    model = CMDLForSemanticSegmentation(config)
    scenes = load_synthetic(num_train=8, num_validation=3, num_test=1, size=(96, 96), num_labels=5)
    args = CMDLTrainingArguments(
        max_steps=4, total_batch_size=4, learning_rate=0.1, num_workers=0, logging_steps=1, **settings
    )
    rows = train(model, scenes["train"], TrainTransform((96, 96)), args)
    scores = evaluate(model, scenes["validation"], EvalTransform(), 5)
    if rank == 0:
        from accelerate import PartialState

        save_file(model.state_dict(), output / f"{num_processes}.safetensors")
        facts = {"num_processes": PartialState().num_processes, "rows": rows, "iou": scores["per_class_iou"]}
        (output / f"{num_processes}.json").write_text(json.dumps(facts))


def train_in(num_processes, output, model_settings, settings):
    run_processes(_train, num_processes, output, model_settings, settings)
    facts = json.loads((output / f"{num_processes}.json").read_text())
    assert facts["num_processes"] == num_processes
    return facts, load_file(output / f"{num_processes}.safetensors")


@pytest.mark.parametrize(
    ("model_settings", "settings"),
    [
        ({}, {}),
        (
            # Weights of 0 leave parameters without gradient, for which the other process would wait in vain.
            {
                "context_module": "ppm",
                "auxiliary_loss_weight": 0.0,
                "prototype_loss_weight": 0.0,
                "contrastive_loss_weight": 0.0,
                "class_margin_loss_weight": 0.0,
            },
            {"max_grad_norm": 1.0, "ema_decay": 0.5},
        ),
    ],
    ids=["all losses", "some losses"],
)
def test_two_processes_learn_what_one_does(tmp_path, capsys, model_settings, settings):
    settings = {"freeze_batch_norm": "all"} | settings
    one, one_weights = train_in(1, tmp_path, model_settings, settings)
    two, two_weights = train_in(2, tmp_path, model_settings, settings)
    differences = {}
    for row, other in zip(one["rows"], two["rows"], strict=True):
        for name in row.keys() - {"images_per_second", "memory_gib"}:
            differences[name] = max(differences.get(name, 0.0), abs(row[name] - other[name]))
    for name, tensor in one_weights.items():
        part = name.split(".")[0] if "prototypes" not in name else "prototypes"
        difference = float((tensor.double() - two_weights[name].double()).abs().max())
        differences[part] = max(differences.get(part, 0.0), difference)
    with capsys.disabled():
        lines = [f"  {name:<24}{difference:9.1e}" for name, difference in sorted(differences.items())]
        sys.stdout.write("\n".join(["\nlargest difference of two processes from one, 4 steps:", *lines, ""]))
    assert one["iou"] == pytest.approx(two["iou"], abs=1e-3, nan_ok=True)
    assert max(differences.values()) < 1e-5


def _run_command(rank, num_processes, port, arguments):
    join(rank, num_processes, port)
    use_few_scenes()
    leave_out_pictures()
    main(["train", "synthetic", *arguments])


def test_the_command_line_trains_scores_and_saves_in_two_processes(tmp_path):
    recipe = {
        "--backbone": "mobilenetv3_small_050",
        "--output-stride": "16",
        "--hidden-size": "16",
        "--attention-size": "8",
        "--total-batch-size": "4",
        "--max-steps": "4",
        "--eval-steps": "2",
        "--num-workers": "0",
        "--memory-start": "data",
        "--ema-decay": "0.5",
    }
    flags = [text for pair in recipe.items() for text in pair] + ["--crop-size", "64", "64"]
    folder = tmp_path / "run"
    run_processes(_run_command, 2, [*flags, "--output-dir", str(folder)])
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["num_processes"], facts["is_finished"], facts["steps"]) == (2, True, 4)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 2, 4, 4]
    # One process scores the model that two processes kept just as they did.
    from cmdl_hf import CMDLForSemanticSegmentation
    from cmdl_hf.data import EvalTransform
    from cmdl_hf.evaluation import evaluate

    model = CMDLForSemanticSegmentation.from_pretrained(folder)
    assert (model.memory_bank.num_updates > 0).any()
    scores = evaluate(model, load_few_scenes()["test"], EvalTransform(), model.config.num_labels)
    saved = json.loads((folder / "scores.json").read_text())
    assert saved["test"]["per_class_iou"] == pytest.approx(scores["per_class_iou"], abs=1e-4)
    assert saved["validation"]["mean_iou"] == pytest.approx(rows[-1]["validation_mean_iou"], abs=0.2)
