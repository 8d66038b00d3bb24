"""Files that are replaced whole: a reader, or an interruption, never meets half of one."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


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

    Raises:
        OSError: if they cannot be written; what was there is as it was, but for files that are replaced already.
    """
    unfinished = folder / ".writing"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        for file in sorted(unfinished.iterdir()):
            os.replace(file, folder / file.name)
    except SafetensorError as error:  # its word for a full disk
        raise OSError(f"cannot write to {folder}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_can_write(path: Path, is_folder: bool) -> None:
    """Find out before the work whether a file, or files in a folder, can be written; missing folders are made.

    Raises:
        PermissionError: if they cannot.
        IsADirectoryError: if there is a folder where a file is to be.
    """
    folder = path if is_folder else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{path.name}.{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(f"{path} cannot be written ({error.strerror}); name another place") from error
    if not is_folder and path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a JSON file")


def without_nan(value: Any) -> Any:
    """Put None, which JSON has, for nan, which it has not."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
