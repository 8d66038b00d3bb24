"""Run the study of CMDL on CamVid, one run after the other.

    python examples/camvid_study/study.py fcn pspnet --data-dir CamVid --weights mobilenetv2_100.safetensors

An interrupted run is continued. A run that is in `results.jsonl` is not repeated. All runs share one recipe; the rows
of `GROUPS` contain their differences. Models are chosen on the validation split. Only the final comparison reads the
test split, once for each run. The runs train in bf16 where that is fast, and in float32 elsewhere.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate.utils import is_bf16_available

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.comparison import average_training_loss
from cmdl_hf.data import EvalTransform, load_benchmark
from cmdl_hf.evaluation import ImageCounter, Protocol, describe_protocol, evaluate
from cmdl_hf.files import write_text
from cmdl_hf.hub import write_card
from cmdl_hf.json_files import without_nan
from cmdl_hf.training import CMDLTrainingArguments, bf16_slowdown, run

RESULTS = Path(__file__).with_name("results.jsonl")
COUNTS = Path(__file__).with_name("test_counts")  # counts of each final run, used to resample the test images
STEPS_PER_EPOCH = 46  # 367 images, 8 at a time

BASE: dict[str, Any] = {
    "benchmark": "camvid",
    "resize": (180, 1000),  # 480×360 to 240×180
    "crop_size": (180, 240),
    "backbone": "mobilenetv2_100",
    "backbone_kwargs": {"pad_type": "same"},
    "hidden_size": 256,
    "attention_size": 128,
    "total_batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "min_learning_rate": 1e-6,
    "weight_decay": 0.01,
    "mixed_precision": "bf16",
    "use_channels_last": True,
    "num_workers": 1,
    "logging_steps": 23,
    "save_steps": 2 * STEPS_PER_EPOCH,
    "save_total_limit": 1,
}

CONTROL = {
    "prototype_loss_weight": 0.0,
    "contrastive_loss_weight": 0.0,
    "class_margin_loss_weight": 0.0,
    "is_memory_frozen": True,
    "layer_scale_init_value": 0.0,
}
UNSCALED = {"layer_scale_init_value": None}
REFERENCE_CONTRAST = UNSCALED | {
    "contrastive_loss_weight": 0.05,
    "contrastive_temperature": 1.0,
    "use_memory_fallback": False,
}
CMDL = {
    "contrastive_loss_weight": 0.2,
    "contrastive_temperature": 0.1,
    "use_memory_fallback": True,
    "layer_scale_init_value": 0.0,
}
ASSIGNED = {"contrast_target": "assigned", "intra_class_negative_weight": 0.2}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {"use_distributions": False},
    "control": {"model_options": CONTROL},
    "unscaled": {"model_options": CONTROL | UNSCALED},  # the control in the method's own form
    "reference-contrast": {"model_options": REFERENCE_CONTRAST},
    "cmdl": {"model_options": CMDL},
    "m1": {"model_options": CMDL | {"num_distributions": 1}},
    "assigned": {"model_options": CMDL | ASSIGNED},
    "assigned-votes": {"model_options": CMDL | ASSIGNED | {"voting": "posterior"}},
}


def _ablations() -> dict[str, dict[str, Any]]:
    """Change one setting of CMDL at a time: ten epochs, on validation."""
    options: dict[str, dict[str, Any]] = {
        "m1": {"num_distributions": 1},
        "m3": {"num_distributions": 3},
        "assignment-sample": {"assignment": "sample"},
        "assignment-reference": {"assignment": "reference"},
        "no-momentum-warmup": {"memory_momentum_warmup": 0},
        "temperature-0.3": {"contrastive_temperature": 0.3},
        "no-prototype-loss": {"prototype_loss_weight": 0.0},
        "no-contrastive-loss": {"contrastive_loss_weight": 0.0},
        "no-class-margin-loss": {"class_margin_loss_weight": 0.0},
    }
    runs = {name: ARMS[name] for name in ("plain", "reference-contrast", "cmdl")}
    runs |= {name: {"model_options": CMDL | fields} for name, fields in options.items()}
    runs["memory-start-data"] = ARMS["cmdl"] | {"memory_start": "data"}
    return {f"ablation-{name}": fields | {"epochs": 10} for name, fields in runs.items()}


def _arms(framework: str, arms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Make the final comparison: three seeds, twenty epochs, and the test split."""
    return {
        f"{framework}-{arm}-seed{seed}": ARMS[arm]
        | {"framework": framework, "seed": seed, "epochs": 20, "is_final": True}
        for seed in range(3)
        for arm in arms
    }


