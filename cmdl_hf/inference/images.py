"""Find image files by name, folder or pattern, and read them safely."""

import glob
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is read. At this limit, Pillow suspects a decompression bomb."""

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Errors that Pillow raises on files that are not a complete image."""


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file as upright RGB. Transparency is dropped.

    Args:
        path (`Path`): The file.
        max_pixels (`int`): Images with more pixels are rejected before they are decoded.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if the file is not a complete image, or is too large.
    """
    with _without_pillows_limit(), Image.open(path) as file:
        width, height = file.size
        if width * height == 0:
            raise ValueError(f"has no pixels, found a size of {width} × {height}")
        if width * height > max_pixels:
            raise ValueError(
                f"has {width} × {height} = {width * height:,} pixels, more than {max_pixels:,}; raise the limit with "
                "--max-pixels if you trust its source"
            )
        if file.mode.startswith(("I", "F")):
            raise ValueError(f"must have 8 bits per channel, found mode {file.mode}; convert it")
        return ImageOps.exif_transpose(file).convert("RGB")


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Switch off Pillow's own pixel limit, because `max_pixels` replaces it."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def find_images(given: str | Path, output_dir: Path) -> Iterator[tuple[Path, Path]]:
    """Find the images of one command-line input.

    Args:
        given (`str` or `Path`): An image file, a folder (searched with its subfolders), or a pattern such as `*.jpg`
            or `**/*.jpg`.
        output_dir (`Path`): Folder of the results. If it lies below the searched folder, its files are skipped as
            results of an earlier call.

    Yields:
        Every image, and its name relative to the searched folder.

    Raises:
        FileNotFoundError: if there is no image.
    """
    root = Path(given)
    if root.is_file():
        yield root, Path(root.name)
        return
    if root.is_dir():
        readable = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
        found = (path for path in root.rglob("*") if path.suffix.lower() in readable and path.is_file())
    else:
        found = (path for path in map(Path, glob.glob(str(given), recursive=True)) if path.is_file())
        root = _fixed_part(root)
    paths = sorted(path for path in found if not _is_earlier_output(path, root, output_dir))
    if not paths:
        raise FileNotFoundError(f"{given} is no image file, no folder with images, and no pattern that matches images")
    yield from ((path, path.relative_to(root)) for path in paths)


def _fixed_part(pattern: Path) -> Path:
    """Return the folder that a pattern searches: its parts before the first wildcard."""
    parts = pattern.parts
    first = next((index for index, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts) - 1)
    return Path(*parts[:first])


def _is_earlier_output(path: Path, root: Path, output_dir: Path) -> bool:
    """Whether a file lies in the output folder, and this lies below the searched folder."""
    output = output_dir.resolve()
    return output != root.resolve() and output in path.resolve().parents and root.resolve() in output.parents
