"""The sections of a model's card, in words and tables: what its folder says, and nothing that was not measured."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import BENCHMARKS
from .model_folder import ModelFolder

METRICS = {
    "mean_iou": "mean IoU",
    "mean_accuracy": "mean accuracy",
    "overall_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_dice": "mean Dice",
}
"""Scores of a card, and what it calls them."""


def summarize(folder: ModelFolder) -> str:
    """Say in two sentences what the model is, and whether its training is over."""
    trained = f", trained on {folder.data_title}" if folder.benchmark else ""
    network = f"{folder.network} on {folder.backbone}{trained}"
    start = f"Semantic segmentation into {len(folder.classes)} classes with {network}."
    if not folder.is_finished:
        which = "the best model of the first {:,} steps" if folder.run.get("best_metric") else "the model of step {:,}"
        start = f"{start} Training is not over: this is {which.format(folder.run['steps'])}."
    if not folder.config.get("use_distributions", True):
        return f"{start} This is the plain framework, without class-wise distributions."
    return (
        f"{start} Every class is described by {folder.config.get('num_distributions')} distributions, prototypes in a "
        "memory bank; each pixel votes for them, and what the votes bring back sharpens its features."
    )


def tabulate_recipe(folder: ModelFolder) -> str:
    """Lay out the recipe; empty where the folder has none."""
    return _table(("", ""), _recipe_rows(folder)) if folder.recipe else ""


def _recipe_rows(folder: ModelFolder) -> Iterable[tuple[str, str]]:
    """The recipe in words; fields that a recipe has not are left out."""
    recipe, run = folder.recipe, folder.run
    weights = run.get("weights")
    start = "not recorded" if "weights" not in run else "timm's weights" if weights == "timm" else weights
    images = ", ".join(f"{count:,} {split}" for split, count in (run.get("num_images") or {}).items())
    precision = run.get("mixed_precision", recipe.get("mixed_precision"))
    rows = {
        "data": folder.data_title + (f" ({images} images)" if images else ""),
        "network": f"{folder.network} on {folder.backbone}",
        "backbone starts from": start or "scratch",
        "output stride": recipe.get("output_stride"),
        "images resized to": _edges(recipe.get("resize")),
        "crop": _size(recipe.get("crop_size")),
        "random scale": "–".join(map(str, recipe.get("scale_range") or ())),
        "transform": recipe.get("transform") if recipe.get("transform") != "papers" else None,
        "mirrored": _flips(recipe),
        "classes swapped in a mirror": "; ".join(
            " and ".join(map(str, p)) for p in recipe.get("swapped_classes") or ()
        ),
        "rotation": f"up to {recipe['rotation']:g}°" if recipe.get("rotation") else None,
        "change of colours": f"{strength:g} times" if (strength := recipe.get("color_strength", 1)) != 1 else None,
        "plug-ins": ", ".join(map(str, recipe.get("plugin") or ())),
        "optimiser steps": recipe.get("max_steps") if folder.is_finished else f"{run['steps']} of {run['max_steps']}",
        "batch": recipe.get("total_batch_size"),
        "optimiser": _optimizer(recipe),
        "learning rate": _schedule(recipe),
        "weight decay": recipe.get("weight_decay"),
        "gradients clipped to norm": recipe.get("max_grad_norm"),
        "moving average of weights": recipe.get("ema_decay"),
        "class weights": recipe.get("class_weights") and Path(str(recipe["class_weights"])).name,
        "hard examples below probability": recipe.get("ohem_threshold"),
        "frozen batch norms": recipe.get("freeze_batch_norm") if recipe.get("freeze_batch_norm") != "none" else None,
        "precision": "float32" if precision == "no" else precision,
        "seed": recipe.get("seed"),
        "processes": run.get("num_processes"),
        "device": run.get("device"),
        "training time": _duration(run.get("seconds")),
        "versions": ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items()),
    }
    return ((name, str(value)) for name, value in rows.items() if value not in (None, ""))


def _flips(recipe: Mapping[str, Any]) -> str | None:
    """How training images were mirrored, where it was not as usual, from left to right."""
    flips = {"left to right": recipe.get("flip", True), "top to bottom": recipe.get("vertical_flip", False)}
    names = [name for name, is_used in flips.items() if is_used]
    return None if names == ["left to right"] else ", ".join(names) or "no"


def _optimizer(recipe: Mapping[str, Any]) -> str | None:
    names = {"sgd": "SGD", "adamw": "AdamW"}
    name = names.get(recipe.get("optimizer", ""))
    return f"SGD, momentum {recipe.get('momentum')}" if name == "SGD" else name


def _schedule(recipe: Mapping[str, Any]) -> str | None:
    if "learning_rate" not in recipe:
        return None
    text = (
        f"{recipe['learning_rate']:g}, falls to {recipe.get('min_learning_rate', 0):g} by power {recipe.get('power')}"
    )
    if recipe.get("warmup_steps"):
        text += f" after {recipe['warmup_steps']} steps of warm-up"
    factor = recipe.get("head_learning_rate_factor", 1)
    return text if factor == 1 else f"{text}; heads {factor:g} times as fast"


def describe_protocol(folder: ModelFolder) -> str:
    """Say how the scores came about."""
    resize = folder.recipe.get("resize")
    size = f"whole images of {_edges(resize)}" if resize else "whole images at their own size"
    if not folder.recipe:
        size = "how images were resized is not recorded"
    text = (
        f"Single scale, {size}, without flipping; scored at the labels' original size over all labelled pixels of a "
        "split."
    )
    metric = METRICS.get(folder.run.get("best_metric") or "")
    step, steps = folder.run.get("best_step"), folder.run.get("max_steps")
    if metric and step and "validation" in folder.scores:
        of_all = f" of {steps:,}" if steps else ""
        text += (
            f" The model is that of step {step:,}{of_all}, chosen by the {metric} on the validation split, whose "
            "scores are therefore on the high side."
        )
        if "test" in folder.scores:
            text += " The test split had no part in the choice."
    if folder.scores.keys() - {"train", "validation", "test"}:
        text += " A column that names a protocol or a data set was scored by that one."
    return (
        f"{text} A class that is neither labelled nor predicted has no IoU (–), one that is not labelled no accuracy; "
        "they are left out of the means."
    )


def tabulate_scores(folder: ModelFolder) -> str:
    """Lay out the scores, a column for each split; empty where nothing was measured."""
    if not folder.scores:
        return ""
    rows = [
        (name, *(_percent(scores.get(metric)) for scores in folder.scores.values()))
        for metric, name in METRICS.items()
        if any(metric in scores for scores in folder.scores.values())
    ]
    return _table(("%", *folder.scores), rows)


def tabulate_class_scores(folder: ModelFolder) -> dict[str, str]:
    """Lay out the scores of every class, a table for each split that has them."""
    tables = {}
    for split, scores in folder.scores.items():
        ious, accuracies = scores.get("per_class_iou") or [], scores.get("per_class_accuracy") or []
        if len(ious) == len(folder.classes):
            accuracies = accuracies if len(accuracies) == len(ious) else [None] * len(ious)
            values = zip(folder.classes, map(_percent, ious), map(_percent, accuracies), strict=True)
            tables[split] = _table(("class", "IoU, %", "accuracy, %"), values)
    return tables


def describe_data(folder: ModelFolder) -> str:
    """Say which data the model was trained on, and under which terms they stand."""
    if benchmark := BENCHMARKS.get(folder.benchmark or ""):
        return f"{benchmark.title}, {benchmark.homepage}. Its owners' terms: {benchmark.license}."
    if folder.benchmark == "synthetic":
        return (
            "Street scenes that `cmdl_hf.data.load_synthetic` generates: drawn, not photographed, free of any terms."
        )
    if folder.benchmark == "own":
        return "Data of the model's owner. What they show and under which terms they stand is not recorded."
    return "Which data the model was trained on, and under which terms they stand, is not recorded."


def list_limits(folder: ModelFolder) -> list[str]:
    """List what the model is not good for, or was not tried on."""
    limits = ["Every pixel gets one of the classes above, also where none of them is right."]
    if folder.benchmark == "synthetic":
        limits.append("It has seen drawn scenes only; on photographs it was not tried.")
    elif folder.benchmark:
        limits.append(f"What it does on images unlike those of {folder.data_title} was not measured.")
    if not folder.scores:
        limits.append("How good it is was not measured.")
    else:
        limits.append("The scores hold for the splits and the protocol named with them, not for other data.")
    return [*limits, "Not tested for uses in which a wrong pixel can do harm."]


def find_license(folder: ModelFolder) -> tuple[dict[str, Any], str]:
    """Find out what can be said of the licence: metadata, and a sentence.

    The code is Apache-2.0. Weights inherit the terms of what they were trained on, so they are called Apache-2.0 only
    where nothing else went into them: generated scenes, and a backbone from scratch.
    """
    code = "The Python files are part of `cmdl_hf`, Apache-2.0."
    if benchmark := BENCHMARKS.get(folder.benchmark or ""):
        metadata = {
            "license": "other",
            "license_name": f"{benchmark.name.replace('_', '-')}-terms",
            "license_link": benchmark.homepage.split()[0],
        }
        return metadata, (
            f"{code} The weights were trained on {benchmark.title}; its terms ({benchmark.license}) say what they may "
            "be used for."
        )
    if folder.benchmark == "synthetic" and "weights" in folder.run and folder.run["weights"] is None:
        return {"license": "apache-2.0"}, f"{code} So are the weights: nothing but generated scenes went into them."
    return {}, f"{code} The weights have no licence yet: it depends on the terms of what they were trained on."


def is_measured(value: Any) -> bool:
    """Whether a score is a number; one of a class without pixels is not."""
    return isinstance(value, int | float) and math.isfinite(value)


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}" if is_measured(value) else "–"


def _edges(resize: Sequence[int] | None) -> str | None:
    return f"shorter edge {resize[0]}, longer at most {resize[1]} pixels" if resize else None


def _size(size: Sequence[int] | None) -> str | None:
    return f"{size[0]} × {size[1]} pixels" if size else None


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    unit, name = next(((u, n) for u, n in ((3600, "h"), (60, "min")) if seconds >= u), (1, "s"))
    return f"{seconds / unit:.1f} {name}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
