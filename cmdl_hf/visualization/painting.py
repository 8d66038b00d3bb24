"""Coloured images of class ids, distributions and numbers."""

from collections.abc import Collection

import numpy as np
from PIL import Image
from torch import Tensor

from .colors import VOID_COLOR, Palette, distribution_shades, value_colors
from .ids import ClassIds, check_size, to_array, to_ids

_PIECE = 2**22  # pixels that are painted at a time


def colorize(segmentation: ClassIds, palette: Palette, ignore_index: int = 255) -> Image.Image:
    """Paint class ids in the colours of their classes, and void pixels in `VOID_COLOR`.

    Args:
        segmentation (`np.ndarray`, `Tensor` or PIL image of shape (H, W)): Class ids in 0..K-1, or `ignore_index`.
        palette (`Sequence` of K rows): Red, green, blue in 0..255 of every class.
        ignore_index (`int`): Id of void pixels.

    Returns:
        PIL image, RGB, of the same size.

    Raises:
        ValueError: If an id has no colour.
    """
    ids = to_ids(segmentation, "segmentation")
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
    segmentation: ClassIds,
    palette: Palette,
    opacity: float = 0.5,
    ignore_index: int = 255,
    clear: Collection[int] = (),
) -> Image.Image:
    """Blend the colours of a segmentation with its image. Void pixels show only the image.

    Args:
        image (PIL image): Of any mode.
        segmentation (`np.ndarray`, `Tensor` or PIL image of shape (H, W)): Class ids at the image's size.
        palette (`Sequence` of K rows): Colours of the classes.
        opacity (`float`): Share of the colours in [0, 1]; 0 shows only the image.
        ignore_index (`int`): Id of void pixels.
        clear (`Collection` of integers): Classes whose pixels show only the image, too.

    Returns:
        PIL image, RGB.
    """
    ids = to_array(segmentation, "segmentation")
    check_size(image, ids, "segmentation")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in 0..1, found {opacity}")
    picture = image.convert("RGB") if image.mode != "RGB" else image.copy()
    rows_at_once = max(1, _PIECE // picture.width)
    for top in range(0, picture.height, rows_at_once):  # a large image is not held several times
        piece = ids[top : top + rows_at_once]
        colors = colorize(piece, palette, ignore_index)
        weights = np.where(np.isin(piece, [ignore_index, *clear]), 0, round(255 * opacity)).astype(np.uint8)
        picture.paste(colors, (0, top), Image.fromarray(weights))
    return picture


def paint_distributions(
    prediction: ClassIds,
    distribution_ids: ClassIds,
    palette: Palette,
    num_distributions: int,
    ignore_index: int = 255,
) -> Image.Image:
    """Paint every pixel in the shade of its class distribution, and borders of classes in `VOID_COLOR`.

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
    classes, ids = to_ids(prediction, "prediction"), to_ids(distribution_ids, "distribution_ids")
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
        low (`float`): Value of the first colour of `value_colors`.
        high (`float`): Value of the last colour.

    Returns:
        PIL image, RGB, of the same size.
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    places = np.clip((array - low) / max(high - low, 1e-12), 0, 1)
    return Image.fromarray(np.array(value_colors(256), dtype=np.uint8)[(255 * places).round().astype(int)])


def _resize_ids(ids: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize ids to another grid by nearest neighbour."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, ids.shape, strict=True))
    return ids[rows[:, None], columns]
