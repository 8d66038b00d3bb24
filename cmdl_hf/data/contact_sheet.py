"""One picture of many samples of a data set: images beside their overlays, with names and class colours."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..escaping import MAX_NAME, one_line
from ..visualization import VOID_COLOR, Palette, choose_legend, overlay
from .label_table import IGNORE_INDEX

_PANEL = (360, 270)  # largest width and height of an image, in pixels
_GAP = 12
_CAPTION = 26  # height of the line above a pair
_LEGEND_ENTRY = (186, 24)
_MOST_CLASSES = 70  # of the legend
_PAIRS_A_ROW = 2
_INK = (20, 20, 20)
_FONT_SIZE = 14

_Entry: TypeAlias = tuple[str, tuple[int, ...] | None]  # name and colour of a class


def draw_contact_sheet(
    samples: Sequence[tuple[str, Image.Image, Image.Image]],
    id2label: Mapping[int, str],
    palette: Palette,
) -> Image.Image:
    """Draw pairs of an image and its overlay, each below its name, and a legend of the classes in them, at most 70.

    Args:
        samples (`Sequence` of name, PIL image and its label): Labels hold class ids at the size of the image. Void
            pixels (255) show only the image.
        id2label (`Mapping`): Name of every class.
        palette (`Sequence` of K rows): Colours of the classes.

    Returns:
        PIL image, RGB, about 1500 pixels wide.

    Raises:
        ImportError: If matplotlib is not installed, which has the font.
    """
    present, num_others = choose_legend((np.asarray(label) for _, _, label in samples), _MOST_CLASSES)
    legend: list[_Entry] = [(id2label[id_], tuple(palette[id_])) for id_ in present if id_ != IGNORE_INDEX]
    legend += [(f"and {num_others} more", None)] if num_others else []
    pairs = [_draw_pair(name, image, overlay(image, label, palette)) for name, image, label in samples]
    width = _PAIRS_A_ROW * (pairs[0].width + _GAP) + _GAP
    rows = [pairs[start : start + _PAIRS_A_ROW] for start in range(0, len(pairs), _PAIRS_A_ROW)]
    classes = _draw_legend(legend, width - 2 * _GAP)

    height = sum(max(pair.height for pair in row) + _GAP for row in rows) + classes.height + 2 * _GAP
    sheet = Image.new("RGB", (width, height), "white")
    top = _GAP
    for row in rows:
        for place, pair in enumerate(row):
            sheet.paste(pair, (_GAP + place * (pair.width + _GAP), top))
        top += max(pair.height for pair in row) + _GAP
    sheet.paste(classes, (_GAP, top))
    return sheet


def _draw_pair(name: str, image: Image.Image, painted: Image.Image) -> Image.Image:
    scale = min(_PANEL[0] / image.width, _PANEL[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    pair = Image.new("RGB", (2 * _PANEL[0] + _GAP // 3, _CAPTION + size[1]), "white")
    size_text, room = f"{image.width}×{image.height}", pair.width
    left = room - round(load_font().getlength(size_text))
    _write(pair, (left, 3), size_text, room)  # apart from the name, which may run from right to left
    _write(pair, (0, 3), name, left - _GAP)
    for place, panel in enumerate((image.convert("RGB"), painted)):
        pair.paste(panel.resize(size, resampling), (place * (size[0] + _GAP // 3), _CAPTION))
    return pair


def _draw_legend(entries: Sequence[_Entry], width: int) -> Image.Image:
    """Draw the colour and the name of every class, in columns."""
    columns = width // _LEGEND_ENTRY[0]
    num_rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (width, num_rows * _LEGEND_ENTRY[1] + _GAP), "white")
    for index, (name, color) in enumerate(entries):
        left, top = index % columns * _LEGEND_ENTRY[0], index // columns * _LEGEND_ENTRY[1]
        if color is not None:
            box = (left, top + 2, left + 18, top + 18)
            ImageDraw.Draw(legend).rectangle(box, fill=color, outline=VOID_COLOR)
        _write(legend, (left + 25, top), name, _LEGEND_ENTRY[0] - 33)
    return legend


def _write(picture: Image.Image, place: tuple[int, int], text: str, width: int) -> None:
    """Write a line of text, shortened to `width` pixels."""
    font = load_font()
    line = one_line(text, MAX_NAME)
    text = "".join(letter if _has_glyph(letter) else letter.encode("unicode_escape").decode() for letter in line)
    if font.getlength(text) > width:
        while font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    ImageDraw.Draw(picture).text(place, text, fill=_INK, font=font)


@cache
def load_font() -> ImageFont.FreeTypeFont:
    """Load matplotlib's font, because Pillow's own font has only ASCII letters.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("contact sheets need matplotlib; install it with pip install matplotlib") from error
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _FONT_SIZE)


@cache
def _has_glyph(letter: str) -> bool:
    """Return whether the font has `letter`. Missing letters are drawn as a box."""
    drawn, box = (load_font().getmask(text) for text in (letter, "\U0010ffff"))
    return letter.isascii() or (drawn.size, bytes(drawn)) != (box.size, bytes(box))
