"""Connected regions, against a search that visits pixel by pixel."""

import numpy as np
import pytest

from cmdl_hf.evaluation.regions import find_regions


def search(values):
    """Sets of the pixels of every region, by walking to the neighbours."""
    left = {place for place in np.ndindex(*values.shape) if values[place] >= 0}
    regions = []
    while left:
        region, ahead = set(), [min(left)]
        while ahead:
            row, column = place = ahead.pop()
            if place in left and (not region or values[place] == values[next(iter(region))]):
                left.remove(place)
                region.add(place)
                ahead += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        regions.append(region)
    return regions


@pytest.mark.parametrize("seed", range(8))
def test_regions_are_those_of_a_walk(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, 3, (rng.integers(1, 30), rng.integers(1, 30)))
    weights = rng.random(values.shape)
    found = find_regions(values, weights, 1)
    expected = search(values)
    assert len(found) == len(expected)
    for region in found:
        left, top, right, bottom = region.box
        pixels = {(row + top, column + left) for row, column in np.argwhere(region.mask).tolist()}
        assert pixels in expected
        assert region.area == len(pixels)
        assert (bottom - top, right - left) == region.mask.shape
        assert region.weight == pytest.approx(sum(weights[place] for place in pixels))
        assert {int(values[place]) for place in pixels} == {region.value}
    assert all(region.area >= 4 for region in find_regions(values, weights, 4))


def test_a_spiral_is_one_region_and_nothing_gives_none():
    spiral = np.full((41, 41), -1)
    row = column = 0
    spiral[0, 0] = 5
    for length, (down, across) in zip(
        [40, 40, 40, *(step for pair in range(38, 0, -2) for step in (pair, pair))],
        [(0, 1), (1, 0), (0, -1), (-1, 0)] * 10,
        strict=False,
    ):
        for _ in range(length):
            row, column = row + down, column + across
            spiral[row, column] = 5
    (region,) = find_regions(spiral, np.ones(spiral.shape), 1)
    assert region.area == (spiral == 5).sum()
    assert find_regions(np.full((3, 4), -1), np.ones((3, 4)), 1) == []
