"""A folder such as a training run leaves it, made by hand."""

import json
import math

import yaml

from cmdl_hf import make_image_processor
from cmdl_hf.training import CMDLTrainingArguments

SCORES = {
    "mean_iou": 0.6123,
    "per_class_iou": [0.9, 0.8, 0.1234, math.nan, 0.62],
    "mean_accuracy": 0.7,
    "per_class_accuracy": [0.95, 0.85, 0.25, math.nan, 0.75],
    "overall_accuracy": 0.91,
    "frequency_weighted_iou": 0.84,
    "mean_dice": 0.71,
    "per_class_dice": [0.9, 0.8, 0.2, math.nan, 0.7],
}
TEST_SCORES = SCORES | {"mean_iou": 0.5432, "per_class_iou": [0.8, 0.7, 0.1111, math.nan, 0.5]}
FACTS = {
    "is_finished": True,
    "steps": 800,
    "max_steps": 800,
    "best_step": 720,
    "best_metric": "mean_iou",
    "num_processes": 2,
    "device": "cuda",
    "mixed_precision": "bf16",
    "seconds": 5400.0,
    "num_images": {"train": 367, "validation": 101, "test": 233},
    "weights": "resnet18.safetensors",
    "versions": {"cmdl_hf": "0.1.0", "torch": "2.15.0"},
}
LEFT_AT_HOME = ("checkpoints/step-8/model.safetensors", "runs/events", ".secret", "metrics.jsonl.tmp", "last/.hidden")


def save_model(folder, model):
    model.save_pretrained(folder)
    make_image_processor().save_pretrained(folder)


def make_run_folder(folder, model, scores=None, facts=FACTS, **recipe):
    """Write the run's files; keywords go into the recipe."""
    save_model(folder, model)
    save_model(folder / "last", model)
    args = CMDLTrainingArguments(**{"benchmark": "camvid", "max_steps": 800, "resize": (360, 480)} | recipe)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(args.to_recipe()))
    (folder / "run.json").write_text(json.dumps(facts | {"recipe": args.to_recipe()}))
    if scores:
        (folder / "scores.json").write_text(json.dumps(scores))
    for name in ("curves.png", "predictions.png", "metrics.jsonl", *LEFT_AT_HOME):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"bytes of " + name.encode())
    return folder
