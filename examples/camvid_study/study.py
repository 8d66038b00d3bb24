"""What CMDL brings on CamVid: every run of the study, one after the other.

    python examples/camvid_study/study.py pilot arms --data-dir CamVid --weights mobilenetv2_100.safetensors

A run that was interrupted goes on where it was, and one that is in `results.jsonl` is not repeated. All runs share one
recipe and differ in what their row of `GROUPS` says. Models are chosen on the validation split; only the arms that are
compared at the end read the test split, once each.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cpu_depthwise import replace_dilated_depthwise
from torch import Tensor

from cmdl_hf import CMDLAttention, CMDLForSemanticSegmentation
from cmdl_hf.data import load_benchmark
from cmdl_hf.data.transforms import EvalTransform
from cmdl_hf.evaluation import Prediction, evaluate
from cmdl_hf.training import run
from cmdl_hf.training_args import CMDLTrainingArguments

RESULTS = Path(__file__).with_name("results.jsonl")
COUNTS = Path(__file__).with_name("test_counts")  # of each final run, by which test images are drawn again and again
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
    "weight_decay": 1e-4,
    "learning_rate": 0.005,  # of the pilot runs the best, with and without CMDL
    "head_learning_rate_factor": 10.0,
    "mixed_precision": "bf16",
    "use_channels_last": True,
    "num_workers": 1,
    "logging_steps": 23,
    "save_steps": 2 * STEPS_PER_EPOCH,
    "save_total_limit": 1,
}

NO_MEMORY_LOSSES = {
    "prototype_loss_weight": 0.0,
    "contrastive_loss_weight": 0.0,
    "class_margin_loss_weight": 0.0,
}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.01, "min_learning_rate": 1e-6}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {"use_distributions": False},
    "control": {"model_options": NO_MEMORY_LOSSES | {"is_memory_frozen": True}},
    "cmdl": {},
}


def _pilot() -> dict[str, dict[str, Any]]:
    """Optimisers and learning rates, four epochs, on validation."""
    sgd = {
        f"lr{rate}-head{factor:g}": {"learning_rate": rate, "head_learning_rate_factor": factor}
        for rate, factor in ((0.02, 1.0), (0.01, 10.0), (0.005, 10.0), (0.002, 10.0), (0.005, 20.0))
    }
    adamw = {
        f"adamw-lr{rate}-head{factor:g}": ADAMW | {"learning_rate": rate, "head_learning_rate_factor": factor}
        for rate, factor in ((0.0005, 4.0), (0.001, 1.0), (0.0002, 10.0))
    }
    return {
        f"pilot-{arm}-{name}": ARMS[arm] | fields | {"epochs": 4}
        for name, fields in (sgd | adamw).items()
        for arm in ("plain", "cmdl")
    }


def _arms() -> dict[str, dict[str, Any]]:
    """The three arms, three seeds, 20 epochs."""
    return {
        f"fcn-{arm}-seed{seed}": fields | {"seed": seed, "epochs": 20, "is_final": True}
        for seed in range(3)
        for arm, fields in ARMS.items()
    }


def _ablations() -> dict[str, dict[str, Any]]:
    """One thing changed at a time, ten epochs, on validation."""
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "zero-start": {"fusion_init": "zero"},
        "temperature-0.1": {"contrastive_temperature": 0.1},
        "assignment-sample": {"assignment": "sample"},
        "assignment-reference": {"assignment": "reference"},
        "no-momentum-warmup": {"memory_momentum_warmup": 0},
        "m1": {"num_distributions": 1},
        "m3": {"num_distributions": 3},
        "no-prototype-loss": {"prototype_loss_weight": 0.0},
        "no-contrastive-loss": {"contrastive_loss_weight": 0.0},
        "no-class-margin-loss": {"class_margin_loss_weight": 0.0},
        "temperature-0.3": {"contrastive_temperature": 0.3},
        "contrastive-weight-0.01": {"contrastive_loss_weight": 0.01},
        "contrastive-weight-0.2": {"contrastive_loss_weight": 0.2},
    }
    runs: dict[str, dict[str, Any]] = {f"ablation-{arm}": dict(ARMS[arm]) for arm in ("plain", "control")}
    runs |= {f"ablation-{name}": {"model_options": fields} for name, fields in options.items()}
    runs["ablation-memory-start-data"] = {"memory_start": "data"}
    return {name: fields | {"epochs": 10} for name, fields in runs.items()}


def _search() -> dict[str, dict[str, Any]]:
    """What the ablations, and a look inside their models, suggest for a gain: ten epochs, on validation."""
    runs: dict[str, dict[str, Any]] = {
        "temperature-0.1-weight-1": _contrast(0.1, 1.0),
        "no-attention": {"has_attention": False},
        "temperature-0.1-weight-0.2": _contrast(0.1, 0.2),
    }
    return {f"search-{name}": fields | {"epochs": 10} for name, fields in runs.items()}


def _contrast(temperature: float, weight: float) -> dict[str, Any]:
    return {"model_options": {"contrastive_temperature": temperature, "contrastive_loss_weight": weight}}


GROUPS = {"pilot": _pilot(), "arms": _arms(), "ablations": _ablations(), "search": _search()}


def make_recipe(fields: dict[str, Any]) -> CMDLTrainingArguments:
    """Complete the recipe of a run."""
    own = {name: value for name, value in fields.items() if name not in ("epochs", "is_final", "has_attention")}
    epochs = fields["epochs"]
    eval_steps = min(epochs, 4) * STEPS_PER_EPOCH
    return CMDLTrainingArguments(
        **(BASE | own), max_steps=epochs * STEPS_PER_EPOCH, eval_steps=eval_steps, use_test_split=False
    )


class SkippedAttention(CMDLAttention):
    """An attention that hands on what was voted for each pixel, as it is."""

    def forward(self, query_features: Tensor, key_features: Tensor) -> Tensor:
        """Return the second map, (B, C, h, w)."""
        return key_features


def prepare_model(model: CMDLForSemanticSegmentation, fields: dict[str, Any]) -> None:
    """Make of the network what the row of a run says and no recipe can."""
    replace_dilated_depthwise(model)
    if not fields.get("has_attention", True):
        model.semantic_aggregation.attention.__class__ = SkippedAttention


def read_results() -> dict[str, dict[str, Any]]:
    """Read the rows of the runs that are finished, by name."""
    if not RESULTS.is_file():
        return {}
    return {row["name"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}


@torch.no_grad()
def score_test(folder: Path, data_dir: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Score a model on the test split, in float32.

    Returns:
        The scores, and (images, 2, K) pixels: the intersection and the union of each class in each image.
    """
    dataset = load_benchmark("camvid", data_dir)
    model = CMDLForSemanticSegmentation.from_pretrained(folder)
    counts = []

    def count(prediction: Prediction) -> None:
        assert prediction.labels is not None
        is_valid = prediction.labels != 255
        predicted, true = (
            F.one_hot(ids[is_valid].long(), dataset.num_labels).bool()
            for ids in (prediction.class_ids, prediction.labels)
        )
        counts.append(torch.stack([(predicted & true).sum(dim=0), (predicted | true).sum(dim=0)]))

    transform = EvalTransform(BASE["resize"])
    scores = evaluate(model, dataset["test"], transform, dataset.num_labels, on_prediction=count)
    return scores, torch.stack(counts).numpy().astype(np.int32)


