"""The sections of a model card. They contain only facts from the model's folder and measured scores."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import BENCHMARKS
from ..escaping import MAX_NAME, Markdown, for_markdown, markdown_table, one_line
from .model_folder import ModelFolder

METRICS = {
    "mean_iou": "mean IoU",
    "mean_accuracy": "mean accuracy",
    "overall_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_dice": "mean Dice",
}
"""Scores of a model card, with the names that it shows."""

_MOST_LETTERS = 300  # of a value in the recipe's table
_FEW_IMAGES = 50  # of a split, below which its scores are rough
_FEW_CLASSES = 4  # that a title names


def summarize(folder: ModelFolder) -> str:
    """Describe the model, and say whether its training is finished."""
    trained = f", trained on {folder.data_title}" if folder.benchmark else ""
    network = for_markdown(f"{folder.network} on {folder.backbone}{trained}")
    start = f"Semantic segmentation into {len(folder.classes)} classes with {network}."
    if not folder.is_finished:
        which = "the best model of the first {:,} steps" if folder.run.get("best_metric") else "the model of step {:,}"
        start = f"{start} The training is not finished. This is {which.format(folder.run['steps'])}."
    if folder.start is not None:
        start = f"{start} Its training started from the trained model {name_start(folder)}."
    if not folder.config.get("use_distributions", True):
        return f"{start} This is the plain framework, without class-wise distributions."
    num_distributions = for_markdown(folder.config.get("num_distributions"), MAX_NAME)
    return (
        f"{start} A memory bank describes every class by {num_distributions} distributions, one "
        "prototype for each. Each pixel weights the prototypes by its class probabilities, and the result refines its "
        "features."
    )


def name_some_classes(folder: ModelFolder) -> str:
    """Name the classes in a few words, but not a background: all if they are few, or else the first ones."""
    names = [one_line(name, MAX_NAME) for name in folder.classes if name.lower() != "background"]
    few = ", ".join(names[:_FEW_CLASSES])
    return few if len(names) <= _FEW_CLASSES else f"{len(folder.classes)} classes such as {few}"


def name_start(folder: ModelFolder) -> Markdown:
    """Name the trained model that the training started from, with a link if it is on the Hub."""
    assert folder.start is not None
    if folder.base_model is not None:
        return Markdown(f"[{for_markdown(folder.base_model)}](https://huggingface.co/{folder.base_model})")
    return for_markdown(folder.start["name"], MAX_NAME)


def tabulate_recipe(folder: ModelFolder) -> str:
    """Make the table of the recipe; empty if the folder has none."""
    return markdown_table(("", ""), _recipe_rows(folder), _MOST_LETTERS) if folder.recipe else ""


def _recipe_rows(folder: ModelFolder) -> Iterable[tuple[str, str]]:
    """List the recipe's settings in words. Missing settings are left out."""
    recipe, run = folder.recipe, folder.run
    weights = run.get("weights")
    start = "not recorded" if "weights" not in run else "timm's weights" if weights == "timm" else weights
    images = _list(f"{count:,} {_name(split)}" for split, count in (run.get("num_images") or {}).items())
    precision = run.get("mixed_precision", recipe.get("mixed_precision"))
    rows = {
        "data": Markdown(_name(folder.data_title) + (f" ({images} images)" if images else "")),
        "validation": _validation(run),
        "merged classes": _merged(run),
        "network": f"{folder.network} on {folder.backbone}",
        "backbone starts from": None if folder.start else start or "scratch",
        "starts from the trained model": folder.start and folder.start["name"],
        "output stride": recipe.get("output_stride"),
        "images resized to": _edges(recipe.get("resize")),
        "crop": _size(recipe.get("crop_size")),
        "random scale": "–".join(map(str, recipe.get("scale_range") or ())),
        "transform": recipe.get("transform") if recipe.get("transform") != "papers" else None,
        "mirrored": _flips(recipe),
        "classes swapped in a mirror": _list(
            (" and ".join(map(_name, pair)) for pair in recipe.get("swapped_classes") or ()), "; "
        ),
        "rotation": f"up to {recipe['rotation']:g}°" if recipe.get("rotation") else None,
        "change of colours": f"{strength:g} times" if (strength := recipe.get("color_strength", 1)) != 1 else None,
        "plug-ins": ", ".join(_name_plugin(str(plugin)) for plugin in recipe.get("plugin") or ()),
        "optimiser steps": _steps(folder),
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
    shown = ((name, value) for name, value in rows.items() if value not in (None, ""))
    return ((name, value if isinstance(value, Markdown) else str(value)) for name, value in shown)


def _name(name: object) -> Markdown:
    """Escape a name that stands beside others in a cell; if it runs from right to left, they keep their order."""
    return for_markdown(name, MAX_NAME)


def _list(items: Iterable[str], separator: str = ", ") -> Markdown:
    """Join items that are Markdown. Those for which a cell has no room are counted."""
    words = list(items)
    lengths = itertools.accumulate(map(len, words))
    fitting = max(1, sum(length <= _MOST_LETTERS for length in lengths))
    more = [f"and {len(words) - fitting} more"] if len(words) > fitting else []
    return Markdown(separator.join(words[:fitting] + more))


def _validation(run: Mapping[str, Any]) -> str | None:
    """Describe a validation split that was set apart, or say that there was none."""
    if apart := run.get("set_apart"):
        return f"{apart['num_images']:,} images, set apart from the training images ({100 * apart['fraction']:g} %)"
    return "none" if "num_images" in run and "validation" not in run["num_images"] else None


def _merged(run: Mapping[str, Any]) -> str | None:
    """List which classes became which."""
    merged = run.get("merged_classes") or {}
    return _list((f"{_name(name)} → {_name(target or 'ignored')}" for name, target in merged.items()), "; ") or None


def _name_plugin(plugin: str) -> str:
    """Name a plug-in without the places of this machine."""
    return Path(plugin).name if Path(plugin).is_absolute() else plugin


def _flips(recipe: Mapping[str, Any]) -> str | None:
    """Describe how training images were mirrored, unless it was the usual left to right."""
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
    """Describe how the scores were measured."""
    resize = folder.recipe.get("resize")
    size = f"whole images of {for_markdown(_edges(resize), MAX_NAME)}" if resize else "whole images at their own size"
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
            f" The model is that of step {step:,}{of_all}, chosen by the {metric} on the validation split. The "
            "validation scores are therefore optimistic."
        )
        if "test" in folder.scores:
            text += " The test split was not used for this choice."
    if folder.scores.keys() - {"train", "validation", "test"}:
        text += " If a column names a protocol or a data set, its scores were measured with that one."
    return (
        f"{text} A class that is neither labelled nor predicted has no IoU (–). A class that is not labelled has no "
        "accuracy. Such classes are left out of the means."
    )


