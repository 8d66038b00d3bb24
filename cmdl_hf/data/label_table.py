"""Label tables: the class of each value in a mask file, stored as CSV files in `labels/`."""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from ..escaping import one_line
from ..files import read_utf8
from .csv_rows import read_csv_rows

IGNORE_INDEX = 255
"""Train id of void pixels, which are ignored."""

COLUMNS = ("raw_id", "train_id", "name", "red", "green", "blue")
"""Columns of a label table's CSV file."""

_Key = TypeVar("_Key")
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Label:
    """One row of a label table.

    Args:
        raw_id (`int`): Value in the owner's mask files.
        train_id (`int`): Class in 0..K-1, or 255 for pixels to ignore.
        name (`str`): The owner's name of the class.
        colour (`tuple[int, int, int]`): Red, green, blue in 0..255.
    """

    raw_id: int
    train_id: int
    name: str
    colour: Colour


_IGNORED = Label(IGNORE_INDEX, IGNORE_INDEX, "ignore", (0, 0, 0))


@dataclass(frozen=True)
class LabelTable:
    """A table that maps raw ids (values in mask files) to train ids (the classes 0..K-1, or 255 to ignore).

    Args:
        rows (`tuple[Label, ...]`): One row per raw id.

    Raises:
        ValueError: if a raw id occurs twice, the train ids are not 0..K-1, or a name or a colour is none.
    """

    rows: tuple[Label, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            _check_row(row)
        raw_ids = [row.raw_id for row in self.rows]
        if repeated := sorted({raw_id for raw_id in raw_ids if raw_ids.count(raw_id) > 1}):
            raise ValueError(
                f"a label table must have one row per raw id, found several for {repeated}; remove the others"
            )
        train_ids = sorted({row.train_id for row in self.rows} - {IGNORE_INDEX})
        if not train_ids or train_ids != list(range(len(train_ids))):
            raise ValueError(
                "the train ids of a label table must be 0..K-1 (255 to ignore), found "
                f"{one_line(train_ids, 100)}; number the classes from 0 without gaps"
            )

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, str]]) -> "LabelTable":
        """Build a table from rows with the columns raw_id, train_id, name, red, green, blue."""
        return cls(
            tuple(
                Label(
                    _whole(row["raw_id"]),
                    _whole(row["train_id"]),
                    row["name"],
                    (_whole(row["red"]), _whole(row["green"]), _whole(row["blue"])),
                )
                for row in rows
            )
        )

    @classmethod
    def of(cls, name: str) -> "LabelTable":
        """Read the table `labels/<name>.csv` of this package."""
        text = (resources.files(__package__) / "labels" / f"{name}.csv").read_text(encoding="utf-8")
        return cls.from_rows(read_csv_rows(text))

    @classmethod
    def from_names(cls, id2label: Mapping[int, str] | Sequence[str]) -> "LabelTable":
        """Build a table for masks that already hold train ids (255 to ignore). The colours are those of PASCAL VOC.

        Args:
            id2label (`Mapping[int, str]` or `Sequence[str]`): Names of the classes 0..K-1, K at most 255.
        """
        names = dict(id2label) if isinstance(id2label, Mapping) else dict(enumerate(id2label))
        if wrong := [id_ for id_ in names if isinstance(id_, bool) or not isinstance(id_, Integral)]:
            raise ValueError(f"{_ID2LABEL}, found {wrong[0]!r}: {names[wrong[0]]!r}; write them like that")
        if len(names) > IGNORE_INDEX:
            raise ValueError(f"there can be up to {IGNORE_INDEX} classes, found {len(names)}; merge some of them")
        classes = [Label(id_, id_, name, _voc_colour(id_ + 1)) for id_, name in sorted(names.items())]
        return cls((*classes, _IGNORED))

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> "LabelTable":
        """Read the classes from a file.

        Args:
            path (`str` or `Path`): One of
                - `.txt`: one name per line, for the classes 0..K-1;
                - `.json`: a list of names, or an object that maps ids to names;
                - `.csv`: the columns id and name; or raw_id, train_id, name, red, green and blue to map ids, as in the
                  tables of this package.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file has another format, or the ids are not 0..K-1.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file of classes {path}; correct the path in id2label (--id2label)")
        text = read_utf8(path)
        try:
            return cls._from_text(path.suffix.lower(), text)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _from_text(cls, suffix: str, text: str) -> "LabelTable":
        if suffix == ".txt":
            names = [line.strip() for line in text.strip().splitlines()]
            if not all(names):
                raise ValueError(f"line {names.index('') + 1} is empty; every line must name a class")
            return cls.from_names(names)
        if suffix == ".json":
            content = _parse_json(text)
            if isinstance(content, dict):
                if not all(id_.strip().isdecimal() for id_ in content):
                    raise ValueError(f"{_ID2LABEL}, found {one_line(content, 100)}; write them like that")
                return cls.from_names(_without_repetition((int(id_), name) for id_, name in content.items()))
            if isinstance(content, list):
                return cls.from_names(content)
            kind = type(content).__name__
            raise ValueError(
                f"expected a list of names, or an object that maps ids to names, found {kind}; correct it"
            )
        if suffix == ".csv":
            rows = read_csv_rows(text)
            columns = tuple(rows[0]) if rows else ()
            if columns == ("id", "name"):
                return cls.from_names(_without_repetition((_whole(row["id"]), row["name"]) for row in rows))
            if columns == COLUMNS:
                return cls.from_rows(rows)
            raise ValueError(
                f"expected the columns id,name or {','.join(COLUMNS)}, found {one_line(','.join(columns), 100)}; name "
                "them in the first line"
            )
        raise ValueError("class names are read from .txt, .json and .csv files; save them as one of these")

    @property
    def raw_to_train(self) -> dict[int, int]:
        """Train id of every raw id."""
        return {row.raw_id: row.train_id for row in self.rows}

    @property
    def of_train_ids(self) -> "LabelTable":
        """The table for masks that already hold train ids."""
        classes = (replace(row, raw_id=train_id) for train_id, row in self._classes.items())
        return LabelTable((*classes, _IGNORED))

    @property
    def id2label(self) -> dict[int, str]:
        """Name of every class. If several raw ids form one class, the name in the first row."""
        return {train_id: row.name for train_id, row in self._classes.items()}

    @property
    def palette(self) -> list[list[int]]:
        """K rows of red, green, blue."""
        return [list(row.colour) for row in self._classes.values()]

    @property
    def num_labels(self) -> int:
        """Number of classes K."""
        return len(self._classes)

    @property
    def digest(self) -> str:
        """A digest of the table's content."""
        return hashlib.sha256(repr(self.rows).encode()).hexdigest()

    @property
    def _classes(self) -> dict[int, Label]:
        first_rows: dict[int, Label] = {}
        for row in self.rows:
            if row.train_id != IGNORE_INDEX:
                first_rows.setdefault(row.train_id, row)
        return dict(sorted(first_rows.items()))


