import numpy as np
import pytest

from cmdl_hf.visualization import VOID_COLOR, default_palette, distribution_shades


@pytest.mark.parametrize("num_labels", [0, 1, 19, 171, 1000, 3000])
def test_default_palette_is_distinct_and_deterministic(num_labels):
    palette = default_palette(num_labels)
    assert len({tuple(color) for color in palette}) == len(palette) == num_labels
    assert palette == default_palette(num_labels)
    assert all(type(channel) is int and 0 <= channel <= 255 for color in palette for channel in color)


def test_default_palette_begins_alike_and_is_far_apart():
    palette = np.array(default_palette(30))
    assert default_palette(8) == palette[:8].tolist()
    colors = np.vstack([palette, VOID_COLOR, (255, 255, 255)])
    distances = np.abs(colors[:, None] - colors[None]).max(axis=-1)
    assert distances[~np.eye(len(colors), dtype=bool)].min() > 30


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (64, 0, 128)])
@pytest.mark.parametrize("num_distributions", [1, 2, 9, 20])
def test_every_distribution_has_its_own_shade_from_dark_to_light(color, num_distributions):
    shades = distribution_shades(color, num_distributions)
    assert len(shades) == num_distributions
    brightness = [sum(shade) for shade in shades]
    assert brightness == sorted(set(brightness))
