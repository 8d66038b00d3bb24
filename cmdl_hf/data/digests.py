"""Digests of a split, to find out whether another one is the same."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets

from ..files import open_regular

_BLOCK = 4096  # bytes read at the start, the middle and the end of an image file
_READERS = 8
_ROWS_AT_A_TIME = 256


def ids_digest(rows: datasets.Dataset) -> str:
    """Return a digest of the image ids of a split."""
    return hashlib.sha256("\n".join(map(str, rows["id"][:])).encode()).hexdigest()[:16]


def content_digest(rows: datasets.Dataset) -> str:
    """Return a digest of what a split holds: ids, labels and images, wherever their files lie and when they were made.

    Labels, and images that are not in files, are read whole. Of an image file the size and three blocks are read, so
    that large data sets take seconds.

    Args:
        rows (`datasets.Dataset`): A split, as `load_benchmark` returns it.

    Raises:
        OSError: if an image file cannot be read.
    """
    digest = hashlib.sha256()
    rows = rows.select_columns(["image", "label", "id"]).with_format(None)
    for column in ("image", "label"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    with ThreadPoolExecutor(_READERS) as readers:
        for batch in rows.iter(_ROWS_AT_A_TIME):
            for id_, *parts in zip(
                batch["id"], *(readers.map(_part, batch[name]) for name in ("image", "label")), strict=True
            ):
                digest.update(hashlib.sha256(repr((id_, parts)).encode()).digest())
    return digest.hexdigest()[:16]


def _part(value: dict[str, Any] | None) -> str | None:
    """Return a digest of an image or a label; None for a withheld label."""
    if value is None:
        return None
    content = value["bytes"]
    return hashlib.sha256(_read_blocks(Path(value["path"])) if content is None else content).hexdigest()


def _read_blocks(path: Path) -> bytes:
    """Return the size of a file, and its first, middle and last block."""
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        blocks = []
        for start in (0, size // 2 - _BLOCK // 2, size - _BLOCK):
            file.seek(max(0, start))
            blocks.append(file.read(_BLOCK))
    return b"%d:" % size + b"".join(blocks)
