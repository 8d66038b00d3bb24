"""Pictures of segmentations: class colours, overlays, and one figure of a prediction with its class distributions."""

import colorsys
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Segmentation: TypeAlias = np.ndarray | Tensor | Image.Image
Palette: TypeAlias = Sequence[Sequence[int]]

VOID_COLOR = (24, 24, 28)

_WIDTH = 16.0  # inches at 100 dots each
_LEGEND_WIDTH = 3.5
_LEGEND_ROW = 0.24
_MARGIN = 0.15
_TITLE = 0.32  # room above a panel


def default_palette(num_labels: int) -> list[list[int]]:
    """Choose distinct colours, each the farthest from all before it as the eye sees them.

    Deterministic, and up to 2,000 or so classes the palette of fewer classes is the beginning of that of more.

    Args:
        num_labels (`int`): Number of classes K.

    Returns:
        `list` of K rows of red, green, blue in 0..255, away from black, white and `VOID_COLOR`.
    """
    steps = 16
    while True:
        levels = np.linspace(0, 1, steps)
        colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
        seen_as = _to_oklab(colors)
        is_moderate = (seen_as[:, 0] > 0.45) & (seen_as[:, 0] < 0.92) & (np.hypot(*seen_as.T[1:]) > 0.04)
        if is_moderate.sum() >= num_labels:
            break
        steps *= 2
    colors, seen_as = colors[is_moderate], seen_as[is_moderate]
    distances = np.linalg.norm(seen_as - _to_oklab(np.array([0.27, 0.45, 0.80])), axis=1)
    chosen: list[int] = []
    for _ in range(num_labels):
        # The first is the nearest to a calm blue, each of the others the farthest from those before it.
        chosen.append(int(distances.argmax()) if chosen else int(distances.argmin()))
        to_newest = np.linalg.norm(seen_as - seen_as[chosen[-1]], axis=1)
        distances = np.minimum(distances, to_newest) if len(chosen) > 1 else to_newest
    return (colors[chosen] * 255).round().astype(int).tolist()


def colorize(segmentation: Segmentation, palette: Palette, ignore_index: int = 255) -> Image.Image:
    """Paint class ids in the colours of their classes, void pixels in `VOID_COLOR`.

    Args:
        segmentation (`np.ndarray`, `Tensor` or PIL image of shape (H, W)): Class ids in 0..K-1, or `ignore_index`.
        palette (`Sequence` of K rows): Red, green, blue in 0..255 of every class.
        ignore_index (`int`): Id of void pixels.

    Returns:
        PIL image, RGB, of the same size.

    Raises:
        ValueError: If an id has no colour.
    """
    ids = _to_ids(segmentation, "segmentation")
    is_void = ids == ignore_index
    is_unknown = ~is_void & ((ids < 0) | (ids >= len(palette)))
    if is_unknown.any():
        found = ", ".join(map(str, np.unique(ids[is_unknown])[:8]))
        raise ValueError(
            f"class ids must lie in 0..{len(palette) - 1}, as the palette has {len(palette)} colours, or be "
            f"{ignore_index} (void), found {found}; pass the palette of these classes or default_palette(num_labels)"
        )
    table = np.array([*palette, VOID_COLOR], dtype=np.uint8)
    return Image.fromarray(table[np.where(is_void, len(palette), ids)])


def overlay(
    image: Image.Image,
    segmentation: Segmentation,
    palette: Palette,
    opacity: float = 0.5,
    ignore_index: int = 255,
) -> Image.Image:
    """Lay the colours of a segmentation over its image; void pixels show the image alone.

    Args:
        image (PIL image): Of any mode.
        segmentation (`np.ndarray`, `Tensor` or PIL image of shape (H, W)): Class ids at the image's size.
        palette (`Sequence` of K rows): Colours of the classes.
        opacity (`float`): Share of the colours, from 0, the image alone, to 1.
        ignore_index (`int`): Id of void pixels.

    Returns:
        PIL image, RGB.
    """
    ids = _to_ids(segmentation, "segmentation")
    _check_size(image, ids, "segmentation")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in 0..1, found {opacity}")
    weights = np.where(ids == ignore_index, 0, round(255 * opacity)).astype(np.uint8)
    return Image.composite(colorize(ids, palette, ignore_index), image.convert("RGB"), Image.fromarray(weights))


