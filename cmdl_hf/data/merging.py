"""Merges classes of a data set, or drops them, by a file with the columns from and to."""

import csv
import difflib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from ..escaping import MAX_NAME, one_line
from ..files import read_utf8
from .label_table import IGNORE_INDEX, Label, LabelTable
from .reading import encode_png
from .sets.base import FEATURES, SegmentationDataset

logger = logging.getLogger(__name__)

MERGE_FILE = "merged_classes.csv"
"""Name under which the folder of a run keeps the file that merged its classes."""

_BATCH_SIZE = 64


@dataclass(frozen=True)
class ClassMerge:
    """Which classes become which.

    Args:
        merged (`dict[str, str]`): New name of each class that is merged, or an empty text if it is dropped.
        table (`tuple[int, ...]`): New train id, or 255, of each of the 256 train ids.
        names (`tuple[str, ...]`): Names of the new classes.
        colours (`tuple[tuple[int, int, int], ...]`): Their colours.
    """

    merged: dict[str, str]
    table: tuple[int, ...]
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def apply_to_image(self, label: Image.Image) -> Image.Image:
        """Replace the train ids of a label (mode L)."""
        return label.point(self.table)

    def apply_to_ids(self, label_table: LabelTable) -> LabelTable:
        """Map the raw ids of a table to the new classes, and keep the owner's names."""
        return LabelTable(tuple(replace(row, train_id=self.table[row.train_id]) for row in label_table.rows))

    def apply_to_table(self, label_table: LabelTable) -> LabelTable:
        """Map the raw ids of a table to the new classes, with their names and colours."""
        return LabelTable(tuple(self._rename(row) for row in self.apply_to_ids(label_table).rows))

    def _rename(self, row: Label) -> Label:
        if row.train_id == IGNORE_INDEX:
            return row
        return replace(row, name=self.names[row.train_id], colour=self.colours[row.train_id])

    def describe(self) -> str:
        """Say in one line what becomes of the classes."""
        groups: dict[str, list[str]] = {}
        for name, target in self.merged.items():
            groups.setdefault(target, []).append(one_line(name, MAX_NAME))
        kept = [f"{one_line(target, MAX_NAME)} ({', '.join(names)})" for target, names in groups.items() if target]
        dropped = ", ".join(groups.get("", []))
        parts = [*kept, *([f"ignored ({dropped})"] if dropped else [])]
        return f"{len(self.names)} classes after merging: {'; '.join(parts)}"


def merge_classes(dataset: SegmentationDataset, path: str | Path) -> SegmentationDataset:
    """Merge or drop classes of any data set.

    The labels are rewritten once, by a table of 256 ids, and `datasets` caches them apart from the unmerged ones.

    Args:
        dataset (`SegmentationDataset`): The data set.
        path (`str` or `Path`): See [`read_merge`].

    Returns:
        `SegmentationDataset` with the remaining classes 0..K-1, in the order of the first id of each; its
        `merged_classes` tell what became which.

    Raises:
        FileNotFoundError, ValueError: as [`read_merge`] raises them.
    """
    merge = read_merge(path, dataset.label_table)
    logger.info("%s", merge.describe())
    splits = {name: _merge_rows(rows, merge) for name, rows in dataset.items()}
    owner_table = merge.apply_to_ids(dataset.owner_table)
    merged = dataset.with_splits(splits, merge.apply_to_table(dataset.label_table), owner_table)
    merged.merged_classes = dict(merge.merged)
    return merged


