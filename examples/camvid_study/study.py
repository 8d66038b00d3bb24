"""Run the study of CMDL on CamVid, one run after the other.

    python examples/camvid_study/study.py fcn pspnet --data-dir CamVid --weights mobilenetv2_100.safetensors

An interrupted run is continued. A run that is in `results.jsonl` is not repeated. All runs share one recipe; the rows
of `GROUPS` contain their differences. Models are chosen on the validation split. Only the final comparison reads the
test split, once for each run.
"""

import argparse
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmdl_hf import CMDLForSemanticSegmentation, CMDLMemoryBank
from cmdl_hf.comparison import average_training_loss
from cmdl_hf.data import EvalTransform, load_benchmark
from cmdl_hf.evaluation import ImageCounter, Protocol, describe_protocol, evaluate
from cmdl_hf.files import without_nan, write_text
from cmdl_hf.hub import write_card
from cmdl_hf.training import CMDLTrainingArguments, run

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
    "optimizer": "adamw",  # the best optimiser of the pilot runs, with and without CMDL
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
    "assigned": {"model_options": CMDL | ASSIGNED},
    "assigned-votes": {"model_options": CMDL | ASSIGNED | {"voting": "posterior"}},
}
SGD = {"optimizer": "sgd", "min_learning_rate": 1e-4, "weight_decay": 1e-4}


def _pilot() -> dict[str, dict[str, Any]]:
    """Compare optimisers and learning rates: four epochs, on validation."""
    rates = {
        "sgd": ((0.02, 1.0), (0.01, 10.0), (0.005, 10.0), (0.002, 10.0)),
        "adamw": ((0.001, 1.0), (0.0005, 4.0), (0.0002, 10.0)),
    }
    settings = {
        f"{optimizer}-lr{rate}-head{factor:g}": (SGD if optimizer == "sgd" else {})
        | {"learning_rate": rate, "head_learning_rate_factor": factor}
        for optimizer, pairs in rates.items()
        for rate, factor in pairs
    }
    return {
        f"pilot-{arm}-{name}": ARMS[arm] | fields | {"epochs": 4}
        for name, fields in settings.items()
        for arm in ("plain", "reference-contrast")
    }


def _sgd() -> dict[str, dict[str, Any]]:
    """Train with SGD: ten epochs, and one run of twenty, on validation."""
    sgd = SGD | {"learning_rate": 0.005, "head_learning_rate_factor": 10.0, "epochs": 10}
    options = {
        "contrast": REFERENCE_CONTRAST | {"contrastive_temperature": 0.1, "contrastive_loss_weight": 1.0},
    }
    runs = {"plain": ARMS["plain"], "control": ARMS["unscaled"], "reference-contrast": ARMS["reference-contrast"]}
    runs |= {name: {"model_options": fields} for name, fields in options.items()}
    runs["zero-start"] = ARMS["reference-contrast"] | {"is_fusion_zeroed": True}
    runs["plain-20-epochs"] = ARMS["plain"] | {"epochs": 20}
    return {f"sgd-{name}": sgd | fields for name, fields in runs.items()}


def _search() -> dict[str, dict[str, Any]]:
    """Search for the defaults: ten epochs, on validation."""
    contrast = REFERENCE_CONTRAST | {"contrastive_temperature": 0.1, "contrastive_loss_weight": 0.2}
    strong = contrast | {"contrastive_loss_weight": 1.0}
    runs: dict[str, dict[str, Any]] = {
        "zero": {"model_options": REFERENCE_CONTRAST},
        "zero-contrast-0.2": {"model_options": contrast},
        "zero-contrast-0.2-unfiltered": {"model_options": contrast, "is_memory_filtered": False},
        "zero-contrast-1-unfiltered": {"model_options": strong, "is_memory_filtered": False},
    }
    runs = {name: fields | {"is_fusion_zeroed": True} for name, fields in runs.items()}
    unscaled = CMDL | UNSCALED | {"contrastive_loss_weight": 1.0}
    runs["contrast-1"] = {"model_options": unscaled}
    runs["contrast-1-no-fallback"] = {"model_options": unscaled | {"use_memory_fallback": False}}
    return {f"search-{name}": fields | {"epochs": 10} for name, fields in runs.items()}