def main() -> None:
    """Train what is not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = GROUPS | {name: {name: fields} for group in GROUPS.values() for name, fields in group.items()}
    parser.add_argument(
        "runs",
        nargs="+",
        choices=names,
        metavar="RUN",
        help=f"what to run, in this order: {', '.join(GROUPS)}, or one run",
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--weights", type=Path, required=True, help="timm's weights of the backbone, safetensors")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/camvid_study"), help="folder of the runs")
    options = parser.parse_args()
    for name, fields in (item for group in options.runs for item in names[group].items()):
        if name in read_results():
            continue
        print(f"\n{name}", flush=True)
        args = make_recipe(fields)
        folder = options.output_dir / name
        prepare = functools.partial(prepare_model, fields=fields)
        scores = run(args, folder, options.data_dir, weights=options.weights, prepare_model=prepare)
        if not scores:
            return  # stopped by a signal; the next call goes on
        facts = json.loads((folder / "run.json").read_text())
        if fields.get("is_final"):
            scores["test"], counts = score_test(folder, options.data_dir)
            COUNTS.mkdir(exist_ok=True)
            np.savez_compressed(COUNTS / f"{name}.npz", counts=counts)
        row = {"name": name, **fields, "seconds": facts["seconds"], "best_step": facts["best_step"], "scores": scores}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
