"""Own data: folders of images and masks, or a list of pairs."""

import csv
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ...escaping import MAX_NAME, one_line
from ...files import read_utf8
from ..csv_rows import read_csv_rows
from ..label_table import IGNORE_INDEX, Classes, LabelTable, to_label_table
from ..listing import SplitFiles, absolute, pair_files
from ..reading import IMAGE_SUFFIXES
from ..rows import spread_indices
from ..statistics import label_histogram
from .base import SegmentationDataset
from .folder_shapes import SPLIT_OF, recognise
from .own_files import OwnFiles

logger = logging.getLogger(__name__)

_MASKS_LOOKED_AT = 100  # to find out whether a class is written as 255


def find_folder(data_dir: str | Path, id2label: Classes, cache_dir: str | Path | None = None) -> OwnFiles:
    """Find the files of own data without reading them: `files` of the result lists them.

    For the arguments see [`load_folder`].
    """
    data_dir = absolute(data_dir)
    shape = recognise(data_dir)
    builder = _make_builder(shape.files, id2label, data_dir, cache_dir)
    builder.unused, builder.shape = shape.unused, shape.describe()
    return builder


def find_pairs(pairs_file: str | Path, id2label: Classes, cache_dir: str | Path | None = None) -> OwnFiles:
    """Find the files of a list of pairs without reading them: `files` of the result lists them.

    For the arguments see [`load_pairs`].
    """
    pairs_file = absolute(pairs_file)
    rows_of: dict[str, list[dict[str, str]]] = {}
    rows = _read_rows(pairs_file)
    has_splits = any(row.get("split") for row in rows)
    for row in rows:
        name = (row.get("split") or "").lower()
        if has_splits and name not in SPLIT_OF:
            raise ValueError(
                f"{pairs_file}: {name!r} is not a split; the splits are {', '.join(SPLIT_OF)}: name one in every "
                "entry, or in none"
            )
        rows_of.setdefault(SPLIT_OF[name] if has_splits else "train", []).append(row)
    files = {split: _pair_rows(rows, pairs_file.parent) for split, rows in rows_of.items()}
    builder = _make_builder(files, id2label, pairs_file, cache_dir)
    builder.shape = "list of pairs: " + ", ".join(f"{len(each.samples):,} {split}" for split, each in files.items())
    return builder


def load_folder(
    data_dir: str | Path,
    id2label: Classes,
    *,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    skip_bad_files: bool = False,
) -> SegmentationDataset:
    """Load own data from a folder of images and masks, in one of the usual shapes.

    What was recognised is logged in one line: the shape and the number of pairs of each split. Files that are not used
    are counted and named in a warning. Hidden files are passed over.

    Args:
        data_dir (`str` or `Path`): A folder with `images` and `masks` (or `labels`, `annotations`). Both may have
            folders `train`, `val` (or `valid`, `validation`) and `test`; or such folders hold `images` and `masks`;
            without them, all files belong to the train split. Images and masks may also lie in one folder, as `X.jpg`
            and `X_mask.png`, or as `X.jpg` and `X.png`. A mask has the name of its image, or that name and one ending
            throughout, such as `_mask`. Images may have one, too, such as `_sat`, which ids leave out. Below `images`
            and `masks` of a split there may be further folders, alike for both; ids are paths in the folder of the
            split.
        id2label (`str`, `Path`, `LabelTable`, `Mapping[int, str]` or `Sequence[str]`): The classes: a .txt, .json or
            .csv file, or the names. Masks hold the class ids 0..K-1, and 255 for pixels to ignore. If your masks hold
            other ids, a table of raw and train ids (`LabelTable`) maps them.
        cache_dir (`str` or `Path`, *optional*): Folder for the prepared labels.
        num_proc (`int`, *optional*): Number of processes that prepare labels.
        skip_bad_files (`bool`): Leave out files that break a rule. A warning and `bad_files` of the result list them.

    Returns:
        `SegmentationDataset`, as `load_benchmark` returns it.

    Raises:
        FileNotFoundError: if the shape is not recognised, folders are empty, or an image or a mask is missing.
        BadDataError: if files break a rule, or two files have the same id.
        ValueError: if the classes cannot be read, or the folder could be read in several ways.

    Example:
        ```python
        >>> from cmdl_hf.data import load_folder, set_apart_validation

        >>> dataset = load_folder("my_data", id2label="my_data/classes.txt")
        >>> dataset = set_apart_validation(dataset, 0.2)
        ```
    """
    return _load(find_folder(data_dir, id2label, cache_dir), num_proc, skip_bad_files)


def load_pairs(
    pairs_file: str | Path,
    id2label: Classes,
    *,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    skip_bad_files: bool = False,
) -> SegmentationDataset:
    """Load own data from a list of images and masks.

    Args:
        pairs_file (`str` or `Path`): A .csv file, or a .jsonl file with one object per line. The columns `image` and
            `mask` hold paths, which may be relative to the folder of the list. The optional column `split` holds
            `train`, `val` (or `valid`, `validation`) or `test`; without it, all pairs belong to the train split.
        id2label (`str`, `Path`, `LabelTable`, `Mapping[int, str]` or `Sequence[str]`): As in `load_folder`.
        cache_dir (`str` or `Path`, *optional*): Folder for the prepared labels.
        num_proc (`int`, *optional*): Number of processes that prepare labels.
        skip_bad_files (`bool`): Leave out files that break a rule. A warning and `bad_files` of the result list them.

    Returns:
        `SegmentationDataset`, as `load_benchmark` returns it. The ids are the paths of the images without suffix.

    Raises:
        FileNotFoundError: if the list or a file in it is missing.
        BadDataError: if files break a rule, or a file is listed twice.
        ValueError: if a column is missing, a split is unknown, or the classes cannot be read.
    """
    return _load(find_pairs(pairs_file, id2label, cache_dir), num_proc, skip_bad_files)