def _long() -> dict[str, dict[str, Any]]:
    """Compare contrastive losses over twenty epochs, on validation."""
    runs = {
        f"contrastive-weight-{weight}{name}": {"model_options": CMDL | fields | {"contrastive_loss_weight": weight}}
        for name, fields, weights in (("-unscaled", UNSCALED, (0.05, 0.2, 1.0)), ("", {}, (0.05, 1.0)))
        for weight in weights
    }
    runs["contrastive-weight-0.05-zero-start"] = runs["contrastive-weight-0.05-unscaled"] | {"is_fusion_zeroed": True}
    runs["reference-contrast"] = ARMS["reference-contrast"]
    runs["pspnet-contrastive-weight-0.05"] = runs["contrastive-weight-0.05"] | {"framework": "pspnet"}
    return {f"long-{name}": fields | {"epochs": 20} for name, fields in runs.items()}


def _ablations() -> dict[str, dict[str, Any]]:
    """Change one setting of CMDL at a time: ten epochs, on validation. For the contrastive weight, see `_long`."""
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


def _context() -> dict[str, dict[str, Any]]:
    """Compare how PSPNet's context reaches the classifier: four epochs, on validation."""
    runs = {name: ARMS[name] for name in ("plain", "cmdl")}
    runs |= {path: ARMS["cmdl"] | {"context_path": path} for path in ("indirect", "direct", "residual")}
    runs["indirect-control"] = ARMS["control"] | {"context_path": "indirect"}
    return {f"context-{name}": fields | {"framework": "pspnet", "epochs": 4} for name, fields in runs.items()}