def _full_size() -> dict[str, dict[str, Any]]:
    """Make the comparison at 480×360 over a hundred epochs, for a GPU."""
    settings: dict[str, Any] = {
        "resize": None,
        "crop_size": (360, 480),
        "epochs": 100,
        "num_workers": 8,
        "is_final": True,
    }
    networks: dict[str, dict[str, Any]] = {
        "mobilenetv2": {},
        "resnet50": {"backbone": "resnet50", "backbone_kwargs": None, "is_from_scratch": True},
    }
    return {
        f"full_{network}-{arm}-seed{seed}": ARMS[arm] | settings | fields | {"seed": seed}
        for network, fields in networks.items()
        for seed in range(3)
        for arm in ("plain", "control", "cmdl")
    }


GROUPS = {
    "fcn": _arms("fcn", ("plain", "control", "unscaled", "cmdl")),
    "pspnet": _arms("pspnet", ("plain", "control", "cmdl")),
    "distinct": _arms("fcn", ("assigned", "assigned-votes", "m1")),
    "ablations": _ablations(),
    "full-size": _full_size(),
}
RUNS = {name: fields for group in GROUPS.values() for name, fields in group.items()}
OF_NO_RECIPE = ("epochs", "is_final", "is_from_scratch")


def make_recipe(fields: dict[str, Any]) -> CMDLTrainingArguments:
    """Complete the recipe of a run."""
    own = {name: value for name, value in fields.items() if name not in OF_NO_RECIPE}
    epochs = fields["epochs"]
    eval_steps = min(epochs, 4) * STEPS_PER_EPOCH
    return CMDLTrainingArguments(
        **(BASE | own), max_steps=epochs * STEPS_PER_EPOCH, eval_steps=eval_steps, use_test_split=False
    )


def choose_precision(folder: Path, asked: str | None = None) -> str:
    """Choose the mixed precision of a run: what was asked for, else that of an interrupted run in its folder.

    A new run takes bf16 where that is fast, and float32 (`"no"`) elsewhere.
    """
    if asked is not None:
        return asked
    if (recipe := folder / "recipe.yaml").is_file():
        return yaml.safe_load(recipe.read_text())["mixed_precision"]
    if torch.accelerator.is_available():
        return "bf16" if is_bf16_available() else "no"
    return "bf16" if bf16_slowdown() <= 1 else "no"


def read_results() -> dict[str, dict[str, Any]]:
    """Read the rows of the finished runs, by name."""
    if not RESULTS.is_file():
        return {}
    return {row["name"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}


@torch.no_grad()
def score_test(folder: Path, data_dir: Path, resize: tuple[int, int] | None) -> tuple[dict[str, Any], np.ndarray]:
    """Score a model on the test split, in float32.

    Returns:
        The scores, and pixel counts (images, 2, K): intersection and union of each class in each image.
    """
    dataset = load_benchmark("camvid", data_dir)
    model = CMDLForSemanticSegmentation.from_pretrained(folder)
    model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    counter = ImageCounter(dataset.num_labels)
    transform = EvalTransform(resize)
    scores = evaluate(model, dataset["test"], transform, dataset.num_labels, on_prediction=counter)
    counts = counter.collect(describe_protocol(Protocol("whole", resize), "no"))
    return scores, counts.stacked.astype(np.int32)


def main() -> None:
    """Train the runs that are not in the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = GROUPS | {name: {name: fields} for name, fields in RUNS.items()}
    parser.add_argument(
        "runs",
        nargs="+",
        choices=names,
        metavar="RUN",
        help=f"groups of runs, in this order: {', '.join(GROUPS)}; or single runs",
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--weights", type=Path, required=True, help="timm's weights of the backbone, safetensors")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/camvid_study"), help="folder of the runs")
    parser.add_argument(
        "--mixed-precision", choices=("bf16", "no"), help="default: bf16 where that is fast, no (float32) elsewhere"
    )
    options = parser.parse_args()
    for name, fields in (item for group in options.runs for item in names[group].items()):
        if name in read_results():
            print(f"{name} is already in {RESULTS.name}")
            continue
        print(f"\n{name}", flush=True)
        folder = options.output_dir / name
        precision = choose_precision(folder, options.mixed_precision)
        if precision != BASE["mixed_precision"]:  # rows without it are of runs in bf16
            fields = fields | {"mixed_precision": precision}
        args = make_recipe(fields)
        weights = None if fields.get("is_from_scratch") else options.weights
        scores = run(args, folder, options.data_dir, weights=weights)
        if scores is None:
            return  # stopped by a signal; the next call continues the run
        facts = json.loads((folder / "run.json").read_text())
        if fields.get("is_final"):
            scores["test"], counts = score_test(folder, options.data_dir, args.resize)
            write_text(folder / "scores.json", json.dumps(without_nan(scores), indent=2))
            write_card(folder)
            COUNTS.mkdir(exist_ok=True)
            np.savez_compressed(COUNTS / f"{name}.npz", counts=counts)
        found = {key: facts[key] for key in ("seconds", "best_step")}
        found |= {"training_loss": average_training_loss(folder), "scores": scores}
        with RESULTS.open("a") as file:
            file.write(json.dumps({"name": name, **fields, **found}) + "\n")


if __name__ == "__main__":
    main()
