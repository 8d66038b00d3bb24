"""Number of pixels of each class, and loss weights that give rare classes more influence.

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

    The labels are read only once: `datasets` caches the counts under the fingerprint of `dataset`. Other files,
    classes or rows have another fingerprint and are counted again. Data sets in memory are not cached.

    Args:
        dataset (`datasets.Dataset`): One split with the column `label`, as `load_benchmark` returns it. A transform on
            it changes the fingerprint, but not the counts.
        num_labels (`int`): Number of classes K.

    Returns:
        `list` of K pixel counts, without void pixels.

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
    """Compute the weight 1 / ln(offset + share of the pixels) of every class, as in ENet.

    Weights lie between 1 / ln(offset + 1) and 1 / ln(offset), by default between 1.4 and 50.5. This limits the
    influence of classes with few or no pixels.

    Args:
        counts (`Sequence[int]`): Number of pixels of each of the K classes, from [`class_pixel_counts`].
        offset (`float`): Number above 1. The larger it is, the less the weights differ.

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
        raise ValueError(f"offset must be above 1, because a class without pixels gets 1 / ln(offset), found {offset}")
    if min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"counts must be pixels of a labelled split, at least 0 and not all 0, found {list(counts)}")
    total = sum(counts)
    return [1 / math.log(offset + count / total) for count in counts]


def label_histogram(label: Image.Image) -> np.ndarray:
    """Count the pixels of each id of an 8-bit label (mode L or P); int64 of shape (256,)."""
    return np.array(label.histogram(), dtype=np.int64)


def _count_batch(batch: dict[str, list[Image.Image | None]], num_labels: int) -> dict[str, Any]:
    """Count the pixels of each class (K,) in a batch of labels, as one row."""
    counts = np.zeros(IGNORE_INDEX + 1, dtype=np.int64)
    for label in batch["label"]:
        if label is None:
            raise ValueError("counting pixels needs labels, found a sample without one; choose a split with labels")
        counts += label_histogram(label)
    if unknown := np.flatnonzero(counts[num_labels:IGNORE_INDEX]).tolist():
        found = ", ".join(f"{num_labels + id_} ({counts[num_labels + id_]} px)" for id_ in unknown)
        raise ValueError(
            f"labels must lie in 0..{num_labels - 1} or be {IGNORE_INDEX} (void), found {found}; "
            "pass the num_labels of the data set"
        )
    return {"counts": [counts[:num_labels]]}