class HasClasses:
    """Base class with the properties of a `label_table`."""

    label_table: LabelTable
    ignore_index = IGNORE_INDEX

    @property
    def id2label(self) -> dict[int, str]:
        """Name of every class."""
        return self.label_table.id2label

    @property
    def palette(self) -> list[list[int]]:
        """K rows of red, green, blue."""
        return self.label_table.palette

    @property
    def num_labels(self) -> int:
        """Number of classes K."""
        return self.label_table.num_labels


Classes = str | PathLike[str] | LabelTable | Mapping[int, str] | Sequence[str]
"""The classes of own data: a file that `LabelTable.from_file` reads, their names, or a table."""


def to_label_table(classes: Classes) -> LabelTable:
    """Make a label table from the classes of own data."""
    if isinstance(classes, LabelTable):
        return classes
    if isinstance(classes, str | PathLike):
        return LabelTable.from_file(classes)
    return LabelTable.from_names(classes)


_ID2LABEL = 'classes must be mapped from ids to names, as in {"0": "leaf", "1": "root"}'


def _check_row(row: Label) -> None:
    """Refuse a row whose name or colour is none."""
    if not isinstance(row.name, str) or not row.name.strip():
        raise ValueError(
            f"the name of class {row.train_id} must be a text, found {one_line(repr(row.name), 100)}; write it in "
            "quotes"
        )
    if not all(0 <= channel <= 255 for channel in row.colour):
        raise ValueError(f"red, green and blue must lie in 0..255, found {row.colour} for {one_line(row.name, 100)}")


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the file must be JSON, which it is not ({error}); correct it") from error


def _whole(text: str | None) -> int:
    """Read a whole number from a CSV file, in which a short row has None."""
    try:
        return int(text or "")
    except ValueError:
        found = "nothing" if text is None else repr(one_line(text, 100))
        raise ValueError(f"ids and colours must be whole numbers, found {found}; correct that row") from None


def _without_repetition(pairs: Iterable[tuple[_Key, Any]]) -> dict[_Key, Any]:
    """Make a `dict`, and refuse a key that occurs twice, of which Python would keep the last."""
    found: dict[_Key, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"every id must occur once, found {key!r} twice; correct one of them")
        found[key] = value
    return found


def _voc_colour(index: int) -> Colour:
    """Return colour `index` of PASCAL VOC's map: groups of three bits of the index set the channels' highest bits."""
    red, green, blue = (sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3))
    return red, green, blue
