"""The colours of pictures: of classes, of the distributions of a class, and of numbers.

Reference: the Oklab colour space, B. Ottosson, 2020.
"""

import colorsys
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Palette: TypeAlias = Sequence[Sequence[int]]
"""Colours: rows of red, green, blue in 0..255."""

VOID_COLOR = (24, 24, 28)
"""Colour of void pixels and of borders: red, green, blue."""


def default_palette(num_labels: int) -> list[list[int]]:
    """Choose distinct colours. Each one is as far as possible from all earlier ones, in a perceptual colour space.

    The result is deterministic. Up to about 2,000 classes, a shorter palette is the beginning of a longer one.

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
        # The first colour is the nearest to a calm blue. Each other colour is the farthest from all earlier ones.
        chosen.append(int(distances.argmax()) if chosen else int(distances.argmin()))
        to_newest = np.linalg.norm(seen_as - seen_as[chosen[-1]], axis=1)
        distances = np.minimum(distances, to_newest) if len(chosen) > 1 else to_newest
    return (colors[chosen] * 255).round().astype(int).tolist()


def distribution_shades(color: Sequence[int], num_distributions: int) -> list[list[int]]:
    """Shade a class's colour from dark to light, one shade for each of its M distributions; M rows of RGB."""
    hue, _, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    lightnesses = np.linspace(0.18, 0.88, num_distributions) if num_distributions > 1 else [0.5]
    saturation = min(saturation, 0.65)  # full saturation would hide the differences between shades
    shades = [colorsys.hls_to_rgb(hue, float(lightness), saturation) for lightness in lightnesses]
    return [[round(255 * channel) for channel in shade] for shade in shades]


def value_colors(num_colors: int) -> list[list[int]]:
    """Return the colours of `paint_values` from low to high, as rows of RGB, for a colour bar."""
    from matplotlib import colormaps

    colors = colormaps["inferno"](np.linspace(0, 1, num_colors))[:, :3]
    return (255 * colors).round().astype(int).tolist()


def _to_oklab(colors: np.ndarray) -> np.ndarray:
    """Convert sRGB in [0, 1] (..., 3) to Oklab, a perceptual colour space."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    to_cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(to_lab)
