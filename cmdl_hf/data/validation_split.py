"""Sets a part of the training images apart, as the validation split of data that have none.

Reference of the division: "On the Stratification of Multi-Label Data" (Sechidis et al., 2011), for two parts.
"""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..files import read_utf8
from ..json_files import RESTORE, read_json
from .sets.base import SegmentationDataset
from .statistics import label_histogram
from .validation_fraction import VALIDATION_FILE, VALIDATION_FRACTION, check_fraction

logger = logging.getLogger(__name__)

_BATCH_SIZE = 16  # labels decoded at a time


def set_apart_validation(
    dataset: SegmentationDataset, fraction: float = VALIDATION_FRACTION, title: str = "the data set"
) -> SegmentationDataset:
    """Set a part of the training images apart as the validation split.

    The same images always give the same split: only the ids and the classes in the masks decide, never a seed or the
    order of the files. Images are taken in the order of the hash of their ids. Rare classes are divided first, each in
    the given proportion; of a class with two images or more, one at least is on either side where that is possible,
    and a class with one image stays in the training split. So the part can differ from the fraction by some images.

    Args:
        dataset (`SegmentationDataset`): With a train split and no validation split. Other splits stay as they are.
        fraction (`float`): Share of the training images, in (0, 1).
        title (`str`): Name of the data for messages.

    Returns:
        `SegmentationDataset`: both splits in the order of the training images; `validation_fraction` is `fraction`.

    Raises:
        ValueError: if there is no train split, a validation split, or only one training image, or `fraction` is out of
            range.
    """
    check_fraction(fraction)
    if "train" not in dataset or "validation" in dataset:
        raise ValueError(f"{title} must have a train split and no validation split, found {', '.join(dataset)}")
    rows = dataset["train"]
    if len(rows) < 2:
        raise ValueError(
            f"{title} has one training image, so none can be set apart for validation; add images, or train without "
            "validation (--no-validation)"
        )
    is_apart = choose_validation(list(map(str, rows["id"][:])), find_classes(rows, dataset.num_labels), fraction)
    divided = _select_parts(dataset, is_apart)
    divided.validation_fraction = fraction
    count = len(divided["validation"])
    logger.warning(
        "%s has no validation split: %d of its %d training images (%.0f %%) are set apart for validation and are not "
        "trained on. The same images are set apart every time. For cmdl train, --validation-fraction changes their "
        "share, and --no-validation trains on all images.",
        title,
        count,
        len(rows),
        100 * count / len(rows),
    )
    return divided


def divide_as_trained(
    dataset: SegmentationDataset, model: str | Path, split: str, title: str = "the data set"
) -> SegmentationDataset:
    """Set those own images apart that the training of a model set apart, to score or to explore it.

    Args:
        dataset (`SegmentationDataset`): With a train split and no validation split.
        model (`str` or `Path`): Folder of the model, or its name on the Hub.
        split (`str`): The split that is read.
        title (`str`): Name of the data for messages.

    Returns:
        `SegmentationDataset`: if the folder holds a run on own data, divided by its `validation_ids.txt`, so that a
        model is not validated on images that it was trained on; undivided if the run set nothing apart. For other
        models, a fifth is set apart if the validation split is read.

    Raises:
        ValueError: if the validation split is read, and the data hold no image that the run set apart, or the files
            of the run are damaged.
    """
    ids_file = Path(model) / VALIDATION_FILE
    benchmark, fraction = _read_division(Path(model) / "run.json")
    if benchmark != "own":
        return set_apart_validation(dataset, title=title) if split == "validation" else dataset
    if fraction is None:
        return dataset
    if not ids_file.is_file():  # which is not pushed to the Hub
        return set_apart_validation(dataset, fraction, title)
    apart = read_utf8(ids_file).splitlines()
    is_apart = np.isin(list(map(str, dataset["train"]["id"][:])), apart)
    if not is_apart.any():
        if split == "train":
            return dataset
        raise ValueError(
            f"{title} has none of the {len(apart)} images that the training of {model} set apart for validation "
            f"({ids_file}); name the data that it was trained on, or score --split train"
        )
    logger.warning(
        "%d of the %d images that the training of %s set apart for validation are in %s",
        is_apart.sum(),
        len(apart),
        model,
        title,
    )
    return _select_parts(dataset, is_apart)


def _read_division(file: Path) -> tuple[str | None, float | None]:
    """Read the data set of a run, and the fraction that it set apart, from its `run.json`."""
    facts = read_json(file)
    recipe, apart = facts.get("recipe") or {}, facts.get("set_apart") or {}
    fraction = apart.get("fraction") if isinstance(apart, dict) else apart
    if not isinstance(recipe, dict) or (apart and not isinstance(fraction, float)):
        raise ValueError(f"{file}: recipe must hold names and values, and set_apart a fraction; {RESTORE}")
    return recipe.get("benchmark"), fraction if apart else None


