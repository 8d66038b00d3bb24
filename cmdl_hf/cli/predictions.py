"""The table that `cmdl predict` prints at its end."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..escaping import one_line
from ..json_files import read_json

_MAX_ROWS = 20
_MAX_NAME = 24  # letters of a class
_FILES = (12, 36)  # columns of the terminal for the files' names


def print_predictions(out: Path) -> None:
    """Print what is in the images and videos of an output folder, and where its files are.

    Args:
        out (`Path`): Folder that `predict_files` has written.
    """
    from rich.cells import cell_len, set_cell_size

    summary = read_json(out / "summary.json")
    rows = [*summary["images"], *summary["videos"]]
    folder, names = _shorten([row["file"] for row in rows])
    width = min(max([_FILES[0], *map(cell_len, names)]), _FILES[1])
    room = shutil.get_terminal_size().columns - width - 2
    if rows:
        print(f"\n{set_cell_size('file', width)}  share of each class\n{'─' * width}  {'─' * min(room, 60)}")
    for row, name in zip(rows[:_MAX_ROWS], names, strict=False):
        shown = name if cell_len(name) <= width else f"…{name[-(width - 1) :]}"
        print(f"{set_cell_size(shown, width)}  {_describe(row, room)}")
    if len(rows) > _MAX_ROWS:
        print(f"and {len(rows) - _MAX_ROWS:,} more")
    print("\n".join(["", *_places(summary, folder, out)]))


def _shorten(files: Sequence[str]) -> tuple[str, list[str]]:
    """Split files into the folder that they share and their names in it."""
    folder = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    return one_line(folder), [one_line(os.path.relpath(file, folder or ".")) for file in files]


def _describe(row: dict[str, Any], room: int) -> str:
    """List the largest classes of an image or video, as many as fit in a line."""
    from rich.cells import cell_len

    from ..visualization import format_share

    parts = [f"{one_line(entry['name'], _MAX_NAME)} {format_share(entry['share'])}" for entry in row["classes"]]
    start = f"{row['frames']} frames: " if "frames" in row else ""
    for number in range(len(parts), 0, -1):
        text = start + ", ".join(parts[:number]) + (", …" if number < len(parts) else "")
        if cell_len(text) <= room or number == 1:
            return text
    return start


def _places(summary: dict[str, Any], folder: str, out: Path) -> list[str]:
    """Say where the files are."""
    images, videos, shown = summary["images"], summary["videos"], one_line(out)
    counts = [_count(len(images), "image")] if images or not videos else []
    counts += [_count(len(videos), "video")] if videos else []
    lines = [f"{' and '.join(counts)} segmented{f', of {folder}' if folder else ''}"]
    if images:
        more = f", {shown}/NAME_outlier.png" if "outlier_map" in images[0] else ""
        lines.append(f"class ids: {shown}/NAME.png; overlays: {shown}/NAME_overlay.jpg{more}")
    if videos:
        lines.append(f"videos: {shown}/NAME_overlay.mp4; shares in each frame: {shown}/NAME_frames.csv")
    return [*lines, f"all shares: {one_line(out / 'summary.json')}"]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
