"""Turns masks of colours into masks of class ids."""

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..escaping import MAX_NAME, one_line
from ..files import read_utf8
from .csv_rows import read_csv_rows
from .label_table import COLUMNS, IGNORE_INDEX, Colour, Label, LabelTable
from .reading import describe_counts

_UNSEEN = -1
_AT_A_TIME = 65_536  # colours that are compared with the table at once


def read_colour_table(path: str | Path) -> LabelTable:
    """Read names and colours of classes.

    Args:
        path (`str` or `Path`): One of
            - `.csv` with the columns name, red, green and blue, or those of a label table (raw_id, train_id, name,
              red, green, blue), in which several colours may form a class, and train_id 255 is ignored;
            - `.json`: an object that maps names to `[red, green, blue]` or `"#rrggbb"`;
            - `.txt`: lines of red, green, blue and name, as CamVid's label_colors.txt.

    Returns:
        `LabelTable`: one row for each colour.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has another format, or a colour or a name occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of colours {path}; correct the path (--colors)")
    text = read_utf8(path)
    try:
        table = _parse(path.suffix.lower(), text)
        colours = Counter(row.colour for row in table.rows)
        if repeated := [colour for colour, count in colours.items() if count > 1]:
            raise ValueError(f"every colour must occur once, found {repeated[0]} several times; remove a row")
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    return table


def _parse(suffix: str, text: str) -> LabelTable:
    if suffix == ".csv":
        rows = read_csv_rows(text)
        columns = tuple(rows[0]) if rows else ()
        if columns == COLUMNS:
            return LabelTable.from_rows(rows)
        if columns != ("name", "red", "green", "blue"):
            raise ValueError(
                f"expected the columns name,red,green,blue or {','.join(COLUMNS)}, found "
                f"{one_line(','.join(columns), MAX_NAME)}; name them in the first line"
            )
        return _number([(row["name"], _colour([row["red"], row["green"], row["blue"]])) for row in rows])
    if suffix == ".json":
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("expected an object that maps names to colours; write it so")
        return _number([(name, _colour(value)) for name, value in content.items()])
    if suffix == ".txt":
        lines = [line.split(None, 3) for line in text.splitlines() if line.strip()]
        if any(len(parts) != 4 for parts in lines):
            raise ValueError("every line must hold red, green, blue and a name, such as 64 128 64 Animal")
        return _number([(parts[3].strip(), _colour(parts[:3])) for parts in lines])
    raise ValueError("colours are read from .csv, .json and .txt files; save them as one of these")


def _number(rows: Sequence[tuple[str, Colour]]) -> LabelTable:
    """Number the classes in the order of the file."""
    if repeated := [name for name, count in Counter(name for name, _ in rows).items() if count > 1]:
        raise ValueError(
            f"every name must occur once, found {one_line(repeated[0], MAX_NAME)!r} several times; rename one"
        )
    return LabelTable(tuple(Label(id_, id_, name, colour) for id_, (name, colour) in enumerate(rows)))


def _colour(value: object) -> Colour:
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        value = [int(value[start : start + 2], 16) for start in (1, 3, 5)]
    if isinstance(value, list) and len(value) == 3:
        channels = [int(channel) for channel in value if str(channel).strip().isdecimal()]
        if len(channels) == 3 and max(channels) <= 255:
            return channels[0], channels[1], channels[2]
    raise ValueError(f"a colour must be red, green and blue in 0..255, found {one_line(value, MAX_NAME)}")


class ColourReader:
    """Maps the colours of masks to the classes of a table.

    Args:
        table (`LabelTable`): One row for each colour, see [`read_colour_table`].
        tolerance (`int`): Largest difference of each channel, in 0..255. A pixel has the class of the nearest colour
            (the smallest sum of squared differences) of those that do not differ by more. 0 takes equal colours alone.

    Attributes:
        unknown (`Counter`): Number of pixels of each colour that is near none of the table, as `#rrggbb`.
        num_pixels (`int`): Pixels read so far.
    """

    def __init__(self, table: LabelTable, tolerance: int = 0) -> None:
        if not 0 <= tolerance <= 255:
            raise ValueError(f"tolerance must lie in 0..255, found {tolerance}")
        self.tolerance = tolerance
        self.unknown: Counter[str] = Counter()
        self.num_pixels = 0
        self._colours = np.array([row.colour for row in table.rows], dtype=np.int32)  # (R, 3)
        self._train_ids = np.array([row.train_id for row in table.rows], dtype=np.int16)
        self._known = np.full(1 << 24, _UNSEEN, dtype=np.int16)  # train id of every colour that was met
        self._is_unknown = np.zeros(1 << 24, dtype=bool)

    def read(self, mask: Image.Image) -> Image.Image:
        """Return the class ids of a mask as an image of mode L; 255 where the colour is unknown."""
        red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB"), dtype=np.uint32), 2, 0)
        packed = red << 16 | green << 8 | blue  # (H, W)
        ids = self._known[packed]
        if (ids == _UNSEEN).any():
            self._look_up(np.unique(packed[ids == _UNSEEN]))
            ids = self._known[packed]
        is_unknown = self._is_unknown[packed]
        if is_unknown.any():
            colours, counts = np.unique(packed[is_unknown], return_counts=True)
            self.unknown.update({f"#{c:06x}": int(n) for c, n in zip(colours, counts, strict=True)})
        self.num_pixels += ids.size
        return Image.fromarray(ids.astype(np.uint8))

    def _look_up(self, packed: np.ndarray) -> None:
        """Find the classes of colours (N,), packed into 24 bits."""
        for start in range(0, len(packed), _AT_A_TIME):
            some = packed[start : start + _AT_A_TIME].astype(np.int32)
            channels = np.stack([some >> 16, some >> 8 & 255, some & 255], axis=1)  # (N, 3)
            squared = np.full(len(some), np.iinfo(np.int32).max)
            ids = np.full(len(some), IGNORE_INDEX, dtype=np.int16)
            is_unknown = np.ones(len(some), dtype=bool)
            for colour, train_id in zip(self._colours, self._train_ids, strict=True):
                difference = np.abs(channels - colour)
                distance = (difference**2).sum(axis=1)
                is_nearer = (difference.max(axis=1) <= self.tolerance) & (distance < squared)
                squared[is_nearer], ids[is_nearer], is_unknown[is_nearer] = distance[is_nearer], train_id, False
            self._known[some], self._is_unknown[some] = ids, is_unknown

    @property
    def unknown_share(self) -> float:
        """Share of the pixels whose colour is unknown."""
        return self.unknown.total() / max(1, self.num_pixels)

    def describe_unknown(self) -> str:
        """List the unknown colours, the most frequent first."""
        return describe_counts(dict(self.unknown.most_common()))
