"""Reads rows of a data set, whose images are decoded only now."""

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..images import explain_unreadable
from .reading import BadFileError

if TYPE_CHECKING:
    import datasets

_UNDECODED = (OSError, SyntaxError, EOFError, struct.error, zlib.error)  # a ValueError is a transform's own


def spread_indices(length: int, count: int | None) -> list[int]:
    """Choose `count` indices, spread evenly over `length`; all with `None`, or where there are no more."""
    if count is None or count >= length:
        return list(range(length))
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


def read_row(rows: "datasets.Dataset", index: int) -> dict[str, Any]:
    """Read a row, and name the file if its image cannot be decoded: loading looks only at an image's header and end.

    Args:
        rows (`datasets.Dataset`): One split, with or without a transform.
        index (`int`): The row.

    Raises:
        BadFileError: if its image cannot be decoded.
    """
    try:
        return rows[index]
    except _UNDECODED as error:
        problem, _, cure = explain_unreadable(error).rpartition("; ")
        raise BadFileError(_find_name(rows, index), problem, cure) from error


def _find_name(rows: "datasets.Dataset", index: int) -> Path:
    """Return the image's file, or its id if the image is stored in the data set."""
    import datasets

    columns = [name for name in ("image", "id") if name in rows.column_names]
    raw = rows.with_format(None).select_columns(columns).cast_column("image", datasets.Image(decode=False))[index]
    return Path(raw["image"]["path"] or str(raw.get("id", f"image {index}")))
