"""A legend beside a picture: a swatch, the name and the share of each class."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..escaping import one_line

_MAX_LETTERS = 32
_SIZES = (13, 40)  # of letters, in pixels
_LINES_OF_A_PICTURE = 26
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


class LegendEntry(NamedTuple):
    """A class in a legend; without a colour, it is left clear in the picture."""

    name: str
    color: Sequence[int] | None
    share: float | None = None


def add_legend(picture: Image.Image, entries: Sequence[LegendEntry], may_grow: bool = True) -> Image.Image:
    """Put a legend at the right of a picture, on white.

    Args:
        picture (PIL image): RGB.
        entries (`Sequence`): The classes, the most important first.
        may_grow (`bool`): Whether a low picture is made higher for its legend, at most by the height of 26 lines.
            Classes that do not fit are counted in the last line.

    Returns:
        PIL image, RGB; the picture is at its top left.
    """
    size = min(max(min(picture.size) // _LINES_OF_A_PICTURE, _SIZES[0]), _SIZES[1])
    font, row, margin = _font(size), round(1.6 * size), round(0.8 * size)
    height = max(picture.height, min(len(entries), _LINES_OF_A_PICTURE) * row + 2 * margin) if may_grow else 0
    height = height or picture.height
    fitting = max(0, (height - 2 * margin) // row)
    shown = list(entries) if len(entries) <= fitting else list(entries[: max(0, fitting - 1)])
    texts = [(one_line(entry.name, _MAX_LETTERS), format_share(entry.share)) for entry in shown]
    more = [f"and {len(entries) - len(shown)} more"] if len(shown) < len(entries) and fitting else []
    names = [font.getlength(text) for text in [*(name for name, _ in texts), *more]]
    shares = max((font.getlength(share) for _, share in texts), default=0)
    width = round(3 * margin + size + max(names, default=0) + (margin + shares if shares else 0))

    whole = Image.new("RGB", (picture.width + width, height), _PAPER)
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    left, right = picture.width + margin, whole.width - margin
    for index, (entry, (name, share)) in enumerate(zip(shown, texts, strict=True)):
        top = margin + index * row
        box = (left, top, left + size, top + size)
        draw.rectangle(box, fill=None if entry.color is None else tuple(entry.color), outline=_INK)
        draw.text((left + size + margin, top + size / 2), name, _INK, font, "lm")
        draw.text((right, top + size / 2), share, _INK, font, "rm")
    for line in more:
        draw.text((left + size + margin, margin + len(shown) * row + size / 2), line, _INK, font, "lm")
    return whole


def choose_legend(maps: Iterable[np.ndarray], most: int) -> tuple[list[int], int]:
    """Choose the classes that a legend lists: those with pixels or, if there are too many, the largest.

    Args:
        maps (`Iterable` of arrays): Class ids.
        most (`int`): Largest number of lines. If they do not suffice, the last one is for the number of the others.

    Returns:
        The ids in their order, and how many others have pixels.
    """
    counts: Counter[int] = Counter()
    for ids in maps:
        counts.update(dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True)), strict=True)))
    chosen = counts.most_common(len(counts) if len(counts) <= most else most - 1)
    return sorted(id_ for id_, _ in chosen), len(counts) - len(chosen)


def format_share(share: float | None) -> str:
    """Format a share of the pixels in percent; nothing for `None`."""
    if share is None:
        return ""
    return "<1 %" if share < 0.01 else f"{100 * share:.0f} %"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    # the font of the figures, which has more scripts than Pillow's own
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
