"""The three plots of the study's page."""

from collections.abc import Sequence

import numpy as np
from differences import Arms, Difference
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmdl_hf.comparison import draw_spreads

COLOURS = {
    "plain": "#5b6770",
    "unscaled": "#a23e48",
    "control": "#c9a227",
    "cmdl": "#1f6f8b",
    "m1": "#6aa84f",
    "assigned": "#7a4fa3",
    "assigned-votes": "#2a9d6f",
}


def colour_of(name: str) -> str:
    """Give the colour of an arm."""
    return COLOURS.get(name.partition("-")[2], "#222222")


def draw_arms(arms: Arms) -> Figure:
    """Plot a dot for each seed of each arm, on both splits."""
    figure = Figure(figsize=(8, 0.9 + 0.4 * len(arms)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    colours = {name: colour_of(name) for name in arms}
    for axis, split in zip(axes, ("validation", "test"), strict=True):
        values = {name: [row["scores"][split]["mean_iou"] for row in rows] for name, rows in arms.items()}
        draw_spreads(axis, values, colours, f"{split} split")
    return figure


def draw_differences(arms: Arms, differences: Sequence[Difference]) -> Figure:
    """Plot the differences of each arm from the plain network and from the control, with 95 % intervals."""
    names = [name for name in arms if any(each.first == name for each in differences)]
    figure = Figure(figsize=(8, 1.5 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, other in zip(axes, ("plain", "control"), strict=True):
        for each in differences:
            if each.second.partition("-")[2] == other:
                _draw_difference(axis, names.index(each.first), each)
        axis.axvline(0, color="#888888", linewidth=1)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        title = {"plain": "minus the plain network", "control": "minus the control"}[other]
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_xlabel("points of mean IoU on test")
    axes[0].plot([], [], "|", color="#444444", markersize=12, markeredgewidth=2, label="mean")
    axes[0].plot([], [], "-", color="#444444", linewidth=3, label="95 % interval over images")
    axes[0].plot([], [], "o", color="#444444", alpha=0.6, label="each seed")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _draw_difference(axis: Axes, height: int, each: Difference) -> None:
    colour, images = colour_of(each.first), each.over_images
    axis.plot([100 * images.low, 100 * images.high], [height + 0.12] * 2, "-", color=colour, linewidth=3)
    axis.plot(100 * images.difference, height + 0.12, "|", color=colour, markersize=13, markeredgewidth=2)
    seeds = [100 * difference for difference in each.by_seed]
    axis.plot(seeds, [height - 0.2] * len(seeds), "o", color=colour, alpha=0.6, markersize=5)


def draw_classes(arms: Arms, classes: Sequence[str], order: Sequence[int], rare: Sequence[int]) -> Figure:
    """Plot the IoU of each class on the test split, without and with CMDL: mean and seeds; rare classes are marked.

    Args:
        arms: Rows of the runs of each arm.
        classes: Names of the K classes.
        order: The classes in the order of their pixels, the rarest first.
        rare: The rare classes, which are drawn first.
    """
    shown = sorted(order, key=lambda index: index not in rare)  # stable: by pixels within each part
    frameworks = list(dict.fromkeys(name.partition("-")[0] for name in arms if name.endswith("-cmdl")))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(1, len(frameworks), sharey=True, squeeze=False)
    for axis, framework in zip(axes[0], frameworks, strict=True):
        pairs = [name for name in (f"{framework}-plain", f"{framework}-cmdl") if name in arms]
        ious = [100 * np.array([row["scores"]["test"]["per_class_iou"] for row in arms[name]]) for name in pairs]
        axis.axhspan(-0.5, len(rare) - 0.5, color="#f2ead0", zorder=0)
        axis.text(99, len(rare) - 0.6, "rare classes", ha="right", va="bottom", fontsize=10, color="#7a6514")
        means = np.array([values.mean(axis=0) for values in ious])
        for height, index in enumerate(shown):
            axis.plot(means[:, index], [height] * len(means), "-", color="#aaaaaa", linewidth=2, zorder=1)
        for name, values, shift, style in zip(
            pairs, ious, (-0.25, 0.25), ({"markersize": 9, "fillstyle": "none"}, {"markersize": 6}), strict=False
        ):
            colour, heights = colour_of(name), np.arange(len(shown))
            for seed in values:
                axis.plot(seed[shown], heights + shift, "o", color=colour, alpha=0.5, markersize=3)
            axis.plot(values.mean(axis=0)[shown], heights, "o", color=colour, markeredgewidth=2, label=name, **style)
        axis.plot([], [], "o", color="#444444", alpha=0.5, markersize=3, label="each seed")
        axis.set_yticks(range(len(shown)), [classes[index] for index in shown])
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.set_xlim(-2, 102)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("IoU on test, %")
        axis.legend(loc="lower left", fontsize=10, frameon=False)
    return figure
