"""Pictures of an evaluation: the confusion matrix, the worst images, and labels that may be wrong."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..escaping import isolate, one_line
from ..files import new_file
from ..visualization import VOID_COLOR, Palette, choose_legend, colorize
from .inspection import DoubtfulLabel, WorstImage
from .summary import confused_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 100
_MOST_CLASSES = 25  # of a confusion matrix
_NAME = 24  # letters of a name in a picture
_PANEL = 4.0  # inches, of an image
_MOST_LISTED = 50  # classes in a legend
MOST_DOUBTFUL = 12
"""Number of regions that the picture of doubtful labels shows at most."""

_TITLE = 0.35  # inches, above the panels
_MARK = (1.0, 0.0, 1.0)


def draw_confusion(confusion: np.ndarray, id2label: Mapping[int, str], path: Path) -> None:
    """Draw a confusion matrix: the share of each class's pixels that each class was predicted for, in %.

    Of more than 25 classes it shows those that are confused most; the others are together in a last column.

    Args:
        confusion (array (K, K)): Pixels by label (row) and prediction (column).
        id2label (`Mapping`): Name of every class.
        path (`Path`): PNG file to write.
    """
    chosen = choose_classes(confusion)
    totals = confusion.sum(axis=1)[chosen]
    shown = confusion[np.ix_(chosen, chosen)].astype(np.float64)
    names = [one_line(id2label[id_], _NAME) for id_ in chosen]
    columns = list(names)
    if len(chosen) < len(confusion):
        shown = np.hstack([shown, (totals - shown.sum(axis=1))[:, None]])
        columns.append(f"{len(confusion) - len(chosen)} others")
    which = f", the {len(chosen)} most confused of {len(confusion)} classes" if len(chosen) < len(confusion) else ""
    title = f"% of each label's pixels{which}"
    percent = np.divide(100 * shown, totals[:, None], out=np.full(shown.shape, np.nan), where=totals[:, None] > 0)

    cell, name_width = float(np.clip(3.6 / len(columns), 0.42, 1.0)), 0.08 * max(map(len, columns))
    is_flat = name_width < cell  # the names of columns fit side by side
    left, bottom = name_width + 0.5, 0.7 if is_flat else name_width + 0.5
    width, height = cell * len(columns), cell * len(names)
    figure = _make_figure(max(width + left + 0.3, 0.085 * len(title) + 0.2), height + bottom + 0.6)
    axes = _place(figure, left, 0.6, width, height)
    axes.imshow(np.nan_to_num(percent), cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(*percent.shape):
        value = percent[row, column]
        if value >= 0.5:
            color = "white" if value > 55 else "black"
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", fontsize=8 if cell < 0.6 else 11, color=color
            )
    style: dict[str, Any] = {"fontsize": 9, "parse_math": False}
    axes.set_xticks(range(len(columns)), columns, rotation=0 if is_flat else 90, **style)
    axes.set_yticks(range(len(names)), names, **style)
    axes.set_ylabel("label", fontsize=10)
    axes.set_xlabel("prediction", fontsize=10)
    axes.tick_params(length=0)
    figure.text(0.1 / figure.get_figwidth(), 1 - 0.35 / figure.get_figheight(), title)
    _save(figure, path)


def choose_classes(confusion: np.ndarray, most: int = _MOST_CLASSES) -> list[int]:
    """Choose the classes that a confusion matrix shows: all, or those with the largest confusion, in their order.

    Args:
        confusion (array (K, K)): Pixels by label (row) and prediction (column).
        most (`int`): Largest number of classes.

    Returns:
        `list[int]`: ids. The confusion of two classes is the larger share of a class's pixels predicted as the other.
    """
    K = len(confusion)
    if most >= K:
        return list(range(K))
    shares = confused_shares(confusion)
    chosen: dict[int, None] = {}
    for place in np.argsort(-shares, axis=None, kind="stable"):
        for id_ in divmod(int(place), K):
            if len(chosen) < most:
                chosen[id_] = None
        if len(chosen) == most:
            break
    return sorted(chosen)


def draw_worst_images(
    worst: Sequence[WorstImage],
    load_image: Callable[[str], Image.Image],
    id2label: Mapping[int, str],
    palette: Palette,
    path: Path,
    ignore_index: int = 255,
    *,
    num_images: int,
) -> None:
    """Draw the worst images, each beside its label and its prediction, and a legend of their classes.

    Of more than 50 classes, it lists the largest.

    Args:
        worst (`Sequence`): The images, the worst first.
        load_image (`Callable`): Takes an id and returns the image.
        id2label (`Mapping`): Name of every class.
        palette (`Sequence` of K rows): Colours of the classes.
        path (`Path`): PNG file to write.
        ignore_index (`int`): Label of void pixels.
        num_images (`int`): Number of all images, for the title.
    """
    heights = [_PANEL * min(each.labels.shape[0] / each.labels.shape[1], 1.5) for each in worst]
    maps = (ids for each in worst for ids in (each.labels, each.class_ids))
    present, num_others = choose_legend(maps, _MOST_LISTED)
    entries: list[tuple[str, Sequence[int] | None]] = [
        (one_line(id2label[id_], _NAME), palette[id_]) for id_ in present if id_ != ignore_index
    ]
    entries += [("void", VOID_COLOR)] if ignore_index in present else []
    entries += [(f"and {num_others} more", None)] if num_others else []
    legend = 0.25 * -(-len(entries) // 5) + 0.2
    figure = _make_figure(3 * _PANEL + 0.4, _TITLE + sum(heights) + 0.35 * len(worst) + legend + 0.2)
    _write_title(figure, f"The {len(worst)} worst of {num_images:,} images")
    top = _TITLE + 0.1
    for each, height in zip(worst, heights, strict=True):
        image = load_image(each.id).convert("RGB")
        panels = [image, *(colorize(ids, palette, ignore_index) for ids in (each.labels, each.class_ids))]
        title = f"{isolate(one_line(each.id, 70))}: {100 * each.accuracy:.1f} % of the pixels are correct"
        for column, (panel, name) in enumerate(zip(panels, (title, "label", "prediction"), strict=True)):
            axes = _place(figure, 0.1 + column * (_PANEL + 0.1), top + 0.3, _PANEL, height)
            axes.set_axis_off()
            axes.imshow(panel, interpolation="antialiased" if column == 0 else "nearest")
            _write(figure, 0.1 + column * (_PANEL + 0.1), top + 0.2, name)
        top += height + 0.35
    _draw_legend(figure, entries, top + 0.1)
    _save(figure, path)


def draw_doubtful_labels(
    doubtful: Sequence[DoubtfulLabel],
    load_image: Callable[[str], Image.Image],
    id2label: Mapping[int, str],
    path: Path,
    *,
    num_regions: int,
) -> None:
    """Draw up to twelve regions whose label may be wrong: the place in the image, and the region outlined.

    Args:
        doubtful (`Sequence`): The regions, the most doubtful first.
        load_image (`Callable`): Takes an id and returns the image.
        id2label (`Mapping`): Name of every class.
        path (`Path`): PNG file to write.
        num_regions (`int`): Number of all regions, for the title.
    """
    shown = doubtful[:MOST_DOUBTFUL]
    row, half = 2.9, 2 * _PANEL * 0.8 + 0.2
    figure = _make_figure(2 * half + 0.3, _TITLE + row * -(-len(shown) // 2) + 0.2)
    _write_title(figure, f"{len(shown)} of {num_regions:,} regions whose label may be wrong, the most doubtful first")
    for index, each in enumerate(shown):
        left, top = 0.1 + index % 2 * (half + 0.1), _TITLE + 0.1 + index // 2 * row
        image = load_image(each.id).convert("RGB")
        names = [isolate(one_line(id2label[id_], _NAME)) for id_ in (each.label, each.predicted)]
        what = f"label {names[0]}, prediction {names[1]} ({100 * each.confidence:.0f} %), {each.area:,} pixels"
        _write(figure, left, top + 0.15, f"{index + 1}. {isolate(one_line(each.id, 50))}")
        _write(figure, left, top + 0.35, what)
        _draw_region(_place(figure, left, top + 0.42, _PANEL * 0.8, row - 0.5), image, each, None)
        _draw_region(
            _place(figure, left + _PANEL * 0.8 + 0.1, top + 0.42, _PANEL * 0.8, row - 0.5),
            image,
            each,
            _surroundings(image, each),
        )
    _save(figure, path)


def _surroundings(image: Image.Image, region: DoubtfulLabel) -> tuple[int, int, int, int]:
    """Return a box around a region with what lies beside it: half of its size on each side, at least 24 pixels."""
    left, top, right, bottom = region.box
    pad = max(24, (right - left) // 2, (bottom - top) // 2)
    return max(left - pad, 0), max(top - pad, 0), min(right + pad, image.width), min(bottom + pad, image.height)


def _draw_region(
    axes: "Axes", image: Image.Image, region: DoubtfulLabel, view: tuple[int, int, int, int] | None
) -> None:
    """Draw an image, or a view of it, with the outline of a region."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = view or (0, 0, image.width, image.height)
    axes.set_axis_off()
    axes.set_anchor("NW")
    axes.imshow(image.crop((left, top, right, bottom)), interpolation="antialiased")
    x, y = region.box[0] - left, region.box[1] - top
    if view is None:
        size = region.box[2] - region.box[0], region.box[3] - region.box[1]
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), *size, fill=False, color=_MARK, linewidth=1.5))
        return
    mask = np.zeros((bottom - top, right - left))
    mask[y : y + region.mask.shape[0], x : x + region.mask.shape[1]] = region.mask
    axes.contour(np.pad(mask, 1)[1:-1, 1:-1], [0.5], colors=[_MARK], linewidths=1.5)