def tabulate_scores(folder: ModelFolder) -> str:
    """Make the table of scores, with a column for each split; empty if there are no scores."""
    if not folder.scores:
        return ""
    rows = [
        (name, *(_percent(scores.get(metric)) for scores in folder.scores.values()))
        for metric, name in METRICS.items()
        if any(metric in scores for scores in folder.scores.values())
    ]
    return markdown_table(("%", *folder.scores), rows)


def tabulate_class_scores(folder: ModelFolder) -> dict[str, str]:
    """Make the tables of class scores, one for each split that has them."""
    tables: dict[str, str] = {}
    for split, scores in folder.scores.items():
        ious, accuracies = scores.get("per_class_iou") or [], scores.get("per_class_accuracy") or []
        if len(ious) == len(folder.classes):
            accuracies = accuracies if len(accuracies) == len(ious) else [None] * len(ious)
            values = zip(folder.classes, map(_percent, ious), map(_percent, accuracies), strict=True)
            tables[for_markdown(split, MAX_NAME)] = markdown_table(("class", "IoU, %", "accuracy, %"), values)
    return tables


def describe_data(folder: ModelFolder) -> str:
    """Name the training data and their terms of use."""
    if benchmark := BENCHMARKS.get(folder.benchmark or ""):
        return f"{benchmark.title}, {benchmark.homepage}. Terms of its owners: {benchmark.license}."
    if folder.benchmark == "synthetic":
        return (
            "Street scenes generated by `cmdl_hf.data.load_synthetic`. They are drawn, not photographed, and have no "
            "terms of use."
        )
    if folder.benchmark == "own":
        return (
            "Images and masks of the model's owner, with the classes above. They are not published with the model. "
            "What they show, where they come from and their terms of use are not recorded; the owner can add it here."
        )
    return "The training data and their terms of use are not recorded."