def draw_prediction(
    image: Image.Image,
    label: Segmentation | None,
    prediction: Segmentation,
    distribution_ids: Segmentation | None,
    id2label: Mapping[int, str],
    palette: Palette,
    path: str | PathLike[str],
    per_class_iou: Sequence[float] | None = None,
    num_distributions: int | None = None,
    ignore_index: int = 255,
) -> None:
    """Save one PNG of an image, its truth, its prediction, and the class distribution that each pixel belongs to.

    Every distribution is a shade of its class's colour; the legend lists the classes present with their shades.

    Args:
        image (PIL image): Of any mode.
        label (`np.ndarray`, `Tensor` or PIL image of shape (H, W), *optional*): True class ids; its panel is left out
            without it.
        prediction (`np.ndarray`, `Tensor` or PIL image of shape (H, W)): Predicted class ids.
        distribution_ids (`np.ndarray` or `Tensor` of shape (h, w), *optional*): Distribution in 0..M-1 of each pixel
            within its predicted class, on any grid; its panel is left out without it.
        id2label (`Mapping`): Name of every class.
        palette (`Sequence` of K rows): Colours of the classes.
        path (`str` or `PathLike`): Where to save, ending in .png.
        per_class_iou (`Sequence` of K floats, *optional*): IoU of every class, for the legend.
        num_distributions (`int`, *optional*): Distributions M of a class, so that a distribution looks the same in
            every picture; by default the largest id and one.
        ignore_index (`int`): Id of void pixels.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    predicted = _to_ids(prediction, "prediction")
    _check_size(image, predicted, "prediction")
    panels = {"Image": image.convert("RGB"), "Prediction": colorize(predicted, palette, ignore_index)}
    present = set(np.unique(predicted).tolist())
    if label is not None:
        truth = _to_ids(label, "label")
        _check_size(image, truth, "label")
        present |= set(np.unique(truth).tolist())
        panels = {"Image": panels["Image"], "Truth": colorize(truth, palette, ignore_index)} | panels
    M = 0
    if distribution_ids is not None:
        M = num_distributions or int(_to_ids(distribution_ids, "distribution_ids").max()) + 1
        title = f"Distributions of the predicted classes ({M} each)"
        panels[title] = paint_distributions(predicted, distribution_ids, palette, M, ignore_index)

    rows = _legend_rows(sorted(present), id2label, palette, per_class_iou, M, ignore_index)
    figure, panel_axes, legend_axes = _lay_out(len(panels), image.height / image.width, len(rows))
    for axes, (title, picture) in zip(panel_axes, panels.items(), strict=True):
        axes.imshow(picture, interpolation="antialiased" if title == "Image" else "nearest")
        axes.set_title(title, fontsize=12, loc="left", pad=5)
    _draw_legend(legend_axes, rows)
    figure.savefig(path, format="png")


def distribution_shades(color: Sequence[int], num_distributions: int) -> list[list[int]]:
    """Shade a class's colour from dark to light, one shade for each of its M distributions; M rows of RGB."""
    hue, _, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    lightnesses = np.linspace(0.18, 0.88, num_distributions) if num_distributions > 1 else [0.5]
    saturation = min(saturation, 0.65)  # full saturation outshines the differences between shades
    shades = [colorsys.hls_to_rgb(hue, float(lightness), saturation) for lightness in lightnesses]
    return [[round(255 * channel) for channel in shade] for shade in shades]