def _draw_legend(figure: "Figure", entries: Sequence[tuple[str, Sequence[int] | None]], top: float) -> None:
    from matplotlib.patches import Rectangle

    for index, (name, color) in enumerate(entries):
        left, line = 0.1 + index % 5 * 2.4, top + index // 5 * 0.25
        if color is not None:
            box = _box(figure, left, line, 0.2, 0.17)
            swatch = Rectangle(box[:2], *box[2:], facecolor=np.array(color) / 255, transform=figure.transFigure)
            figure.add_artist(swatch)
        _write(figure, left + 0.3, line + 0.14, name)


def _make_figure(width: float, height: float) -> "Figure":
    """Make a figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _box(figure: "Figure", left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Convert inches from the top left of a figure to its own units."""
    whole = figure.get_figwidth(), figure.get_figheight()
    return left / whole[0], 1 - (top + height) / whole[1], width / whole[0], height / whole[1]


def _place(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    axes = figure.add_axes(_box(figure, left, top, width, height))
    axes.set_anchor("NW")
    return axes


def _write(figure: "Figure", left: float, bottom: float, text: str) -> None:
    """Write a line whose base lies some inches below the top."""
    x, y, _, _ = _box(figure, left, bottom, 0, 0)
    figure.text(x, y, text, fontsize=9, parse_math=False)


def _write_title(figure: "Figure", text: str) -> None:
    x, y, _, _ = _box(figure, 0.1, 0.3, 0, 0)
    figure.text(x, y, text, fontsize=11, fontweight="bold", parse_math=False)


def _save(figure: "Figure", path: Path) -> None:
    with new_file(path) as unfinished:
        figure.savefig(unfinished, format="png")
