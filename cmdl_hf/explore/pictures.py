"""Pictures of a report: patches around pixels, and an image beside what a model makes of it, as data URIs."""

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from .statistics import Cell

PATCH_SIZE = 128
"""Edge of a patch in a contact sheet, in pixels."""

_PANEL_WIDTH = 480  # the most that an image takes, in pixels
_FRAME = (128, 128, 128)
_MARK = ((0, 0, 0), (255, 255, 255))  # a line of each, so that one of them stands out


def cut_patch(image: Image.Image, cell: Cell) -> Image.Image:
    """Cut the surroundings of a pixel of the feature grid out of an image, with the pixel marked.

    Args:
        image (PIL image): The whole image, RGB.
        cell (`Cell`): The pixel.

    Returns:
        PIL image, RGB, `PATCH_SIZE` wide and high, of a third of the image's shorter edge or of four grid cells,
        whichever is more. Next to the image's edge the pixel is not in the middle.
    """
    box = _patch_box(image.size, cell)
    scale = PATCH_SIZE / (box[2] - box[0])
    patch = image.resize((PATCH_SIZE, PATCH_SIZE), Image.Resampling.BILINEAR, box=box)
    left, top, right, bottom = cell_box(image.size, cell)
    mark = [
        round((value - start) * scale) for value, start in zip((left, top, right, bottom), box[:2] * 2, strict=True)
    ]
    draw = ImageDraw.Draw(patch)
    for inset, color in enumerate(_MARK):
        draw.rectangle((mark[0] - inset, mark[1] - inset, mark[2] - 1 + inset, mark[3] - 1 + inset), outline=color)
    draw.rectangle((0, 0, PATCH_SIZE - 1, PATCH_SIZE - 1), outline=_FRAME)
    return patch


def cell_box(size: tuple[int, int], cell: Cell) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a pixel of the feature grid, in an image of a size (width, height)."""
    width, height = size[0] / cell.grid[1], size[1] / cell.grid[0]
    return cell.column * width, cell.row * height, (cell.column + 1) * width, (cell.row + 1) * height


def _patch_box(size: tuple[int, int], cell: Cell) -> tuple[float, float, float, float]:
    """A square around a pixel, shifted into the image."""
    left, top, right, bottom = cell_box(size, cell)
    edge = min(max(min(size) / 3, 4 * max(right - left, bottom - top)), *size)
    x = min(max((left + right - edge) / 2, 0), size[0] - edge)
    y = min(max((top + bottom - edge) / 2, 0), size[1] - edge)
    return x, y, min(x + edge, size[0]), min(y + edge, size[1])


def draw_strip(patches: Sequence[Image.Image]) -> Image.Image:
    """Put patches side by side: a contact sheet of one row."""
    strip = Image.new("RGB", (len(patches) * PATCH_SIZE, PATCH_SIZE))
    for place, patch in enumerate(patches):
        strip.paste(patch, (place * PATCH_SIZE, 0))
    return strip


def shrink(image: Image.Image, is_photo: bool = True) -> Image.Image:
    """Bring an image down to the size of a panel; ids and painted classes keep their colours."""
    scale = min(_PANEL_WIDTH / image.width, 4 * _PANEL_WIDTH / image.height)
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS if is_photo else Image.Resampling.NEAREST)


def to_data_uri(image: Image.Image, is_photo: bool = True, quality: int = 75) -> str:
    """Write an image as WebP into an address that holds the image itself.

    Args:
        image (PIL image): RGB.
        is_photo (`bool`): Whether small losses do no harm, as in photographs.
        quality (`int`): Of a photograph, up to 100.
    """
    file = io.BytesIO()
    if is_photo:
        image.save(file, "WEBP", quality=quality, method=4)
    else:
        image.save(file, "WEBP", lossless=True, quality=50, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def to_hex(color: Sequence[int]) -> str:
    """Write red, green, blue as `#rrggbb`."""
    return "#" + "".join(f"{channel:02x}" for channel in color)
