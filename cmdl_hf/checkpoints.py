"""Checkpoints that are whole or not there: written aside, listed, renamed into place, rotated."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_PREFIX = "step-"
_UNFINISHED = ".unfinished"


class Checkpoints:
    """The checkpoints of one run.

    One is written into a folder of another name, which is renamed when every file and the list of them are on the
    disk; whatever interrupts that, the checkpoints before it stay. The processes of a run share the folder.

    Args:
        folder (`Path`): Holds `step-00001000` and so on.
        total_limit (`int`): The newest that are kept, at least 1.
    """

    def __init__(self, folder: Path, total_limit: int = 2) -> None:
        self.folder = folder
        self.total_limit = total_limit

    def save(self, step: int, write: Callable[[Path], None], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint; every process must call this.

        Args:
            step (`int`): Names the checkpoint.
            write (`Callable`): Writes files into the folder it is given, in every process.
            state (`Mapping`): What JSON holds, returned by [`Checkpoints.read`].

        Returns:
            `Path`: the checkpoint.

        Raises:
            OSError: if it cannot be written (disk full, no right to); what was there before is untouched.
        """
        processes = PartialState()
        target = self.folder / f"{_PREFIX}{step:08d}"
        unfinished = target.with_name(target.name + _UNFINISHED)
        try:
            if processes.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            processes.wait_for_everyone()
            write(unfinished)
            processes.wait_for_everyone()
            if processes.is_main_process:
                self._finish(unfinished, target, {"step": step, "num_processes": processes.num_processes, **state})
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own words for it
            shutil.rmtree(unfinished, ignore_errors=True)
            newest = self._name(self.newest())
            raise OSError(
                f"cannot write checkpoint {target}: {error}; free space or get the right to write there, and the "
                f"same command continues from {newest}"
            ) from error
        processes.wait_for_everyone()
        return target

    def newest(self) -> Path | None:
        """Find the newest whole checkpoint; those that are not are named in a warning and left alone."""
        for checkpoint in self._all():
            if problem := _find_problem(checkpoint):
                logger.warning(f"{checkpoint} is no whole checkpoint ({problem}): skipped")
            else:
                return checkpoint
        return None

    @staticmethod
    def read(checkpoint: Path) -> dict[str, Any]:
        """Return the state that `save` was given, with `step` and `num_processes`."""
        return json.loads((checkpoint / MANIFEST).read_text())["state"]

    def _finish(self, unfinished: Path, target: Path, state: Mapping[str, Any]) -> None:
        sizes = {file.name: file.stat().st_size for file in sorted(unfinished.iterdir())}
        (unfinished / MANIFEST).write_text(json.dumps({"files": sizes, "state": state}))
        for file in unfinished.iterdir():
            _to_disk(file)
        _to_disk(unfinished)
        shutil.rmtree(target, ignore_errors=True)  # a broken one of the same step
        unfinished.rename(target)
        _to_disk(self.folder)
        for leftover in self.folder.glob(f"{_PREFIX}*{_UNFINISHED}"):
            shutil.rmtree(leftover, ignore_errors=True)
        for old in list(self._all())[self.total_limit :]:
            (old / MANIFEST).unlink(missing_ok=True)  # first, so that what is half removed does not look whole
            shutil.rmtree(old, ignore_errors=True)

    def _all(self) -> Iterator[Path]:
        """Yield every checkpoint, whole or not, the newest first."""
        yield from sorted(self.folder.glob(f"{_PREFIX}*"), reverse=True)

    @staticmethod
    def _name(checkpoint: Path | None) -> str:
        return "the beginning" if checkpoint is None else str(checkpoint)


def _find_problem(checkpoint: Path) -> str | None:
    """Say what a folder lacks to be a whole checkpoint."""
    if checkpoint.name.endswith(_UNFINISHED):
        return "its writing was interrupted"
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes, not {size:,}"
    return None


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
