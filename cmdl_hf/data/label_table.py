"""Label tables: which class a value of a mask file stands for, kept as CSV files beside the builders."""

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

IGNORE_INDEX = 255
"""Train id of pixels that count nowhere."""

COLUMNS = ("raw_id", "train_id", "name", "red", "green", "blue")


@dataclass(frozen=True)
class Label:
    """One row of a label table.

    Args:
        raw_id (`int`): Value in the owner's mask files.
        train_id (`int`): Class in 0..K-1, or 255 for pixels to ignore.
        name (`str`): The owner's name of it.
        colour (`tuple[int, int, int]`): Red, green, blue in 0..255.
    """

    raw_id: int
    train_id: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class LabelTable:
    """The rows of a label table, of which those with a train id other than 255 are the classes.

    Args:
        rows (`tuple[Label, ...]`): One row per raw id.

    Raises:
        ValueError: if a raw id occurs twice, or the train ids are not 0..K-1.
    """

    rows: tuple[Label, ...]

    def __post_init__(self) -> None:
        raw_ids = [row.raw_id for row in self.rows]
        if repeated := sorted({raw_id for raw_id in raw_ids if raw_ids.count(raw_id) > 1}):
            raise ValueError(f"a label table has one row per raw id, found several for {repeated}")
        train_ids = sorted({row.train_id for row in self.rows} - {IGNORE_INDEX})
        if not train_ids or train_ids != list(range(len(train_ids))):
            raise ValueError(f"the train ids of a label table must be 0..K-1 (255 to ignore), found {train_ids}")

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, str]]) -> "LabelTable":
        """Build a table from rows with the columns raw_id, train_id, name, red, green, blue."""
        return cls(
            tuple(
                Label(
                    int(row["raw_id"]),
                    int(row["train_id"]),
                    row["name"],
                    (int(row["red"]), int(row["green"]), int(row["blue"])),
                )
                for row in rows
            )
        )

    @classmethod
    def of(cls, name: str) -> "LabelTable":
        """Read the table `labels/<name>.csv` of this package."""
        text = (resources.files(__package__) / "labels" / f"{name}.csv").read_text(encoding="utf-8")
        return cls.from_rows(csv.DictReader(text.splitlines()))

    @property
    def raw_to_train(self) -> dict[int, int]:
        """Train id of every raw id."""
        return {row.raw_id: row.train_id for row in self.rows}

    @property
    def train_to_train(self) -> dict[int, int]:
        """The mapping for masks that hold train ids already."""
        return {train_id: train_id for train_id in (*self.id2label, IGNORE_INDEX)}

    @property
    def id2label(self) -> dict[int, str]:
        """Name of every class; that of its first row where several raw ids make one class."""
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