def explain_ignored_class(label_table: LabelTable, ids: Collection[int]) -> str | None:
    """Explain that a class seems to be written as 255 in the masks, where 255 means ignored.

    Args:
        label_table (`LabelTable`): The classes.
        ids (`Collection[int]`): The train ids that occur in the masks, including 255.

    Returns:
        `str`: the problem and the cure, if there are two or more classes, only one of them and 255 occur, and 255 is
        the only id that the table ignores; else `None`.
    """
    ignored = [row.raw_id for row in label_table.rows if row.train_id == IGNORE_INDEX]
    classes = set(ids) - {IGNORE_INDEX}
    K = label_table.num_labels
    if K < 2 or ignored != [IGNORE_INDEX] or IGNORE_INDEX not in ids or len(classes) != 1:
        return None
    (id_,) = classes
    name = one_line(label_table.id2label[id_], MAX_NAME)
    return (
        f"of {K} classes the masks hold only {id_} ({name}), and 255, which means ignored. "
        f"If 255 stands for a class, this class is not learned: write the class ids 0..{K - 1} into the masks"
    )


def _load(builder: OwnFiles, num_proc: int | None, skip_bad_files: bool) -> SegmentationDataset:
    """Load own data; warn of files that are not used, and if a class seems to be written as 255."""
    logger.info("%s: %s", builder.title, builder.shape)
    if builder.unused:
        logger.warning("%s: %s", builder.title, describe_unused(builder.unused))
    dataset = builder.load(num_proc=num_proc, skip_bad_files=skip_bad_files)
    split = "train" if "train" in dataset else next(iter(dataset))
    if explanation := explain_ignored_class(dataset.label_table, _look_at_masks(dataset[split])):
        logger.warning("%s, %s split: %s", builder.title, split, explanation)
    return dataset


def describe_unused(paths: Sequence[Path], limit: int = 10) -> str:
    """Count files of own data that are not used, and name the first of them."""
    names = ", ".join(one_line(path) for path in paths[:limit])
    more = f" and {len(paths) - limit} more" if len(paths) > limit else ""
    return (
        f"{len(paths)} file(s) beside images and masks are not used: {names}{more}; files that are read end in "
        f"{', '.join(IMAGE_SUFFIXES)} and, where there are folders of splits, lie in one"
    )


def _look_at_masks(rows: datasets.Dataset) -> set[int]:
    """Collect train ids from masks spread evenly over a split, until two classes are found."""
    labels, ids = rows.select_columns("label"), set[int]()
    for index in spread_indices(len(rows), _MASKS_LOOKED_AT):
        ids |= set(np.flatnonzero(label_histogram(labels[index]["label"])).tolist())
        if len(ids - {IGNORE_INDEX}) > 1:
            break
    return ids


def _make_builder(
    files: Mapping[str, SplitFiles], id2label: Classes, source: Path, cache_dir: str | Path | None
) -> OwnFiles:
    empty = [split for split, split_files in files.items() if split_files.is_empty]
    if empty or not files:
        raise FileNotFoundError(
            f"{source} has neither images nor masks of {', '.join(empty) or 'any split'}; "
            "add files, or remove the empty folders of a split"
        )
    return OwnFiles(files, to_label_table(id2label), str(source), cache_dir)


def _read_rows(pairs_file: Path) -> list[dict[str, str]]:
    if not pairs_file.is_file():
        raise FileNotFoundError(
            f"there is no {pairs_file}: own data must be a folder of images and masks, or a .csv or .jsonl list of "
            "pairs; correct the path (--data-dir)"
        )
    if pairs_file.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{pairs_file}: a list of pairs must be a .csv or .jsonl file; convert it")
    text = read_utf8(pairs_file)
    try:
        if pairs_file.suffix.lower() == ".csv":
            rows: list[Any] = [*read_csv_rows(text)]
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(
            f"{pairs_file}: {error}; every line must be an object of its own, such as "
            '{"image": "a.jpg", "mask": "a.png"} in a .jsonl file'
        ) from error
    for number, row in enumerate(rows, start=1):
        if problem := _find_problem(row):
            raise ValueError(
                f"{pairs_file}: entry {number} must have an image and a mask, found {one_line(row, 200)}; {problem}"
            )
    return rows


def _find_problem(row: Any) -> str | None:
    """Say what to change in an entry of a list of pairs, if anything."""
    if not isinstance(row, dict):
        return "write one object per line, without brackets around all"
    if not isinstance(row.get("split") or "", str):
        return "the split must be a text"
    if not all(row.get(column) and isinstance(row[column], str) for column in ("image", "mask")):
        return "name both, in columns image and mask that commas separate"
    return None


def _pair_rows(rows: Sequence[Mapping[str, str]], folder: Path) -> SplitFiles:
    ids = [Path(row["image"]).with_suffix("").as_posix() for row in rows]
    images, masks = (_index_rows(rows, column, ids, folder) for column in ("image", "mask"))
    return pair_files(images, masks, ids)


def _index_rows(
    rows: Sequence[Mapping[str, str]], column: str, ids: Sequence[str], folder: Path
) -> dict[str, list[Path]]:
    """Map ids to existing files, without duplicates."""
    index: dict[str, list[Path]] = {}
    for id_, row in zip(ids, rows, strict=True):
        path = folder / row[column]
        if path.is_file() and path not in index.setdefault(id_, []):
            index[id_].append(path)
    return index