def _select_parts(dataset: SegmentationDataset, is_apart: np.ndarray) -> SegmentationDataset:
    """Divide the train split into two, in the order of its images."""
    rows = dataset["train"]
    splits = {
        "train": rows.select(np.flatnonzero(~is_apart)),
        "validation": rows.select(np.flatnonzero(is_apart)),
        **{name: each for name, each in dataset.items() if name != "train"},
    }
    return dataset.with_splits(splits)


def find_classes(rows: datasets.Dataset, num_labels: int) -> np.ndarray:
    """Find the classes in each label; labels are read only once, as `datasets` caches the result.

    Args:
        rows (`datasets.Dataset`): One split with the column `label`.
        num_labels (`int`): Number of classes K.

    Returns:
        `np.ndarray` of shape (N, K), bool.
    """
    found = (
        rows.with_format(None)
        .select_columns("label")
        .map(
            partial(_find_in_batch, num_labels=num_labels),
            batched=True,
            batch_size=_BATCH_SIZE,
            remove_columns="label",
            features=datasets.Features({"classes": datasets.List(datasets.Value("bool"), length=num_labels)}),
            desc="finding classes",
        )
    )
    return np.reshape(found["classes"][:], (-1, num_labels)).astype(bool)


def _find_in_batch(batch: dict[str, list[Any]], num_labels: int) -> dict[str, Any]:
    counts = [np.zeros(num_labels) if each is None else label_histogram(each)[:num_labels] for each in batch["label"]]
    return {"classes": [count > 0 for count in counts]}


def choose_validation(ids: Sequence[str], present: np.ndarray, fraction: float) -> np.ndarray:
    """Choose the images of the validation split, by the rule of [`set_apart_validation`].

    Args:
        ids (`Sequence` of N strings): Ids of the images.
        present (`np.ndarray` of shape (N, K), bool): The classes in each image.
        fraction (`float`): Share of the images, in (0, 1).

    Returns:
        `np.ndarray` of shape (N,), bool: true for validation; at least one is true, and one is not.
    """
    order = sorted(range(len(ids)), key=lambda index: (hashlib.sha256(ids[index].encode()).digest(), index))
    sorted_present = present[order]
    is_apart = _divide(sorted_present, fraction)
    _mend(is_apart, sorted_present)
    if is_apart.all() or not is_apart.any():
        is_apart[0] = not is_apart[0]
    chosen = np.zeros(len(ids), dtype=bool)
    chosen[order] = is_apart
    return chosen


def _divide(present: np.ndarray, fraction: float) -> np.ndarray:
    """Divide images (N, K) in their order: each goes where more of its rarest class are still wanted."""
    num_images = len(present)
    counts = present.sum(axis=0)
    apart = np.where(counts > 1, np.clip(fraction * counts, 1, np.maximum(counts - 1, 1)), 0.0)
    wanted = np.stack([counts - apart, apart])  # (2, K), of images for training and validation
    room = np.array([(1 - fraction) * num_images, fraction * num_images])
    side = np.full(num_images, -1)
    left = counts.copy()
    while (left > 0).any():
        rarest = np.where(left > 0, left, num_images + 1).argmin()
        for index in np.flatnonzero(present[:, rarest] & (side < 0)):
            side[index] = _choose_side(wanted[:, rarest], room)
            wanted[side[index]] -= present[index]
            room[side[index]] -= 1
            left -= present[index]
    for index in np.flatnonzero(side < 0):  # images without any class
        side[index] = _choose_side(room, room)
        room[side[index]] -= 1
    return side == 1


def _choose_side(wanted: np.ndarray, room: np.ndarray) -> int:
    return int(wanted[1] > wanted[0] if wanted[0] != wanted[1] else room[1] > room[0])


def _mend(is_apart: np.ndarray, present: np.ndarray) -> None:
    """Move images so that classes are on both sides, where no other class loses its last image on a side by that."""
    counts = np.stack([present[~is_apart].sum(axis=0), present[is_apart].sum(axis=0)])  # (2, K)
    for target in (0, 1):
        for lacking in np.flatnonzero((counts[target] == 0) & (counts.sum(axis=0) > 1)):
            if counts[target, lacking]:
                continue
            is_free = ((counts[1 - target] - present >= 1) | ~present).all(axis=1)
            candidates = np.flatnonzero(present[:, lacking] & is_free & (is_apart != bool(target)))
            if len(candidates):
                is_apart[candidates[0]] = bool(target)
                counts[target] += present[candidates[0]]
                counts[1 - target] -= present[candidates[0]]
