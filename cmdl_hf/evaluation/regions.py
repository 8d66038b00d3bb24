"""Connected regions of a map, found by their runs of pixels in each row."""

from typing import NamedTuple

import numpy as np


class Region(NamedTuple):
    """A connected region of one value.

    Args:
        value (`int`): The value of its pixels.
        area (`int`): Number of its pixels.
        weight (`float`): Sum of the weights of its pixels.
        box (`tuple[int, int, int, int]`): Left, top, right and bottom; right and bottom lie outside.
        mask (array (bottom - top, right - left), bool): Its pixels in the box.
    """

    value: int
    area: int
    weight: float
    box: tuple[int, int, int, int]
    mask: np.ndarray


def find_regions(values: np.ndarray, weights: np.ndarray, min_area: int) -> list[Region]:
    """Find the connected regions of equal values; pixels are neighbours if they share an edge.

    Args:
        values (array (H, W), integer): A value for every pixel, or below 0 for the background.
        weights (array (H, W)): What is summed over each region.
        min_area (`int`): Smallest number of pixels of a region.

    Returns:
        `list[Region]`: in the order of their first pixels.
    """
    height, width = values.shape
    is_new = np.ones_like(values, dtype=bool)
    is_new[:, 1:] = values[:, 1:] != values[:, :-1]
    starts = np.flatnonzero(is_new)
    ends = np.append(starts[1:], height * width)  # a row begins a new run, so no run crosses its end
    is_kept = values.reshape(-1)[starts] >= 0
    starts, ends = starts[is_kept], ends[is_kept]
    if len(starts) == 0:
        return []
    roots = _connect(starts, ends, values.reshape(-1)[starts], width)
    areas = np.bincount(roots, ends - starts, minlength=len(starts))
    sums = np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])
    totals = np.bincount(roots, sums[ends] - sums[starts], minlength=len(starts))
    found = []
    for root in np.flatnonzero(areas >= max(min_area, 1)):
        runs = np.flatnonzero(roots == root)
        found.append(_make_region(values, starts[runs], ends[runs], float(totals[root])))
    return found


def _connect(starts: np.ndarray, ends: np.ndarray, values: np.ndarray, width: int) -> np.ndarray:
    """Return for every run the index of the first run of its region."""
    low = np.searchsorted(ends, starts + width, side="right")  # runs of the next row that end after this one begins
    high = np.searchsorted(starts, ends + width, side="left")  # and those that begin before it ends
    counts = np.maximum(high - low, 0)
    above = np.repeat(np.arange(len(starts)), counts)
    below = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    is_same = values[above] == values[below]
    above, below = above[is_same], below[is_same]
    roots = np.arange(len(starts))
    while True:
        smaller = np.minimum(roots[above], roots[below])
        before = roots.copy()
        np.minimum.at(roots, before[above], smaller)  # the roots, so that whole branches move at once
        np.minimum.at(roots, before[below], smaller)
        roots = roots[roots]
        if np.array_equal(roots, before):
            return roots


def _make_region(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, weight: float) -> Region:
    width = values.shape[1]
    rows, firsts = np.divmod(starts, width)
    lasts = firsts + ends - starts
    left, top, right, bottom = int(firsts.min()), int(rows[0]), int(lasts.max()), int(rows[-1]) + 1
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    for row, first, last in zip(rows - top, firsts - left, lasts - left, strict=True):
        mask[row, first:last] = True
    return Region(int(values.flat[starts[0]]), int(mask.sum()), weight, (left, top, right, bottom), mask)
