"""A figure of a prediction: panels, and a legend of classes and distributions."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ..escaping import MAX_NAME, one_line
from ..files import new_file
from .colors import VOID_COLOR, Palette, distribution_shades
from .ids import ClassIds, check_size, to_ids
from .legend import choose_legend
from .painting import colorize, paint_distributions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 16.0  # inches at 100 dots each
_LEGEND_WIDTH = 3.5
_LEGEND_ROW = 0.24
_MOST_CLASSES = 40  # of the legend
_MARGIN = 0.15
_TITLE = 0.32  # room above a panel


def draw_prediction(
    image: Image.Image,
    label: ClassIds | None,
    prediction: ClassIds,
    distribution_ids: ClassIds | None,
    id2label: Mapping[int, str],
    palette: Palette,
    path: str | PathLike[str],
    per_class_iou: Sequence[float] | None = None,
    num_distributions: int | None = None,
    ignore_index: int = 255,
) -> None:
    """Save one PNG with an image, its labels, its prediction, and the class distribution of each pixel.

    Every distribution has a shade of its class's colour. The legend lists the classes and the
    shades; of more than 40 classes in the picture, it lists the largest, and says how many others there are.

    Args:
        image (PIL image): Of any mode.
        label (`np.ndarray`, `Tensor` or PIL image of shape (H, W), *optional*): True class ids. Without
            them, this panel is left out.
        prediction (`np.ndarray`, `Tensor` or PIL image of shape (H, W)): Predicted class ids.
        distribution_ids (`np.ndarray` or `Tensor` of shape (h, w), *optional*): Distribution in 0..M-1 of each pixel
            within its predicted class, on any grid. Without them, this panel is left out.
        id2label (`Mapping`): Name of every class.
        palette (`Sequence` of K rows): Colours of the classes.
        path (`str` or `PathLike`): File to write, ending in .png.
        per_class_iou (`Sequence` of K floats, *optional*): IoU of every class, for the legend.
        num_distributions (`int`, *optional*): Distributions M per class. Set it to give a distribution the same
            shade in every picture. By default, the largest id plus one.
        ignore_index (`int`): Id of void pixels.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    predicted = to_ids(prediction, "prediction")
    check_size(image, predicted, "prediction")
    panels = {"Image": image.convert("RGB"), "Prediction": colorize(predicted, palette, ignore_index)}
    maps = [predicted]
    if label is not None:
        truth = to_ids(label, "label")
        check_size(image, truth, "label")
        maps.append(truth)
        panels = {"Image": panels["Image"], "Truth": colorize(truth, palette, ignore_index)} | panels
    M = 0
    if distribution_ids is not None:
        M = num_distributions or int(to_ids(distribution_ids, "distribution_ids").max()) + 1
        title = f"Distributions of the predicted classes ({M} each)"
        panels[title] = paint_distributions(predicted, distribution_ids, palette, M, ignore_index)

    rows = _legend_rows(maps, id2label, palette, per_class_iou, M, ignore_index)
    figure, panel_axes, legend_axes = _lay_out(len(panels), image.height / image.width, len(rows))
    for axes, (title, picture) in zip(panel_axes, panels.items(), strict=True):
        axes.imshow(picture, interpolation="antialiased" if title == "Image" else "nearest")
        axes.set_title(title, fontsize=12, loc="left", pad=5)
    _draw_legend(legend_axes, rows)
    with new_file(Path(path)) as unfinished:
        figure.savefig(unfinished, format="png")


class _LegendRow(NamedTuple):
    name: str
    color: Sequence[int] | None
    shades: Palette
    score: str


def _legend_rows(
    maps: Sequence[np.ndarray],
    id2label: Mapping[int, str],
    palette: Palette,
    per_class_iou: Sequence[float] | None,
    num_distributions: int,
    ignore_index: int,
) -> list[_LegendRow]:
    """Make the rows of the legend: the titles, each class that is present or the largest ones, and void."""
    present, num_others = choose_legend(maps, _MOST_CLASSES)
    rows = [_LegendRow("Class", None, [], "" if per_class_iou is None else "IoU")]
    for class_id in present:
        if class_id == ignore_index:
            continue
        score = "" if per_class_iou is None else f"{per_class_iou[class_id]:.2f}".replace("nan", "–")
        shades = distribution_shades(palette[class_id], num_distributions) if num_distributions else []
        rows.append(_LegendRow(one_line(id2label[class_id], MAX_NAME), palette[class_id], shades, score))
    if ignore_index in present:
        rows.append(_LegendRow("void", VOID_COLOR, [], ""))
    if num_others:
        rows.append(_LegendRow(f"and {num_others} more", None, [], ""))
    return rows


def _lay_out(num_panels: int, aspect: float, num_rows: int) -> "tuple[Figure, list[Axes], Axes]":
    """Make a figure with two columns of panels and a legend, placed in inches without overlaps.

    Args:
        num_panels (`int`): Number of panels, at least 2.
        aspect (`float`): Height of a panel divided by its width.
        num_rows (`int`): Number of rows of the legend.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib; install it with pip install matplotlib") from error

    grid_rows = math.ceil(num_panels / 2)
    width = (_WIDTH - _LEGEND_WIDTH - 3 * _MARGIN) / 2
    panel = min(width * aspect, 8.0)  # a tall image is scaled down to its panel
    legend = num_rows * _LEGEND_ROW + _TITLE
    total = max(grid_rows * (panel + _TITLE), legend) + 2 * _MARGIN
    figure = Figure(figsize=(_WIDTH, total), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)

    def place(left: float, top: float, width: float, height: float) -> "Axes":
        box = (left / _WIDTH, 1 - (top + height) / total, width / _WIDTH, height / total)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        axes.set_anchor("NW")
        return axes

    panels = []
    for index in range(num_panels):
        row, column = divmod(index, 2)
        left, top = _MARGIN + column * (width + _MARGIN), _MARGIN + _TITLE + row * (panel + _TITLE)
        panels.append(place(left, top, width, panel))
    legend_axes = place(_WIDTH - _LEGEND_WIDTH, _MARGIN + _TITLE, _LEGEND_WIDTH, legend)
    legend_axes.set(xlim=(0, _LEGEND_WIDTH), ylim=(legend, 0))
    return figure, panels, legend_axes


def _draw_legend(axes: "Axes", rows: Sequence[_LegendRow]) -> None:
    """Draw swatch, name, shades and IoU of every row. The axes' unit is one inch."""
    from matplotlib.patches import Rectangle

    def fill(x: float, y: float, width: float, color: Sequence[int]) -> None:
        axes.add_patch(Rectangle((x, y), width, 0.16, facecolor=np.array(color) / 255, linewidth=0))

    for index, row in enumerate(rows):
        y = index * _LEGEND_ROW
        style: dict[str, Any] = {
            "fontsize": 10,
            "va": "center",
            "weight": "bold" if index == 0 else "normal",
            "parse_math": False,
        }
        if row.color is not None:
            fill(0.1, y, 0.2, row.color)
        name = axes.text(0.4, y + 0.08, row.name, **style)
        while name.get_window_extent().width > 150:  # pixels, at 100 per inch
            name.set_text(name.get_text()[:-2] + "…")
        for place, shade in enumerate(row.shades):
            fill(1.95 + place / len(row.shades), y, 1 / len(row.shades), shade)
        axes.text(3.35, y + 0.08, row.score, ha="right", **style)