def _arms(framework: str, arms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Make the final comparison: three seeds, twenty epochs, and the test split."""
    return {
        f"{framework}-{arm}-seed{seed}": ARMS[arm]
        | {"framework": framework, "seed": seed, "epochs": 20, "is_final": True}
        for seed in range(3)
        for arm in arms
    }


def _paths() -> dict[str, dict[str, Any]]:
    """Run the rejected context paths: twenty epochs, and the test split."""
    shared: dict[str, Any] = {"framework": "pspnet", "epochs": 20, "is_final": True}
    return {
        f"pspnet-{path}-{arm}-seed{seed}": ARMS[arm] | {"context_path": path, "seed": seed} | shared
        for path, arm, seed in (
            ("indirect", "cmdl", 0),
            ("direct", "control", 0),
            ("direct", "cmdl", 0),
            ("direct", "cmdl", 1),
        )
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
        f"full-{network}-{arm}-seed{seed}": ARMS[arm] | settings | fields | {"seed": seed}
        for network, fields in networks.items()
        for seed in range(3)
        for arm in ("plain", "control", "cmdl")
    }


GROUPS = {
    "pilot": _pilot(),
    "sgd": _sgd(),
    "search": _search(),
    "long": _long(),
    "ablations": _ablations(),
    "context": _context(),
    "fcn": _arms("fcn", ("plain", "control", "unscaled", "cmdl")),
    "pspnet": _arms("pspnet", ("plain", "control", "cmdl")) | _paths(),
    "distinct": _arms("fcn", ("assigned", "assigned-votes")),
    "full-size": _full_size(),
}
OF_NO_RECIPE = (
    "context_path",
    "epochs",
    "is_final",
    "is_from_scratch",
    "is_fusion_zeroed",
    "is_memory_filtered",
)


def make_recipe(fields: dict[str, Any]) -> CMDLTrainingArguments:
    """Complete the recipe of a run."""
    own = {name: value for name, value in fields.items() if name not in OF_NO_RECIPE}
    epochs = fields["epochs"]
    eval_steps = min(epochs, 4) * STEPS_PER_EPOCH
    return CMDLTrainingArguments(
        **(BASE | own), max_steps=epochs * STEPS_PER_EPOCH, eval_steps=eval_steps, use_test_split=False
    )


class UnfilteredMemory(CMDLMemoryBank):
    """A memory bank that misclassified pixels also update."""

    def update(self, pixel_embeddings: Tensor, similarity: Tensor, labels: Tensor, is_correct: Tensor) -> None:
        """Update the prototypes in place."""
        super().update(pixel_embeddings, similarity, labels, torch.ones_like(is_correct))


def prepare_model(model: CMDLForSemanticSegmentation, fields: dict[str, Any]) -> None:
    """Apply the settings of a run's row that a recipe cannot express."""
    set_context_path(model, fields)
    if fields.get("is_fusion_zeroed"):  # the fusion's weights for the aggregated features
        torch.nn.init.zeros_(model.fusion[0].weight[:, model.config.hidden_size :])
    if not fields.get("is_memory_filtered", True):
        model.memory_bank.__class__ = UnfilteredMemory


def set_context_path(model: CMDLForSemanticSegmentation, fields: dict[str, Any]) -> None:
    """Replace the model's context path, if the row of a run names another one."""
    if path := fields.get("context_path"):
        model._sharpen = functools.partial(sharpen, model, path)


def sharpen(
    model: CMDLForSemanticSegmentation,
    path: str,
    pixel_features: Tensor,
    coarse_logits: Tensor,
    feature_maps: tuple[Tensor, ...],
    _labels: Tensor | None,
) -> tuple[Tensor, None]:
    """Refine the pixel features as CMDL does, but with another context path.

    Args:
        model: A model with pyramid pooling.
        path: `"indirect"`: the fusion of the refined features with the output of the context attention, as in the
            reference. `"direct"`: the scaled attention output is added to the context before the fusion. `"residual"`:
            the scaled fusion is added to the context.
        pixel_features: (B, C, h, w).
        coarse_logits: (B, K, h, w).
        feature_maps: Feature maps of the backbone.

    Returns:
        (B, C, h, w), and None, as its votes need no comparison with the distributions.
    """
    probabilities = coarse_logits.softmax(dim=1).to(pixel_features.dtype)
    aggregated_features = model.semantic_aggregation(pixel_features, probabilities, model.memory_bank.read())
    hidden_state = model.fusion(torch.cat([pixel_features, aggregated_features], dim=1))
    context = model.context_module(feature_maps)
    context_features = model.context_attention(pixel_features, context)
    scale = model.context_layer_scale[:, None, None].to(context.dtype)
    if path == "direct":
        return model.context_fusion(torch.cat([context + scale * context_features, hidden_state], dim=1)), None
    fused = model.context_fusion(torch.cat([context_features, hidden_state], dim=1))
    return (fused if path == "indirect" else context + scale * fused), None


def read_results() -> dict[str, dict[str, Any]]:
    """Read the rows of the finished runs, by name."""
    if not RESULTS.is_file():
        return {}
    return {row["name"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}


@torch.no_grad()
def score_test(
    folder: Path, fields: dict[str, Any], data_dir: Path, resize: tuple[int, int] | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Score a model on the test split, in float32.

    Returns:
        The scores, and pixel counts (images, 2, K): intersection and union of each class in each image.
    """
    dataset = load_benchmark("camvid", data_dir)
    model = CMDLForSemanticSegmentation.from_pretrained(folder)
    set_context_path(model, fields)
    model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    counter = ImageCounter(dataset.num_labels)
    transform = EvalTransform(resize)
    scores = evaluate(model, dataset["test"], transform, dataset.num_labels, on_prediction=counter)
    counts = counter.collect(describe_protocol(Protocol("whole", resize), "no"))
    return scores, counts.stacked.astype(np.int32)


def main() -> None:
    """Train the runs that are not in the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = GROUPS | {name: {name: fields} for group in GROUPS.values() for name, fields in group.items()}
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
    options = parser.parse_args()
    for name, fields in (item for group in options.runs for item in names[group].items()):
        if name in read_results():
            print(f"{name} is already in {RESULTS.name}")
            continue
        print(f"\n{name}", flush=True)
        args = make_recipe(fields)
        folder = options.output_dir / name
        prepare = functools.partial(prepare_model, fields=fields)
        weights = None if fields.get("is_from_scratch") else options.weights
        scores = run(args, folder, options.data_dir, weights=weights, prepare_model=prepare)
        if scores is None:
            return  # stopped by a signal; the next call continues the run
        facts = json.loads((folder / "run.json").read_text())
        if fields.get("is_final"):
            scores["test"], counts = score_test(folder, fields, options.data_dir, args.resize)
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
