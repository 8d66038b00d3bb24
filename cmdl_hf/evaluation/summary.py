"""Scores for people: the table of classes, and in words the worst classes and those that are confused most."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..escaping import one_line

_NAME = 32  # letters of a class's name in the table, which then fits into 80 columns
_NUM_WORST = 3
_NUM_PAIRS = 5
_LEAST_SHARE = 0.02  # of a class's pixels; a pair that is confused less is not told of


def format_classes(
    id2label: Mapping[int, str],
    scores: Mapping[str, Any],
    pixel_shares: Sequence[float] | None = None,
    most_rows: int | None = None,
) -> str:
    """Make a table of the classes from the best IoU to the worst, followed by the means; all values in %.

    Args:
        id2label (`Mapping`): Name of every class.
        scores (`Mapping`): Result of [`evaluate`].
        pixel_shares (`Sequence` of K floats, *optional*): Shares of the classes in the labelled pixels.
        most_rows (`int`, *optional*): Largest number of classes to list: a third from the top, the others from the
            bottom. By default, all.

    Returns:
        `str`: lines of at most 80 columns. Classes without pixels come last.
    """
    ious = [math.nan if value is None else float(value) for value in scores["per_class_iou"]]
    order = sorted(id2label, key=lambda id_: (math.isnan(ious[id_]), -ious[id_] if ious[id_] == ious[id_] else id_))
    names = {id_: one_line(name, _NAME) for id_, name in id2label.items()}
    width = max(map(len, (*names.values(), "frequency-weighted")))
    rows = [f"{'class':<{width}}{'IoU':>9}{'accuracy':>10}{'pixels':>9}   %"]
    for place, id_ in enumerate(order):
        if most_rows is not None and len(order) > most_rows:
            num_left_out = len(order) - most_rows
            if place == most_rows // 3:
                rows.append(f"... {num_left_out} classes between")
            if most_rows // 3 <= place < most_rows // 3 + num_left_out:
                continue
        share = "" if pixel_shares is None else _percent(pixel_shares[id_])
        values = _percent(ious[id_]), _percent(scores["per_class_accuracy"][id_])
        rows.append(f"{names[id_]:<{width}}{values[0]:>9}{values[1]:>10}{share:>9}")
    rows += [
        f"{'mean':<{width}}{_percent(scores['mean_iou']):>9}{_percent(scores['mean_accuracy']):>10}",
        f"{'frequency-weighted':<{width}}{_percent(scores['frequency_weighted_iou']):>9}",
        f"{'all pixels':<{width}}{'':>9}{_percent(scores['overall_accuracy']):>10}",
    ]
    return "\n".join(rows)


def describe_worst(id2label: Mapping[int, str], scores: Mapping[str, Any]) -> str | None:
    """Name the classes with the lowest IoU, in one sentence; None if there are few classes."""
    ious = {id_: scores["per_class_iou"][id_] for id_ in id2label}
    measured = {id_: float(iou) for id_, iou in ious.items() if iou is not None and not math.isnan(iou)}
    if len(measured) <= _NUM_WORST:
        return None
    worst = sorted(measured, key=lambda id_: measured[id_])[:_NUM_WORST]
    return "worst: " + ", ".join(f"`{one_line(id2label[id_], _NAME)}` ({100 * measured[id_]:.1f} %)" for id_ in worst)


def confused_shares(confusion: np.ndarray) -> np.ndarray:
    """Return the share of each class's pixels (row) that each other class (column) was predicted for, (K, K)."""
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    np.fill_diagonal(shares, 0)
    return shares


def find_confused(confusion: np.ndarray, num_pairs: int = _NUM_PAIRS) -> list[tuple[int, int, float]]:
    """Find the pairs of classes of which the first is mistaken for the second most often.

    Args:
        confusion (array (K, K)): Pixels by label (row) and prediction (column).
        num_pairs (`int`): Largest number of pairs.

    Returns:
        `list`: label, prediction, and the share of the label's pixels that have this prediction, the largest first.
        Shares below 2 % are left out.
    """
    shares = confused_shares(confusion)
    order = np.argsort(-shares, axis=None, kind="stable")[:num_pairs]
    pairs = [divmod(int(place), confusion.shape[1]) for place in order]
    return [
        (label, found, float(shares[label, found])) for label, found in pairs if shares[label, found] >= _LEAST_SHARE
    ]


def describe_confused(id2label: Mapping[int, str], confusion: np.ndarray) -> list[str]:
    """Tell of the most confused classes in words, one sentence for each pair; see [`find_confused`]."""
    return [
        f"of the pixels of `{one_line(id2label[label], _NAME)}`, {100 * share:.0f} % are predicted as "
        f"`{one_line(id2label[found], _NAME)}`"
        for label, found, share in find_confused(confusion)
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f}"
