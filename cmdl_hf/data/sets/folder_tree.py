"""Draws the folders and files below a folder, for messages."""

import os
from collections.abc import Iterator
from pathlib import Path

from ...escaping import MAX_NAME, one_line

_DEPTH = 3
_MOST_FOLDERS = 8  # in a folder
_MOST_LINES = 30
_EXAMPLES = 2  # names of files in a folder


def draw_tree(folder: Path) -> str:
    """Draw the folders below a folder, three levels deep, each with the number of its files and two of their names.

    Args:
        folder (`Path`): The folder. Links to folders are named, not followed.

    Returns:
        `str`: one line for each folder, at most thirty.
    """
    lines = list(_lines(folder, "  ", _DEPTH))
    more = [f"  and {len(lines) - _MOST_LINES} more lines"] if len(lines) > _MOST_LINES else []
    return "\n".join([*lines[:_MOST_LINES], *more]) or "  nothing"


def _lines(folder: Path, indent: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        yield f"{indent}(cannot be read: {error.strerror})"
        return
    folders = [entry for entry in visible if entry.is_dir()]
    files = [entry.name for entry in visible if not entry.is_dir()]
    if files:
        names = ", ".join(one_line(name, MAX_NAME) for name in files[:_EXAMPLES])
        yield f"{indent}{len(files):,} file(s): {names}{', ...' if len(files) > _EXAMPLES else ''}"
    for entry in folders[:_MOST_FOLDERS]:
        yield f"{indent}{one_line(entry.name, MAX_NAME)}/"
        if depth > 1 and not entry.is_symlink():
            yield from _lines(Path(entry.path), indent + "  ", depth - 1)
    if len(folders) > _MOST_FOLDERS:
        yield f"{indent}and {len(folders) - _MOST_FOLDERS} more folders"
