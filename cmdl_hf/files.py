"""Files that are replaced whole: a reader, or an interruption, never meets half of one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def write_files(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder, then put its files into `folder` one by one, each in one step; one writer at a time.

    Args:
        folder (`Path`): Where the files end up; those of the same names are replaced.
        write (`Callable`): Takes the folder to write into.
    """
    unfinished = folder / ".writing"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        for file in sorted(unfinished.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