def list_limits(folder: ModelFolder) -> list[str]:
    """List what the model cannot do, and what was not tested."""
    limits = ["Every pixel gets one of the classes above, even if none of them is correct."]
    if folder.benchmark == "synthetic":
        trained = "" if folder.run.get("model") else "It was trained only on drawn scenes. "
        limits.append(f"{trained}It was not tested on photographs.")
    elif folder.benchmark:
        others = "the training and validation images" if folder.benchmark == "own" else f"those of {folder.data_title}"
        limits.append(f"It was not tested on images that differ from {others}.")
    limits += [
        f"The scores of the {split} split are of {count} images, so they say little about other images."
        for split, count in (folder.run.get("num_images") or {}).items()
        if split in folder.scores and count < _FEW_IMAGES
    ]
    if "num_images" in folder.run and "validation" not in folder.run["num_images"]:
        limits.append("No validation split chose it: it is the model of the last step, whether or not it is the best.")
    if not folder.scores:
        limits.append("Its scores were not measured.")
    else:
        limits.append("The scores are valid only for the splits and the protocol that are given with them.")
    return [*limits, "It was not tested for uses in which a wrong pixel can do harm."]


def find_license(folder: ModelFolder) -> tuple[dict[str, Any], str]:
    """Find the licence of a model, as metadata and as text.

    The code is Apache-2.0. Weights inherit the terms of their training data. They are therefore called Apache-2.0 only
    if they were trained from scratch on generated scenes.
    """
    code = "The Python files are part of `cmdl_hf`, Apache-2.0."
    terms = f" So do the terms of {name_start(folder)}, from which they started." if folder.start else ""
    origin = f", and on those of {name_start(folder)}, from which they started" if folder.start else ""
    if benchmark := BENCHMARKS.get(folder.benchmark or ""):
        metadata = {
            "license": "other",
            "license_name": f"{benchmark.name.replace('_', '-')}-terms",
            "license_link": benchmark.homepage.split()[0],
        }
        return metadata, (
            f"{code} The weights were trained on {benchmark.title}. Its terms ({benchmark.license}) say how they may "
            f"be used.{terms}"
        )
    is_from_scratch = "weights" in folder.run and folder.run["weights"] is None and not folder.run.get("model")
    if folder.benchmark == "synthetic" and is_from_scratch:
        return {"license": "apache-2.0"}, f"{code} So are the weights, which were trained only on generated scenes."
    return {}, f"{code} The weights have no licence yet; it depends on the terms of their training data{origin}."


def is_measured(value: Any) -> bool:
    """Whether a score is a number. A class without pixels has none."""
    return isinstance(value, int | float) and math.isfinite(value)


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}" if is_measured(value) else "–"


def _edges(resize: Sequence[int] | None) -> str | None:
    return f"shorter edge {resize[0]}, longer at most {resize[1]} pixels" if resize else None


def _steps(folder: ModelFolder) -> object:
    """Return the steps of the training: fewer than planned if it is unfinished, or ended for lack of patience."""
    done, planned = folder.run.get("steps"), folder.run.get("max_steps")
    if folder.is_finished and done in (None, planned):
        return folder.recipe.get("max_steps")
    return f"{done} of {planned}"


def _size(size: Sequence[int] | None) -> str | None:
    return f"{size[0]} × {size[1]} pixels" if size else None


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    unit, name = next(((u, n) for u, n in ((3600, "h"), (60, "min")) if seconds >= u), (1, "s"))
    return f"{seconds / unit:.1f} {name}"
