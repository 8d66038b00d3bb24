"""Reads an image and its mask, and checks all rules for files. Each error names the cure.

Masks are processed with PIL's `histogram` and `point`, which take about a fifth of numpy's time.
"""

import errno
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from ..escaping import one_line
from ..files import NotRegularError
from ..images import REFETCH, SUFFIXES, UNREADABLE, UnfitImageError, check_depth, check_ids, load_whole, open_image

IMAGE_SUFFIXES = tuple(sorted(SUFFIXES))
"""Suffixes of the files that are taken for images, in lower case."""

_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_OF_THE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)  # not of the disk
_IMAGE_MODES = ("RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "YCbCr")
_TURNS = range(2, 9)  # EXIF orientations that rotate or mirror
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height

LEAVING_OUT = (
    "skip_bad_files=True in Python, or for a public data set cmdl prepare --skip-bad-files, leaves such files out and "
    "lists them"
)
"""Part of error messages: how to load a data set without its bad files."""

ImageValue = str | dict[str, bytes | None]


class BadFileError(ValueError):
    """One file breaks a rule.

    Args:
        path (`Path`): The file.
        problem (`str`): The rule and the value found.
        cure (`str`): How to repair the file.
        unexpected_ids (`Mapping[str, int]`): Number of pixels of every id or colour that is not allowed in the mask.
    """

    def __init__(self, path: Path, problem: str, cure: str, unexpected_ids: Mapping[str, int] | None = None) -> None:
        super().__init__(path, problem, cure)
        self.path = path
        self.unexpected_ids = dict(unexpected_ids or {})

    def __str__(self) -> str:
        path, problem, cure = self.args
        return one_line(f"{path}: {problem}; {cure}")


class BadDataError(ValueError):
    """Some files of a data set break a rule.

    Args:
        errors (`Sequence[BadFileError]`): One per file; the message lists the first ten.
    """

    def __init__(self, errors: Sequence[BadFileError]) -> None:
        super().__init__(errors)
        self.errors = list(errors)

    def __str__(self) -> str:
        return f"{list_errors(self.errors)}\nRepair these files or move them away; {LEAVING_OUT}."


def list_errors(errors: Sequence[BadFileError], limit: int = 10) -> str:
    """Count `errors` and list the first of them, one per line."""
    lines = [f"{len(errors)} file(s) cannot be used:", *(f"  {error}" for error in errors[:limit])]
    if len(errors) > limit:
        lines.append(f"  and {len(errors) - limit} more")
    return "\n".join(lines)


def decode(path: Path, content: bytes | None = None) -> Image.Image:
    """Decode an image of 8-bit channels as it is stored. The EXIF orientation is not applied.

    Args:
        path (`Path`): The file, or with `content` a name for messages.
        content (`bytes`, *optional*): The encoded image, if it is not in a file.

    Raises:
        BadFileError: if it cannot be decoded, or has more bits or bands.
    """
    with _decoding(path, content) as image:
        check_depth(image)
        load_whole(image)
    return image


def decode_colour_mask(path: Path) -> Image.Image:
    """Decode a mask of colours.

    Raises:
        BadFileError: if it cannot be decoded, has more bits or bands, or an EXIF orientation that turns it.
    """
    with _decoding(path, None) as image:
        check_depth(image)
        _refuse_turned(path, image)
        load_whole(image)
    return image


def _decode_ids(path: Path, content: bytes | None) -> Image.Image:
    """Decode a mask whose numbers Pillow leaves as they are."""
    with _decoding(path, content) as image:
        check_ids(image)
        _refuse_turned(path, image)
        load_whole(image)
    return image


def _refuse_turned(path: Path, mask: Image.Image) -> None:
    """Refuse a mask with an EXIF orientation: tools that draw masks write none, so it may be a copy of the image's."""
    orientation = _orientation(mask)
    if orientation in _TURNS:
        raise BadFileError(
            path,
            f"its EXIF orientation {orientation} would rotate or mirror the mask, and it is unknown whether its ids "
            "are stored before or after that",
            "apply the orientation to the mask, or remove the tag",
        )


def open_mask(path: Path, content: bytes | None = None) -> Image.Image:
    """Read a mask file of one class id per pixel.

    Args:
        path (`Path`): A grey, palette or one-bit file. The ids of a palette file are its palette indices, not its
            colours. 16-bit files may hold ids up to 255.
        content (`bytes`, *optional*): The encoded mask, if it is not in a file.

    Returns:
        `Image` of mode L with the stored ids.

    Raises:
        BadFileError: if the file cannot be decoded, does not hold ids, or has an EXIF orientation that turns it.
    """
    mask = _decode_ids(path, content)
    if mask.format == "JPEG":
        raise BadFileError(path, "a mask must be stored without loss, found JPEG", "save the class ids as PNG")
    if mask.mode in ("L", "P"):
        return mask if mask.mode == "L" else Image.frombytes("L", mask.size, mask.tobytes())
    if mask.mode == "1" or mask.mode.startswith("I"):
        return ids_to_image(np.asarray(mask), path)
    raise BadFileError(
        path,
        f"a mask must hold one class id per pixel, found mode {mask.mode}",
        "save the class ids as an 8-bit single-channel PNG",
    )


def ids_to_image(ids: np.ndarray, path: Path) -> Image.Image:
    """Turn an array (H, W) of whole numbers in 0..255, of any dtype, into an image of mode L."""
    ids = np.asarray(ids, dtype=np.float64 if ids.dtype.kind == "f" else np.int64)
    is_wrong = (ids < 0) | (ids > 255) | (ids != np.floor(ids))
    if is_wrong.any():
        values, counts = np.unique(ids[is_wrong], return_counts=True)
        raise _unexpected_ids(path, dict(zip(values.tolist(), counts.tolist(), strict=True)), "0..255")
    return Image.fromarray(ids.astype(np.uint8))


def map_ids(mask: Image.Image, mapping: Mapping[int, int], path: Path) -> Image.Image:
    """Replace the ids of a mask.

    Args:
        mask (`Image` of mode L): The stored ids.
        mapping (`Mapping[int, int]`): The new id, in 0..255, of every allowed id.
        path (`Path`): The file, for the message.

    Returns:
        `Image` of mode L; `mask` itself if no id changes.

    Raises:
        BadFileError: if `mapping` lacks an id of the mask. The message names these ids and their pixel counts.
    """
    counts = {value: count for value, count in enumerate(mask.histogram()) if count}
    if unexpected := {value: count for value, count in counts.items() if value not in mapping}:
        raise _unexpected_ids(path, unexpected, _ranges(mapping))
    if all(mapping[value] == value for value in counts):
        return mask
    return mask.point([mapping.get(value, 0) for value in range(256)])


def encode_png(image: Image.Image) -> bytes:
    """Encode an image or a mask as PNG, with low compression because that is fast."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def image_value(path: Path, content: bytes | None, mask_size: tuple[int, int] | None) -> ImageValue:
    """Check that an image fits its mask, and return the value that the data set stores.

    The image is usually not decoded: the check reads its header, its last bytes and its EXIF orientation.

    Args:
        path (`Path`): The image.
        content (`bytes`, *optional*): The encoded image, if it is not in a file.
        mask_size (`tuple[int, int]`, *optional*): Width and height of its mask; `None` without mask.

    Returns:
        The path or `content`, as `datasets.Image` stores them. If the EXIF orientation would rotate the image, but the
        mask fits the image without rotation, the bytes of the image without rotation.

    Raises:
        BadFileError: if the file is damaged, has an unsupported mode, or does not fit its mask.
    """
    with _decoding(path, content) as image:
        check_depth(image)
        if not _is_complete(image):
            load_whole(image)
        orientation = _orientation(image)
    if image.mode not in _IMAGE_MODES:
        raise BadFileError(path, f"an image must have 8-bit channels, found mode {image.mode}", "save it as RGB")
    as_it_is: ImageValue = str(path) if content is None else {"path": None, "bytes": content}
    if mask_size is None or (orientation == 1 and image.size == mask_size):
        return as_it_is
    width, height = image.size
    if orientation in _QUARTER_TURNS and width != height:
        if mask_size == (height, width):
            return as_it_is
        if mask_size == (width, height):
            return {"path": None, "bytes": encode_png(decode(path, content).convert("RGB"))}
    if image.size == mask_size:
        raise BadFileError(
            path,
            f"its EXIF orientation {orientation} rotates or mirrors it, and it is unknown whether the mask was drawn "
            "before or after that",
            "apply the orientation to the pixels, or remove the tag",
        )
    turned = f" (its EXIF orientation {orientation} rotates or mirrors it)" if orientation in _TURNS else ""
    raise BadFileError(
        path,
        f"image and mask must have the same size, found {width}×{height}{turned} and {mask_size[0]}×{mask_size[1]}",
        "resize the mask with nearest-neighbour interpolation, or restore the file it belongs to",
    )


@contextmanager
def _decoding(path: Path, content: bytes | None) -> Iterator[Image.Image]:
    """Open an image. Raises BadFileError if it cannot be decoded, OSError if the disk cannot be read."""
    try:
        with open_image(path if content is None else content) as image:
            yield image
    except BadFileError:
        raise
    except (UnfitImageError, NotRegularError) as error:
        raise BadFileError(path, error.problem, error.cure) from error
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_FILE:
            target = f", which is a link to {os.readlink(path)}" if path.is_symlink() else ""
            cure = "put the file there, with the right to read it, or remove this name"
            raise BadFileError(path, f"cannot be opened ({error.strerror}){target}", cure) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        size = path.stat().st_size if content is None else len(content)
        raise BadFileError(path, f"cannot be decoded ({size} bytes, {error})", REFETCH) from error


def _is_complete(image: Image.Image) -> bool:
    """Return whether the file has the ending of its format. A file without this ending may still be complete."""
    ending = _ENDINGS.get(image.format or "")
    stream: BinaryIO | None = getattr(image, "fp", None)
    if ending is None or stream is None:
        return False
    position = stream.tell()
    stream.seek(-len(ending), io.SEEK_END)
    is_complete = stream.read() == ending
    stream.seek(position)
    return is_complete


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif would decode the whole file to search for a trailing chunk
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _unexpected_ids(path: Path, counts: Mapping[int, int] | Mapping[float, int], expected: str) -> BadFileError:
    unexpected = {f"{value:g}": count for value, count in counts.items()}
    return BadFileError(
        path,
        f"the mask's ids must lie in {expected}, found {describe_counts(unexpected)}",
        "check that its ids were not shifted, reduced or blended by resizing, and for own data that the file of "
        "classes names every id",
        unexpected,
    )


def describe_counts(pixels: Mapping[str, int]) -> str:
    """Format the first ten ids or colours with their numbers of pixels."""
    texts = [f"{value} ({count} px)" for value, count in pixels.items()]
    return ", ".join([*texts[:10], *([f"and {len(texts) - 10} more"] if len(texts) > 10 else [])])


def _ranges(ids: Mapping[int, int]) -> str:
    """Format ids as ranges: 0..11, 255."""
    ranges: list[list[int]] = []
    for value in sorted(ids):
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    return ", ".join(f"{first}..{last}" if first < last else str(first) for first, last in ranges)
