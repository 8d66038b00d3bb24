"""How many pixels each class has, and loss weights that make up for the rarity of some.

Reference: "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation" (arXiv 1606.02147).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
from PIL import Image

from .label_table import IGNORE_INDEX

_BATCH_SIZE = 16  # labels decoded at a time: 32 MB of Cityscapes


def class_pixel_counts(dataset: datasets.Dataset, num_labels: int) -> list[int]:
    """Count the pixels of every class.

    The labels are read once: the histograms lie in the cache of `datasets` under the fingerprint of `dataset`, so a
    data set of other files, other classes or other rows is counted anew. What lives in memory has no cache.

    Args:
        dataset (`datasets.Dataset`): One split with the column `label`, as `load_benchmark` gives it. A transform set
            on it changes the fingerprint, but not the counts.
        num_labels (`int`): Number of classes K.

    Returns:
        `list` of K pixel counts; void pixels are in none of them.

    Raises:
        ValueError: If a label is withheld, or holds an id that is neither in 0..K-1 nor 255.
    """
    histograms = (
        dataset.with_format(None)
        .select_columns("label")
        .map(
            partial(_count_batch, num_labels=num_labels),
            batched=True,
            batch_size=_BATCH_SIZE,
            remove_columns="label",
            features=datasets.Features({"counts": datasets.List(datasets.Value("int64"), length=num_labels)}),
            desc="counting pixels",
        )
    )
    return np.reshape(histograms["counts"][:], (-1, num_labels)).sum(axis=0, dtype=np.int64).tolist()


def class_weights(counts: Sequence[int], offset: float = 1.02) -> list[float]:
    """Weigh every class by 1 / ln(offset + its share of the pixels), as ENet does.

    Weights lie between 1 / ln(offset + 1) and 1 / ln(offset), 1.4 and 50.5 by default, so that neither a rare class
    nor one without any pixel drowns the others.

    Args:
        counts (`Sequence[int]`): Pixels of each of the K classes, of [`class_pixel_counts`].
        offset (`float`): Above 1; the larger, the more alike the weights.

    Returns:
        `list` of K weights, for `torch.nn.functional.cross_entropy(weight=torch.tensor(...))`.

    Raises:
        ValueError: If there are no pixels, or `offset` is not above 1.

    Example:
        ```python
        counts = class_pixel_counts(camvid["train"], camvid.num_labels)
        weights = class_weights(counts)
        ```
    """
    if offset <= 1:
        raise ValueError(f"offset must be above 1, or a class without pixels has no weight, found {offset}")
    if min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"counts must be pixels of a labelled split, at least 0 and not all 0, found {list(counts)}")
    total = sum(counts)
    return [1 / math.log(offset + count / total) for count in counts]


def label_histogram(label: Image.Image) -> np.ndarray:
    """Count the pixels of each id of an 8-bit label (mode L or P); int64 of shape (256,)."""
    return np.array(label.histogram(), dtype=np.int64)


def _count_batch(batch: dict[str, list[Image.Image | None]], num_labels: int) -> dict[str, Any]:
    """Turn a batch of labels into one row: pixels of each class (K,)."""
    counts = np.zeros(IGNORE_INDEX + 1, dtype=np.int64)
    for label in batch["label"]:
        if label is None:
            raise ValueError("pixels can only be counted where there are labels; choose a split that has them")
        counts += label_histogram(label)
    if unknown := np.flatnonzero(counts[num_labels:IGNORE_INDEX]).tolist():
        found = ", ".join(f"{num_labels + id_} ({counts[num_labels + id_]} px)" for id_ in unknown)
        raise ValueError(
            f"labels must lie in 0..{num_labels - 1} or be {IGNORE_INDEX} (void), found {found}; "
            "num_labels must be the data set's"
        )
    return {"counts": [counts[:num_labels]]}
