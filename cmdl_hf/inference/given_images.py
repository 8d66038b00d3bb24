"""Images as users give them: the path of a file, a PIL image or an array."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from ..escaping import one_line
from ..images import MAX_PIXELS, UNREADABLE, check_given, explain_unreadable, read_image

GivenImage: TypeAlias = str | Path | Image.Image | np.ndarray


def take_image(given: GivenImage, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image, upright and as RGB; transparency is dropped.

    Args:
        given (`str`, `Path`, PIL image or `np.ndarray`): A file, a PIL image with 8-bit channels, or an array of uint8
            and of shape (H, W), (H, W, 3) in the order red, green, blue, or (H, W, 4).
        max_pixels (`int`): Files with more pixels are not read.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if it is another object.
        ValueError: if it cannot be read whole.
    """
    if isinstance(given, str | Path):
        return _read_file(given, max_pixels)
    if isinstance(given, Image.Image):
        return _convert(given)
    if isinstance(given, np.ndarray):
        return _from_array(given)
    raise TypeError(
        f"an image must be a path, a PIL image or an array, found {type(given).__name__}; convert it, a tensor with "
        "torchvision.transforms.functional.to_pil_image"
    )


def name_image(given: GivenImage, index: int | None = None) -> str:
    """Name an image for a message: after its file or its place in a list."""
    if isinstance(given, str | Path):
        return one_line(given)
    return "the image" if index is None else f"image {index} of the list"


def _read_file(path: str | Path, max_pixels: int) -> Image.Image:
    name = one_line(path)
    if "://" in str(path):
        raise ValueError(f"an image must be a file here, found the address {name}; download it first")
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no image {name}; correct its path")
    try:
        return read_image(Path(path), max_pixels)
    except UNREADABLE as error:
        raise ValueError(f"{name}: {explain_unreadable(error)}") from error


def _convert(image: Image.Image) -> Image.Image:
    check_given(image)
    return ImageOps.exif_transpose(image).convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_image or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            "an array must be an image of uint8 and of shape (H, W), (H, W, 3) or (H, W, 4), found "
            f"{array.dtype} of shape {array.shape}; scale its values to 0..255, put the channels last, and pass a "
            "list for several images"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
