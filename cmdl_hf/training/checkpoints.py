"""Checkpoints that are either complete or absent: written to a temporary folder, then renamed."""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from ..files import make_folder, new_folder_in, write_text
from ..json_files import read_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_PREFIX = "step-"
_UNFINISHED = ".unfinished"


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint is first written to a temporary folder. This folder is renamed when all its files and a manifest are
    on the disk. An interruption therefore never damages earlier checkpoints. All processes of a run share the folder.

    Args:
        folder (`Path`): Folder of the checkpoints `step-00001000` and so on.
        total_limit (`int`): Number of newest checkpoints to keep, at least 1.
    """

    def __init__(self, folder: Path, total_limit: int = 2) -> None:
        self.folder = folder
        self.total_limit = total_limit

    def save(self, step: int, write: Callable[[Path], None], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint. Every process must call this.

        Args:
            step (`int`): Optimiser step, which names the checkpoint.
            write (`Callable`): Called in every process with a folder; writes the files of the checkpoint there.
            state (`Mapping`): Further values, in types that JSON can hold. [`Checkpoints.read`] returns them.

        Returns:
            `Path`: the checkpoint.

        Raises:
            OSError: if it cannot be written (disk full, no permission). Earlier checkpoints are not changed.
        """
        processes = PartialState()
        target = self.folder / f"{_PREFIX}{step:08d}"
        unfinished = None
        try:
            unfinished = self._begin(target)
            write(unfinished)
            processes.wait_for_everyone()
            if processes.is_main_process:
                self._finish(unfinished, target, {"step": step, "num_processes": processes.num_processes, **state})
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own types
            if unfinished is not None:
                shutil.rmtree(unfinished, ignore_errors=True)
            newest = self._name(self.newest())
            raise OSError(
                f"cannot write checkpoint {target}: {error}; free space on the disk, or get permission to write. Then "
                f"the same command continues from {newest}"
            ) from error
        processes.wait_for_everyone()
        return target

    def newest(self) -> Path | None:
        """Find the newest complete checkpoint. Incomplete ones are skipped with a warning."""
        for checkpoint in self._all():
            if problem := _find_problem(checkpoint):
                logger.warning(f"{checkpoint} is not a complete checkpoint ({problem}): skipped")
            else:
                return checkpoint
        return None

    @staticmethod
    def read(checkpoint: Path) -> dict[str, Any]:
        """Return the `state` that was passed to `save`, with `step` and `num_processes`."""
        return read_json(checkpoint / MANIFEST)["state"]

    def _begin(self, target: Path) -> Path:
        """Make a folder of a name that nobody can foresee, which all processes write into."""
        names = [""]
        if PartialState().is_main_process:
            make_folder(self.folder)
            for left in self.folder.glob(f"{target.name}{_UNFINISHED}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            names = [new_folder_in(self.folder, f"{target.name}{_UNFINISHED}-").name]
        return self.folder / broadcast_object_list(names)[0]

    def _finish(self, unfinished: Path, target: Path, state: Mapping[str, Any]) -> None:
        files = {file.name: [file.stat().st_size, _checksum(file)] for file in sorted(unfinished.iterdir())}
        write_text(unfinished / MANIFEST, json.dumps({"files": files, "state": state}))
        for file in unfinished.iterdir():
            _to_disk(file)
        _to_disk(unfinished)
        _remove(target)  # a broken one of the same step
        unfinished.rename(target)
        _to_disk(self.folder)
        others = [checkpoint for checkpoint in self._all() if checkpoint != target]
        is_broken = {checkpoint: _find_problem(checkpoint, reads_all=False) is not None for checkpoint in others}
        whole = [checkpoint for checkpoint in others if not is_broken[checkpoint]]
        for old in [*filter(is_broken.get, others), *whole[self.total_limit - 1 :]]:
            _remove(old)

    def _all(self) -> Iterator[Path]:
        """Yield every checkpoint, complete or not, the newest first."""
        yield from sorted(self.folder.glob(f"{_PREFIX}*"), reverse=True)

    @staticmethod
    def _name(checkpoint: Path | None) -> str:
        return "the beginning" if checkpoint is None else str(checkpoint)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; of a link the name alone."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
        return
    (checkpoint / MANIFEST).unlink(missing_ok=True)  # first: a half-removed checkpoint must not look complete
    shutil.rmtree(checkpoint, ignore_errors=True)


def _find_problem(checkpoint: Path, reads_all: bool = True) -> str | None:
    """Return why a checkpoint is not complete, or None. Without `reads_all` only file sizes are checked."""
    if checkpoint.is_symlink():
        return "it is a link"
    if _UNFINISHED in checkpoint.name:
        return "its writing was interrupted"
    try:
        listed = read_json(checkpoint / MANIFEST)["files"]
        files = [(name, size, checksum) for name, (size, checksum) in listed.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or unreadable"
    for name, size, checksum in files:
        file = checkpoint / name
        if file.is_symlink() or file.parent != checkpoint:
            return f"{name} leads out of it"
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes, not {size:,}"
        if reads_all and _checksum(file) != checksum:
            return f"{name} has changed since it was written"
    return None


def _checksum(file: Path) -> int:
    """Return the CRC-32 of a file. It is computed faster than disks can read."""
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
