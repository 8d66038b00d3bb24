"""The picture of a comparison: mean IoU of every run, differences with their intervals, and IoU by class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..escaping import MAX_NAME, one_line
from ..files import new_file
from .intervals import Interval
from .runs import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#5b6770", "#1f6f8b", "#d1495b", "#c9a227", "#2a9d6f", "#7a4fa3", "#e08e2b", "#3aa6b9")


class HasIntervals(Protocol):
    """A difference with an interval over images and, with several seeds, one over seeds."""

    @property
    def name(self) -> str:
        """Name of the group that is compared with the first one."""

    @property
    def over_images(self) -> Interval:
        """The difference, with its interval over images."""

    @property
    def over_seeds(self) -> Interval | None:
        """The difference, with its interval over seeds."""


def draw_comparison(
    groups: Sequence[Group],
    split: str,
    differences: Sequence[HasIntervals],
    classes: Sequence[str],
    rare: Sequence[int],
    path: Path,
) -> None:
    """Draw a comparison as one PNG.

    Args:
        groups (`Sequence` of [`Group`]): The groups.
        split (`str`): The split that is compared.
        differences (`Sequence`): Differences of the other groups from the first one.
        classes (`Sequence` of K strings): Names of the classes.
        rare (`Sequence` of integers): The rare classes, which are drawn first.
        path (`Path`): Where to save, ending in .png.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = (1.1 + 0.5 * len(groups), 4.2)
    width = min(max(11.0, 2 + 0.25 * len(classes) * (1 + len(groups) / 4)), 60.0)
    figure = Figure(figsize=(width, sum(heights)), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 1, height_ratios=heights)
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    panels = top.subplots(1, 2 if differences else 1, squeeze=False)[0]
    values = {group.name: [run.scores[split]["mean_iou"] for run in group.runs] for group in groups}
    draw_spreads(panels[0], values, title=f"Mean IoU on {split}: each seed, and the mean")
    if differences:
        _draw_differences(panels[1], groups[0].name, differences)
    _draw_classes(bottom.subplots(), groups, split, classes, rare)
    with new_file(path) as unfinished:
        figure.savefig(unfinished, format="png")


def draw_spreads(
    axes: "Axes",
    groups: Mapping[str, Sequence[float]],
    colors: Mapping[str, str] | None = None,
    title: str = "",
) -> None:
    """Draw a dot for each run of each group, and a bar at the mean of the group.

    Args:
        axes (`Axes` of matplotlib): Where to draw.
        groups (`Mapping`): Scores of each group's runs, in [0, 1].
        colors (`Mapping`, *optional*): Colour of each group.
        title (`str`): Title of the axes.
    """
    for height, (name, scores) in enumerate(groups.items()):
        color = (colors or {}).get(name, COLORS[height % len(COLORS)])
        values = [100 * score for score in scores]
        axes.plot(values, [height] * len(values), "o", color=color, alpha=0.6)
        axes.plot(np.mean(values), height, "|", color=color, markersize=18, markeredgewidth=2)
    _label_rows(axes, list(groups))
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    axes.set_xlabel("mean IoU, %")


def _draw_differences(axes: "Axes", first: str, differences: Sequence[HasIntervals]) -> None:
    """Draw the difference of each group from the first one, with both intervals, at the height of the group."""
    for height, each in enumerate(differences, start=1):
        color = COLORS[height % len(COLORS)]
        for shift, interval, style in ((-0.12, each.over_images, "-"), (0.12, each.over_seeds, ":")):
            if interval is not None:
                ends = [100 * interval.low, 100 * interval.high]
                axes.plot(ends, [height + shift] * 2, style, color=color, linewidth=2.5)
        axes.plot(100 * each.over_images.difference, height, "o", color=color)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.plot([], [], "-", color="#444444", linewidth=2.5, label="95 % over images")
    axes.plot([], [], ":", color="#444444", linewidth=2.5, label="95 % over seeds")
    # The row of the first group has no difference, and so has room for the legend.
    axes.legend(fontsize=8, loc="upper left", ncols=2, facecolor="white", edgecolor="none", framealpha=1)
    _label_rows(axes, [one_line(first, MAX_NAME), *(each.name for each in differences)])
    axes.tick_params(labelleft=False)
    axes.set_title("Difference from the first row", fontsize=11, loc="left")
    axes.set_xlabel("points of mean IoU")


def _draw_classes(
    axes: "Axes", groups: Sequence[Group], split: str, classes: Sequence[str], rare: Sequence[int]
) -> None:
    """Draw the IoU of every class: a bar for each group, a line for the standard deviation over its seeds."""
    pixels = groups[0].runs[0].counts[split].label_pixels.sum(axis=0)
    order = sorted(range(len(classes)), key=lambda k: (k not in rare, pixels[k]))
    places = np.arange(len(order))
    width = 0.8 / len(groups)
    for index, group in enumerate(groups):
        ious = 100 * np.array([[run.scores[split]["per_class_iou"][k] for k in order] for run in group.runs])
        spreads = ious.std(axis=0, ddof=1) if len(ious) > 1 else None
        lefts = places + (index - (len(groups) - 1) / 2) * width
        axes.bar(
            lefts,
            ious.mean(axis=0),
            0.9 * width,
            yerr=spreads,
            color=COLORS[index % len(COLORS)],
            label=one_line(group.name, MAX_NAME),
            error_kw={"elinewidth": 1, "ecolor": "#222222"},
        )
    if rare:
        axes.axvline(len(rare) - 0.5, color="#888888", linewidth=1, linestyle="--")
        axes.text(
            len(rare) - 0.55, 1.0, "rare", ha="right", va="top", fontsize=9, transform=axes.get_xaxis_transform()
        )
    slope = {"rotation": 90} if len(order) > 25 else {"rotation": 30, "ha": "right"}
    axes.set_xticks(places, [one_line(classes[k], 30) for k in order], parse_math=False, **slope)
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_title(f"IoU by class on {split}", fontsize=11, loc="left", parse_math=False)
    axes.set_ylabel("IoU, %")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(groups) > 1:
        legend = axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _label_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Write the names of the groups at the left, the first one at the top."""
    texts = [one_line(name, MAX_NAME).replace(", ", "\n") for name in names]
    axes.set_yticks(range(len(names)), texts, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
