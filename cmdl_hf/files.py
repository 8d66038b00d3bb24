"""The one way in which this package writes and opens files.

A file is replaced whole: a reader, or an interruption, never meets half of one. Nothing is written through a link.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from safetensors import SafetensorError

from .weight_files import find_superseded

_NEW = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_WAITS_FOR_NOBODY = getattr(os, "O_NONBLOCK", 0)  # the other end of a pipe, that is
_WRITING = ".writing-"
_IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG"}


@contextmanager
def new_file(path: Path, root: Path | None = None) -> Iterator[Path]:
    """Give the name of an empty file beside `path`, which takes the place of `path` when the block ends well.

    Nobody can foresee the name, and no file had it before. A link in the place of `path` is replaced, and what it
    leads to stays as it is.

    Args:
        path (`Path`): The file that is to be. Missing folders are made.
        root (`Path`, *optional*): As `make_folder` takes it.

    Yields:
        `Path`: what to write to; its suffix is that of `path`.

    Raises:
        OSError: if it cannot be written, or its folder is a link; what was there is as it was.
    """
    make_folder(path.parent, root)
    unfinished = path.with_name(f"{_WRITING}{secrets.token_hex(8)}{path.suffix}")
    os.close(os.open(unfinished, os.O_WRONLY | _NEW, 0o666))
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, root: Path | None = None) -> None:
    """Write a file in one step; the arguments are those of `new_file`."""
    with new_file(path, root) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step. Lone surrogates, which UTF-8 lacks, are written as in JSON."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_image(path: Path, image: Image.Image, root: Path | None = None, **options: Any) -> None:
    """Write an image in one step.

    Args:
        path (`Path`): Ends in .png or .jpg.
        image (PIL image): The image.
        root (`Path`, *optional*): As `make_folder` takes it.
        **options: Of the format; see Pillow.
    """
    with new_file(path, root) as unfinished:
        image.save(unfinished, _IMAGE_FORMATS[path.suffix], **options)


def append_text(path: Path, text: str) -> None:
    """Add to a text file, which is made where there is none. The errors are those of `open_to_append`."""
    with open_to_append(path) as file:
        file.write(text.encode())


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to add to it, such as a log; it is made where there is none.

    Raises:
        LinkError: if it is a link.
        NotRegularError: if it is another thing that is no file.
    """
    refuse_link(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | _WAITS_FOR_NOBODY
    file = os.fdopen(os.open(path, flags, 0o666), "ab")
    try:
        refuse_irregular(path, os.fstat(file.fileno()).st_mode)
    except ValueError:
        file.close()
        raise
    return file


def write_files(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder, then put its files into `folder` one by one, each in one step; one writer at a time.

    Args:
        folder (`Path`): Where the files end up. Those of the same names are replaced, and so are links. Weight files
            of another shape than the new ones, such as shards, are removed.
        write (`Callable`): Takes the folder to write into.

    Raises:
        OSError: if they cannot be written; what was there is as it was, but for files that are replaced already.
    """
    make_folder(folder)
    remove_unfinished(folder)
    unfinished = new_folder_in(folder, _WRITING)
    try:
        write(unfinished)
        files = sorted(unfinished.iterdir())
        for file in files:
            os.replace(file, folder / file.name)
        for name in find_superseded(os.listdir(folder), [file.name for file in files]):
            (folder / name).unlink()
    except SafetensorError as error:  # its word for a full disk
        raise OSError(f"cannot write to {folder}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed left unfinished in a folder that nobody else writes to now."""
    for left in folder.glob(f"{_WRITING}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def make_folder(folder: Path, root: Path | None = None) -> Path:
    """Make a folder and those above it where they are missing, and refuse links.

    Links above `folder` are the user's own way of laying out disks, and are followed. Below `root` there may be none,
    as others may have made what lies there.

    Args:
        folder (`Path`): The folder.
        root (`Path`, *optional*): A folder above it that the user named.

    Returns:
        `Path`: the folder.

    Raises:
        LinkError: if it, or a folder between `root` and it, is a link.
        OSError: if it cannot be made.
    """
    parts = [folder] if root is None else [folder, *(part for part in folder.parents if part.is_relative_to(root))]
    for part in reversed(parts):
        refuse_link(part)
        part.mkdir(parents=True, exist_ok=True)
    return folder


def new_folder_in(folder: Path, prefix: str) -> Path:
    """Make a folder of a name that nobody can foresee; all that is written into it is new."""
    new = folder / f"{prefix}{secrets.token_hex(8)}"
    new.mkdir()
    return new


class LinkError(OSError):
    """What is to be written to is a link."""


def refuse_link(path: Path) -> None:
    """Raise `LinkError`, which names where it leads, if a path is a link."""
    if path.is_symlink():
        raise LinkError(
            f"{path} is a link to {os.readlink(path)}, and nothing is written through links; name the place itself, "
            "or remove the link"
        )


def open_regular(path: Path, follow_links: bool = True) -> BinaryIO:
    """Open a file to read its bytes; what is no regular file, such as a pipe, would keep us waiting or never end.

    Args:
        path (`Path`): The file.
        follow_links (`bool`): Whether it may be a link to one.

    Raises:
        OSError: if it cannot be read.
        NotRegularError: if it is a link and must not be, a folder, a pipe, a socket or a device.
    """
    status = os.stat(path, follow_symlinks=follow_links)
    refuse_irregular(path, status.st_mode)
    flags = os.O_RDONLY | _WAITS_FOR_NOBODY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags if follow_links else flags | getattr(os, "O_NOFOLLOW", 0))
    file = os.fdopen(descriptor, "rb")
    try:
        refuse_irregular(path, os.fstat(descriptor).st_mode)  # another may lie there by now
    except ValueError:
        file.close()
        raise
    return file


def read_utf8(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        OSError, NotRegularError: as of `open_regular`.
        ValueError: if it is in another encoding, such as Latin-1 or UTF-16.
    """
    with open_regular(path) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be a text file in UTF-8, found the byte 0x{content[error.start]:02x} at position "
            f"{error.start}; save it as UTF-8"
        ) from error


class NotRegularError(ValueError):
    """What lies at a path is no regular file.

    Args:
        path (`Path`): The path.
        kind (`str`): What lies there.
    """

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(path, kind)
        self.problem = f"must be a regular file, found {kind}"
        self.cure = "put the file itself there, or remove it"

    def __str__(self) -> str:
        return f"{self.args[0]} {self.problem}; {self.cure}"


_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def walk_files(folder: Path) -> list[Path]:
    """List what lies below a folder and is no folder, sorted; nothing hidden. Links to folders are followed once.

    Raises:
        OSError: if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for current, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (place := os.path.realpath(current)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(current, name) for name in names if not name.startswith(".")]
    return sorted(found)


def refuse_irregular(path: Path, mode: int) -> None:
    """Raise `NotRegularError` unless a mode, as `stat` returns it, is that of a regular file."""
    if not stat.S_ISREG(mode):
        raise NotRegularError(path, _KINDS.get(stat.S_IFMT(mode), "something else"))


def check_can_write(path: Path, is_folder: bool) -> None:
    """Find out before the work whether a file, or files in a folder, can be written; missing folders are made.

    Raises:
        PermissionError: if they cannot.
        LinkError: if the folder is a link.
        IsADirectoryError: if there is a folder where a file is to be.
    """
    folder = path if is_folder else path.parent
    try:
        make_folder(folder)
        new_folder_in(folder, ".probe-").rmdir()
    except LinkError:
        raise
    except OSError as error:
        raise PermissionError(f"{path} cannot be written ({error.strerror}); name another place") from error
    if not is_folder and path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
