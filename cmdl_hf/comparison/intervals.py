"""Intervals of the difference between two groups of runs: one over images, one over seeds.

The two answer different questions. The interval over images says how much the difference depends on the images that
were scored, with these trained models. The interval over seeds says how much it depends on the seeds, on these images.

References: "An Introduction to the Bootstrap" (Efron and Tibshirani, 1993); blocks as in "The Jackknife and the
Bootstrap for General Stationary Observations" (Künsch, 1989), on a circle; Welch's t interval (Biometrika, 1947).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 10_000
BLOCK_SIZE = 10  # neighbouring images that are drawn together
_CHUNK = 1_000  # resamples that are in memory at a time


class Interval(NamedTuple):
    """A difference of mean IoUs and the ends of its 95 % interval."""

    difference: float
    low: float
    high: float
    share_above: float = math.nan
    """Share of the resampled differences above 0; nan for an interval over seeds."""


def mean_ious(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the mean IoU of one run for each resampling of its images.

    Args:
        counts (array (images, 2, K)): Intersection and union of each class.
        weights (array (resamples, images)): How often each image was drawn.

    Returns:
        Array (resamples,): means over the classes that occur.
    """
    sums = np.tensordot(weights, counts.astype(float), axes=1)  # (resamples, 2, K)
    is_there = sums[:, 1] > 0
    ious = np.divide(sums[:, 0], sums[:, 1], out=np.zeros_like(sums[:, 0]), where=is_there)
    with np.errstate(invalid="ignore"):
        return ious.sum(axis=1) / is_there.sum(axis=1)


def find_block_size(num_images: int) -> int:
    """Return the number of neighbouring images to draw together: ten, and fewer if there are less than a hundred."""
    return min(BLOCK_SIZE, max(1, num_images // 10))


def resample(runs: Sequence[np.ndarray], block_size: int = BLOCK_SIZE) -> np.ndarray:
    """Resample the images of a group of runs, and average the mean IoU over the runs.

    Neighbouring images, such as those of one drive, resemble each other. They are therefore drawn in blocks. The draws
    depend only on the number of images, so that those of two groups are pairs.

    Args:
        runs (`Sequence` of arrays (images, 2, K)): Counts of each run, see [`mean_ious`].
        block_size (`int`): Number of neighbouring images in a block.

    Returns:
        Array (1 + resamples,): first the mean IoU on the images themselves.
    """
    num_images = len(runs[0])
    num_blocks = max(round(num_images / block_size), 1)
    generator = np.random.default_rng(0)
    chances = np.full(num_images, 1 / num_images)
    parts = [_average(runs, np.ones((1, num_images), dtype=int))]
    for _ in range(0, NUM_RESAMPLES, _CHUNK):
        starts = generator.multinomial(num_blocks, chances, _CHUNK)
        draws = np.sum([np.roll(starts, shift, axis=1) for shift in range(block_size)], axis=0)
        parts.append(_average(runs, draws))
    return np.concatenate(parts)


def _average(runs: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    return np.mean([mean_ious(counts, weights) for counts in runs], axis=0)


def subtract(first: np.ndarray, second: np.ndarray) -> Interval:
    """Find the interval over images of the difference between two groups.

    Args:
        first (array (1 + resamples,)): Result of [`resample`] for the first group.
        second (array (1 + resamples,)): For the second group, on the same images.

    Returns:
        [`Interval`]: the difference on the images themselves, and the interval that holds 95 % of the resampled ones.
    """
    difference = first - second
    low, high = np.nanquantile(difference[1:], [0.025, 0.975])
    return Interval(float(difference[0]), float(low), float(high), float((difference[1:] > 0).mean()))


def image_interval(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], block_size: int = BLOCK_SIZE
) -> Interval:
    """Find the interval over images of the difference between two groups: a paired bootstrap of blocks.

    Args:
        first (`Sequence` of arrays (images, 2, K)): Counts of each run of the first group, see [`mean_ious`].
        second (`Sequence` of arrays (images, 2, K)): Counts of the second group, on the same images.
        block_size (`int`): Number of neighbouring images that are drawn together.
    """
    return subtract(resample(first, block_size), resample(second, block_size))


def seed_interval(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Find the interval over seeds of the difference between two groups: Welch's t.

    Args:
        first (`Sequence` of floats): Mean IoU of each seed of the first group.
        second (`Sequence` of floats): Mean IoU of each seed of the second group.

    Returns:
        [`Interval`], or None if a group has fewer than two seeds, or no seed makes a difference.
    """
    if min(len(first), len(second)) < 2:
        return None
    shares = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    if sum(shares) == 0:
        return None
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(values) - 1) for share, values in zip(shares, (first, second), strict=True)
    )
    difference = float(np.mean(first) - np.mean(second))
    reach = t_quantile(freedom) * math.sqrt(sum(shares))
    return Interval(difference, difference - reach, difference + reach)


def t_quantile(freedom: float, share: float = 0.95) -> float:
    """Find how many standard errors hold a share of Student's t distribution, by bisection.

    With t = sqrt(freedom) tan(angle), the density over the angle is proportional to cos(angle)^(freedom - 1).

    Args:
        freedom (`float`): Degrees of freedom, at least 1.
        share (`float`): The share, in (0, 1).
    """
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        angles = (np.arange(4_000) + 0.5) * middle / 4_000
        held = 2 * factor * middle * np.mean(np.cos(angles) ** (freedom - 1))
        low, high = (middle, high) if held < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)
