"""Atomic file writing: a reader never finds a partly written file, even after an interruption."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Lone surrogates, which UTF-8 lacks, are written as in JSON."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(unfinished, path)


def write_files(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary folder, then move its files into `folder`, each atomically.

    Only one writer may use a folder at a time.

    Args:
        folder (`Path`): Final folder of the files. Files of the same names are replaced.
        write (`Callable`): Function that takes the temporary folder and writes the files into it.

    Raises:
        OSError: if a file cannot be written. Old files are kept, unless they were replaced before the error.
    """
    unfinished = folder / ".writing"
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        for file in sorted(unfinished.iterdir()):
            os.replace(file, folder / file.name)
    except SafetensorError as error:  # safetensors raises this on a full disk
        raise OSError(f"cannot write to {folder}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_can_write(path: Path, is_folder: bool) -> None:
    """Check that a file, or files in a folder, can be written. Missing folders are created.

    Raises:
        PermissionError: if they cannot be written.
        IsADirectoryError: if the path of the file is a folder.
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
    """Replace nan and infinite numbers by None, because JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
