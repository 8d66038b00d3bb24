"""Appearances of the classes in generated scenes. Each class has several clearly different appearances.

Different classes share colours on purpose (brick and a red car, overcast sky and asphalt, lawn and a green fence), so
that a network must use shape, texture and position to distinguish them.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

TILE = 128
"""Height and width of a texture in pixels. Textures repeat in both directions."""

_BLACK, _DARK, _GREY, _LIGHT, _WHITE = (22, 22, 26), (62, 64, 68), (118, 120, 124), (176, 178, 180), (232, 232, 228)
_RED, _BRICK, _ORANGE, _YELLOW, _CREAM = (182, 34, 36), (152, 74, 58), (222, 132, 52), (226, 198, 62), (222, 206, 172)
_GREEN, _MOSS, _BLUE, _NAVY, _SKY = (70, 128, 54), (44, 78, 40), (52, 96, 168), (34, 46, 84), (128, 176, 226)
_BROWN, _PINK, _VIOLET, _TEAL = (104, 74, 50), (222, 142, 148), (112, 82, 140), (52, 128, 128)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Appearance:
    """One appearance of a class: two colours and the texture that mixes them."""

    first: Colour
    second: Colour
    texture: str


def _looks(*looks: tuple[Colour, Colour, str]) -> tuple[Appearance, ...]:
    return tuple(Appearance(*look) for look in looks)


APPEARANCES: dict[str, tuple[Appearance, ...]] = {
    "road": _looks(
        (_DARK, _GREY, "grain"), (_GREY, _LIGHT, "cobbles"), (_NAVY, _SKY, "streaks"), (_BROWN, _CREAM, "grain")
    ),
    "building": _looks(
        (_BRICK, _LIGHT, "bricks"), (_SKY, _NAVY, "windows"), (_CREAM, _DARK, "windows"), (_GREY, _DARK, "planks")
    ),
    "sky": _looks((_SKY, _WHITE, "gradient"), (_ORANGE, _VIOLET, "gradient"), (_LIGHT, _GREY, "blotches")),
    "vegetation": _looks((_GREEN, _MOSS, "blotches"), (_ORANGE, _BROWN, "blotches"), (_MOSS, _LIGHT, "grain")),
    "car": _looks(
        (_RED, _BRICK, "plain"), (_WHITE, _LIGHT, "plain"), (_NAVY, _BLUE, "gradient"), (_GREEN, _MOSS, "plain")
    ),
    "sidewalk": _looks((_LIGHT, _GREY, "slabs"), (_BRICK, _CREAM, "checks"), (_GREY, _DARK, "bricks")),
    "person": _looks((_RED, _NAVY, "plain"), (_WHITE, _BLUE, "stripes"), (_YELLOW, _BLACK, "checks")),
    "pole": _looks((_DARK, _BLACK, "plain"), (_LIGHT, _GREY, "streaks"), (_BROWN, _MOSS, "grain")),
    "traffic sign": _looks((_RED, _WHITE, "checks"), (_BLUE, _WHITE, "stripes"), (_YELLOW, _BLACK, "planks")),
    "fence": _looks((_BROWN, _BLACK, "planks"), (_LIGHT, _MOSS, "lattice"), (_GREEN, _MOSS, "planks")),
    "truck": _looks((_WHITE, _BLUE, "stripes"), (_MOSS, _GREEN, "blotches"), (_RED, _DARK, "slabs")),
    "bicycle": _looks((_BLACK, _DARK, "plain"), (_RED, _RED, "plain"), (_TEAL, _WHITE, "checks")),
    "terrain": _looks((_GREEN, _YELLOW, "grain"), (_CREAM, _BROWN, "blotches"), (_WHITE, _LIGHT, "blotches")),
    "traffic light": _looks((_BLACK, _MOSS, "plain"), (_YELLOW, _ORANGE, "plain"), (_LIGHT, _DARK, "stripes")),
    "bus": _looks((_RED, _CREAM, "stripes"), (_YELLOW, _WHITE, "plain"), (_TEAL, _NAVY, "gradient")),
    "wall": _looks((_LIGHT, _GREY, "cobbles"), (_CREAM, _BRICK, "stripes"), (_GREY, _PINK, "blotches")),
    "awning": _looks((_RED, _WHITE, "planks"), (_GREEN, _CREAM, "planks"), (_NAVY, _BLUE, "plain")),
    "bench": _looks((_BROWN, _ORANGE, "stripes"), (_GREY, _DARK, "plain"), (_TEAL, _BLACK, "stripes")),
    "bin": _looks((_GREEN, _BLACK, "planks"), (_DARK, _LIGHT, "lattice"), (_ORANGE, _WHITE, "stripes")),
    "dog": _looks((_BROWN, _BLACK, "blotches"), (_WHITE, _BLACK, "blotches"), (_CREAM, _ORANGE, "grain")),
}
"""Appearances of every class. Parts such as lane markings and windows have their own appearance."""

PARTS: dict[str, Appearance] = {
    "marking": Appearance(_WHITE, _LIGHT, "grain"),
    "glass": Appearance(_NAVY, _SKY, "gradient"),
    "tyre": Appearance(_BLACK, _DARK, "plain"),
    "skin": Appearance(_PINK, _BROWN, "plain"),
    "bark": Appearance(_BROWN, _BLACK, "streaks"),
    "lamp": Appearance(_YELLOW, _RED, "plain"),
    "hood": Appearance(_BLACK, _GREY, "gradient"),
}
"""Appearances of parts that look the same on every object."""


@cache
def texture_stack() -> tuple[dict[str, int], np.ndarray]:
    """Return the index of each texture in the stack, and the stack (T, 128, 128) of values in [0, 1]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:TILE, :TILE]
    grain = rng.random((TILE, TILE))
    cells = rng.random((TILE // 8, TILE // 8)).repeat(8, 0).repeat(8, 1)
    is_joint = (y % 8 == 0) | ((x + 4 * (y // 8 % 2)) % 8 == 0)
    textures = {
        "plain": np.zeros((TILE, TILE)),
        "grain": grain,
        "blotches": _smooth(grain, radius=3),
        "streaks": _smooth(rng.random((1, TILE)).repeat(TILE, 0), radius=1),
        "gradient": np.abs(y / (TILE / 2) - 1),
        "stripes": (y // 4) % 2,
        "planks": (x // 3) % 2,
        "checks": (x // 4 + y // 4) % 2,
        "slabs": (y % 16 == 0) | (x % 16 == 0),
        "lattice": ((x + y) % 8 < 2) | ((x - y) % 8 < 2),
        "bricks": (y % 4 == 0) | ((x + 4 * (y // 4 % 2)) % 8 == 0),
        "cobbles": np.where(is_joint, 0, 0.4 + 0.6 * cells),
        "windows": (y % 16 > 5) & (x % 16 > 7),
    }
    return {name: place for place, name in enumerate(textures)}, np.stack([*textures.values()]).astype(np.float32)


def _smooth(values: np.ndarray, radius: int) -> np.ndarray:
    """Average over a periodic square window, and scale the result to [0, 1]."""
    for axis in (0, 1):
        values = np.mean([np.roll(values, shift, axis) for shift in range(-radius, radius + 1)], axis=0)
    return (values - values.min()) / (values.max() - values.min())
