"""Files that are replaced whole: a reader, or an interruption, never meets half of one."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def write_files(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder, then put its files into `folder` one by one, each in one step.

    Args:
        folder (`Path`): Where the files end up; those of the same names are replaced.
        write (`Callable`): Takes the folder to write into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        write(unfinished)
        for file in sorted(unfinished.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
