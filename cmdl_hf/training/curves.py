"""Curves of a training run: losses, scores, learning rate, distributions."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..escaping import MAX_NAME, one_line
from ..files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#1f4e8c", "#d1495b", "#2a9d6f", "#e08e2b", "#7a4fa3", "#3aa6b9", "#8c6d4f", "#666666")


def draw_curves(rows: Sequence[Mapping[str, float | None]], path: str | PathLike[str]) -> None:
    """Draw the rows of a run as one PNG of four panels.

    Args:
        rows (`Sequence[Mapping]`): Rows with `step` and any of `loss`, `*_loss`, `learning_rate`, `validation_*`,
            `dead_distributions`, `duplicate_distributions`.
        path (`str` or `PathLike`): Where to save, ending in .png.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row))
    losses = [name for name in names if name == "loss" or name.endswith("_loss")]
    scores = [name for name in names if name.startswith("validation_")]
    distributions = [name for name in names if name.endswith("_distributions")]

    figure = Figure(figsize=(14, 7), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    _plot(panels[0, 0], rows, losses, "Losses, times their weights")
    if losses:
        panels[0, 0].set_yscale("log")
    _plot(panels[0, 1], rows, scores, "Scores on the validation split", factor=100, unit="%")
    _plot(panels[1, 0], rows, ["learning_rate"], "Learning rate of the backbone")
    _plot(panels[1, 1], rows, distributions, "Dead and duplicate distributions")
    with new_file(Path(path)) as unfinished:
        figure.savefig(unfinished, format="png")


def _plot(
    axes: "Axes",
    rows: Sequence[Mapping[str, float | None]],
    names: Sequence[str],
    title: str,
    factor: float = 1.0,
    unit: str = "",
) -> None:
    """Draw some columns over the steps, and mark the highest mean IoU."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    for index, name in enumerate(names):
        points = [(row["step"], value * factor) for row in rows if (value := row.get(name)) is not None]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        label = (
            one_line(name, MAX_NAME)
            .removeprefix("validation_")
            .removesuffix("_distributions")
            .replace("_", " ")
            .replace("iou", "IoU")
        )
        axes.plot(
            steps,
            values,
            label=label,
            color=_COLORS[index % len(_COLORS)],
            linewidth=1.8 if index == 0 else 1.1,
            marker="o" if name.startswith("validation_") and len(points) < 30 else None,
            markersize=3,
        )
        if name == "validation_mean_iou":
            best = max(range(len(values)), key=values.__getitem__)
            axes.annotate(
                f"{values[best]:.1f}", (steps[best], values[best]), xytext=(4, 5), textcoords="offset points"
            )
    if unit:
        axes.set_ylabel(unit)
    if axes.has_data():
        legend = axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for text in legend.get_texts():
            text.set_parse_math(False)
    else:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color="#888888")