def read_merge(path: str | Path, label_table: LabelTable) -> ClassMerge:
    """Read a file that merges or drops classes.

    Args:
        path (`str` or `Path`): A CSV file with the columns from and to: the name of a class, and the name of the class
            that it becomes, a new one or one of the data set; or nothing, and its pixels are ignored. Classes that the
            file does not name stay. A new class has the colour of the class of its name, or else of the first merged.
        label_table (`LabelTable`): The classes of the data set.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read, a class is unknown or named twice, a class becomes one that itself
            becomes another, or fewer than two classes remain. The message names file, line and value.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file of merged classes {path}; correct the path in merge_classes (--merge-classes). The "
            "folder of a run holds its own as merged_classes.csv"
        )
    rows = _read_rows(path)
    names = list(label_table.id2label.values())
    merged: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, name, target in rows:
        if name in merged:
            raise ValueError(f"{path}, line {line}: class {_show(name)} is in line {lines[name]} already; remove one")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            cure = f"did you mean {_show(near[0])}?" if near else f"the classes are {_list(names)}"
            raise ValueError(f"{path}, line {line}: the data set has no class {_show(name)}; {cure}")
        merged[name], lines[name] = target, line
    for name, target in merged.items():
        if target and merged.get(target, target) != target:
            end = merged[target] or "nothing, to ignore it"
            raise ValueError(
                f"{path}, line {lines[name]}: {_show(name)} becomes {_show(target)}, which itself becomes "
                f"{one_line(end, MAX_NAME)} in line {lines[target]}; write the last name in both lines"
            )
    return _make_merge(path, merged, label_table)


def _read_rows(path: Path) -> list[tuple[int, str, str]]:
    """Read line number, class and new class of each row."""
    reader = csv.reader(read_utf8(path).splitlines(), strict=True)
    rows: list[tuple[int, str, str]] = []
    try:
        for cells in reader:
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            if not rows and values != ["from", "to"]:
                raise ValueError(
                    f"the first line must be from,to, found {_show(','.join(values))}; write it above the rest"
                )
            if len(values) != 2 or not values[0]:
                raise ValueError(
                    f"expected two columns, the name of a class and its new name or nothing, found "
                    f"{_show(','.join(values))}; put names with commas in double quotes"
                )
            rows.append((reader.line_num, values[0], values[1]))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if len(rows) < 2:
        raise ValueError(f"{path} merges nothing; write a line from,to and then one for each class to merge or drop")
    return rows[1:]


def _make_merge(path: Path, merged: Mapping[str, str], label_table: LabelTable) -> ClassMerge:
    old_names = label_table.id2label
    targets = {id_: merged.get(name, name) for id_, name in old_names.items()}
    names = [name for name in dict.fromkeys(targets.values()) if name]
    if len(names) < 2:
        left = f"only {_show(names[0])} is" if names else "none is"
        raise ValueError(f"{path}: of {len(old_names)} classes {left} left, and two at least are needed; drop fewer")
    colours: dict[str, tuple[int, int, int]] = {}
    for id_, (red, green, blue) in zip(old_names, label_table.palette, strict=True):
        if old_names[id_] == targets[id_] or targets[id_] not in colours:
            colours[targets[id_]] = (red, green, blue)
    table = [IGNORE_INDEX] * 256
    for id_, name in targets.items():
        table[id_] = names.index(name) if name else IGNORE_INDEX
    return ClassMerge(dict(merged), tuple(table), tuple(names), tuple(colours[name] for name in names))


def format_merge(merged: Mapping[str, str]) -> str:
    """Write merged classes as a file that [`read_merge`] reads."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("from", "to"), *merged.items()])
    return text.getvalue()


def _merge_rows(rows: datasets.Dataset, merge: ClassMerge) -> datasets.Dataset:
    """Rewrite the labels of a split. The other columns are not copied."""
    labels = rows.with_format(None).select_columns("label")
    merged = labels.map(
        partial(_merge_batch, table=merge.table),
        batched=True,
        batch_size=_BATCH_SIZE,
        features=datasets.Features({"label": FEATURES["label"]}),
        desc="merging classes",
    )
    others = rows.with_format(None).remove_columns("label")
    return datasets.concatenate_datasets([others, merged], axis=1).select_columns(rows.column_names)


def _merge_batch(batch: dict[str, list[Any]], table: Sequence[int]) -> dict[str, Any]:
    values = []
    for label in batch["label"]:
        ids = None if label is None else Image.frombytes("L", label.size, label.tobytes())  # a palette's are its ids
        values.append(None if ids is None else {"path": None, "bytes": encode_png(ids.point(table))})
    return {"label": values}


def _show(name: str) -> str:
    return repr(one_line(name, MAX_NAME))


def _list(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, MAX_NAME) for name in names[:30]) + (", ..." if len(names) > 30 else "")
