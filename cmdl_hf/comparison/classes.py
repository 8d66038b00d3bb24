"""The table of IoU by class, with the rare classes apart."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from .tables import Table, describe_spread

RARE_SHARE = 0.02
"""A class is rare if it has less than this share of the labelled pixels."""


def find_rare(label_pixels: np.ndarray) -> list[int]:
    """Find the rare classes that occur, by their pixels (images, K) in the labels."""
    pixels = label_pixels.sum(axis=0)
    return [index for index, each in enumerate(pixels) if 0 < each < RARE_SHARE * pixels.sum()]


def order_classes(pixels: np.ndarray) -> list[int]:
    """Order classes by their pixels (images, K), the rarest first."""
    return sorted(range(pixels.shape[1]), key=lambda index: pixels[:, index].sum())


def tabulate_classes(
    groups: Mapping[str, Sequence[Sequence[float]]],
    classes: Sequence[str],
    order: Sequence[int],
    rare: Sequence[int],
    title: str = "IoU by class, %",
) -> Table:
    """Make the table of IoU by class: the rare classes, their mean, the others, their mean.

    Args:
        groups (`Mapping`): For each group, the K IoUs of each of its runs; nan for classes that do not occur.
        classes (`Sequence` of K strings): Names of the classes.
        order (`Sequence` of integers): Order of the classes.
        rare (`Sequence` of integers): Which of them are rare.
        title (`str`): Title of the table.
    """
    parts = {
        "the rare, mean": [k for k in order if k in rare],
        "the others, mean": [k for k in order if k not in rare],
    }
    rows: list[list[str]] = []
    strong = set()
    for mean, members in parts.items():
        if members:
            rows += [[classes[k], *_format(groups, [k])] for k in members]
            strong.add(len(rows))
            rows.append([mean, *_format(groups, members)])
    return Table(title, ["class", *groups], rows, strong=strong)


def _format(groups: Mapping[str, Sequence[Sequence[float]]], members: Sequence[int]) -> list[str]:
    return [describe_spread([_mean(run, members) for run in runs]) for runs in groups.values()]


def _mean(ious: Sequence[float], members: Sequence[int]) -> float:
    values = [ious[k] for k in members if not math.isnan(ious[k])]
    return statistics.mean(values) if values else math.nan