def paint_distributions(
    prediction: Segmentation,
    distribution_ids: Segmentation,
    palette: Palette,
    num_distributions: int,
    ignore_index: int = 255,
) -> Image.Image:
    """Paint every pixel in the shade of the class distribution it belongs to, borders of classes in `VOID_COLOR`.

    Args:
        prediction (`np.ndarray`, `Tensor` or PIL image of shape (H, W)): Class ids in 0..K-1, or `ignore_index`.
        distribution_ids (`np.ndarray` or `Tensor` of shape (h, w)): Distribution in 0..M-1 of each pixel within its
            class, on any grid.
        palette (`Sequence` of K rows): Colours of the classes, shaded by `distribution_shades`.
        num_distributions (`int`): Distributions M of a class.
        ignore_index (`int`): Id of pixels without a class.

    Returns:
        PIL image, RGB, of the prediction's size.

    Raises:
        ValueError: If a distribution's id is out of range.
    """
    classes, ids = _to_ids(prediction, "prediction"), _to_ids(distribution_ids, "distribution_ids")
    if ids.min() < 0 or ids.max() >= num_distributions:
        raise ValueError(
            f"distribution_ids must lie in 0..{num_distributions - 1}, found {ids.min()} to {ids.max()}; "
            "num_distributions must be the model's config.num_distributions"
        )
    shades = np.array([distribution_shades(color, num_distributions) for color in palette], dtype=np.uint8)
    is_void = classes == ignore_index
    painted = shades[np.where(is_void, 0, classes), _resize_ids(ids, classes.shape)]
    is_border = np.zeros_like(is_void)
    is_border[1:] |= classes[1:] != classes[:-1]
    is_border[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    painted[is_void | is_border] = VOID_COLOR
    return Image.fromarray(painted)


def paint_values(values: np.ndarray | Tensor, low: float, high: float) -> Image.Image:
    """Paint a map of numbers, such as an outlier map, from dark (`low` and below) to light (`high` and above).

    Args:
        values (`np.ndarray` or `Tensor` of shape (H, W)): The numbers.
        low (`float`): Where the colours of `value_colors` begin.
        high (`float`): Where they end.

    Returns:
        PIL image, RGB, of the same size.
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    places = np.clip((array - low) / max(high - low, 1e-12), 0, 1)
    return Image.fromarray(np.array(value_colors(256), dtype=np.uint8)[(255 * places).round().astype(int)])


def value_colors(num_colors: int) -> list[list[int]]:
    """Rows of RGB, the colours of `paint_values` from low to high, for a colour bar."""
    from matplotlib import colormaps

    colors = colormaps["inferno"](np.linspace(0, 1, num_colors))[:, :3]
    return (255 * colors).round().astype(int).tolist()


class _LegendRow(NamedTuple):
    name: str
    color: Sequence[int] | None
    shades: Palette
    score: str


def _legend_rows(
    present: Sequence[int],
    id2label: Mapping[int, str],
    palette: Palette,
    per_class_iou: Sequence[float] | None,
    num_distributions: int,
    ignore_index: int,
) -> list[_LegendRow]:
    """Describe one row of the legend for every class present, and one for void, below the titles."""
    rows = [_LegendRow("Class", None, [], "" if per_class_iou is None else "IoU")]
    for class_id in present:
        if class_id == ignore_index:
            continue
        score = "" if per_class_iou is None else f"{per_class_iou[class_id]:.2f}".replace("nan", "–")
        shades = distribution_shades(palette[class_id], num_distributions) if num_distributions else []
        rows.append(_LegendRow(id2label[class_id], palette[class_id], shades, score))
    if ignore_index in present:
        rows.append(_LegendRow("void", VOID_COLOR, [], ""))
    return rows


def _lay_out(num_panels: int, aspect: float, num_rows: int) -> "tuple[Figure, list[Axes], Axes]":
    """Make a figure of two columns of panels and a legend, all placed in inches so that nothing overlaps.

    Args:
        num_panels (`int`): Panels, at least 2.
        aspect (`float`): Height of a panel divided by its width.
        num_rows (`int`): Rows of the legend.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib; install it with pip install 'cmdl_hf[plot]'") from error

    grid_rows = math.ceil(num_panels / 2)
    width = (_WIDTH - _LEGEND_WIDTH - 3 * _MARGIN) / 2
    panel = min(width * aspect, 8.0)  # a tall image is fitted into its panel
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
    """Draw swatch, name, shades and IoU of every row; the axes' unit is the inch."""
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
        while name.get_window_extent().width > 150:  # pixels, at 100 an inch
            name.set_text(name.get_text()[:-2] + "…")
        for place, shade in enumerate(row.shades):
            fill(1.95 + place / len(row.shades), y, 1 / len(row.shades), shade)
        axes.text(3.35, y + 0.08, row.score, ha="right", **style)


def _resize_ids(ids: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Enlarge ids to another grid by nearest neighbour."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, ids.shape, strict=True))
    return ids[rows[:, None], columns]


def _to_ids(segmentation: Segmentation, name: str) -> np.ndarray:
    """Take ids in any of their forms as an int64 array (H, W)."""
    array = np.asarray(segmentation.cpu() if isinstance(segmentation, Tensor) else segmentation)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold integer class ids of shape (H, W), found {array.dtype} of shape {array.shape}; take "
            "logits.argmax(dim=1)[0] of scores, one image of a batch"
        )
    return array.astype(np.int64)


def _check_size(image: Image.Image, ids: np.ndarray, name: str) -> None:
    if (image.height, image.width) != ids.shape:
        raise ValueError(
            f"image and {name} must have one size, found {(image.height, image.width)} and {ids.shape} "
            "(height, width); enlarge the logits to the image's size before taking the argmax"
        )


def _to_oklab(colors: np.ndarray) -> np.ndarray:
    """Convert sRGB in [0, 1] (..., 3) to Oklab, in which distances are those the eye sees."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    to_cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(to_lab)
