"""Rules for data to train on."""

import datasets
import numpy as np

from .label_table import IGNORE_INDEX, LabelTable
from .sets.base import SegmentationDataset
from .statistics import label_histogram


def check_trainable(dataset: SegmentationDataset, title: str) -> None:
    """Refuse data on which nothing can be learned. Labels are read until the first pixel of a class is found.

    Args:
        dataset (`SegmentationDataset`): The data set.
        title (`str`): Its name, for the message.

    Raises:
        ValueError: if there is no train split, one class alone, or no pixel of a class in the train split.
    """
    if "train" not in dataset:
        raise ValueError(f"{title} has no train split, only {', '.join(dataset)}")
    if problem := explain_few_classes(dataset.label_table):
        raise ValueError(f"{title}: {problem}")
    if not _has_class(dataset["train"]):
        raise ValueError(f"{title}: {VOID_SPLIT}")


VOID_SPLIT = (
    f"every pixel of the train split is ignored ({IGNORE_INDEX}, or an id that the classes ignore), so nothing can be "
    "learned; write class ids into the masks, or map their ids to classes"
)


def explain_few_classes(label_table: LabelTable) -> str | None:
    """Say why nothing can be learned with one class alone; None if there are more."""
    if label_table.num_labels > 1:
        return None
    (name,) = label_table.id2label.values()
    return (
        f"a network tells at least two classes apart, found {name!r} alone; name what surrounds it as a class, too, "
        "and write its id into the masks"
    )


def _has_class(rows: datasets.Dataset) -> bool:
    labels = (row["label"] for row in rows.select_columns("label").with_format(None))
    return any(label is None or np.any(label_histogram(label)[:IGNORE_INDEX]) for label in labels)
