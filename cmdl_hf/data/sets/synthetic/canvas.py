"""The canvas on which generated street scenes are painted.

The unit of length is the image height: y runs from 0 (top) to 1, x from 0 to the aspect ratio of the image.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ...label_table import IGNORE_INDEX
from .textures import APPEARANCES, TILE, Appearance, texture_stack

Point = tuple[float, float]

_CLASS_NAMES = tuple(APPEARANCES)
_COLOUR_JITTER = 16
_NOISE = 6


class Scene:
    """A canvas on which parts are painted from back to front. Each part has a class and an appearance.

    Parts are drawn as numbers. `render` then finds class and colour of all pixels at once.

    Args:
        rng (`np.random.Generator`): Generator of all random choices.
        size (`tuple[int, int]`): Height and width.
        num_labels (`int`): Number of classes K. Classes with an id of K or more do not occur.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], num_labels: int) -> None:
        self.rng = rng
        self.height, self.width = size
        self.aspect = self.width / self.height
        self.classes = _CLASS_NAMES[:num_labels]
        self.horizon = self.uniform(0.36, 0.52)
        self.vanishing_x = self.aspect * self.uniform(0.35, 0.65)
        self._canvas = Image.new("I", (self.width, self.height))
        self._draw = ImageDraw.Draw(self._canvas)
        self._part_labels: list[int] = []
        self._part_looks: list[Appearance] = []

    def uniform(self, low: float, high: float) -> float:
        """Draw a number between `low` and `high`."""
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.rng.random() < probability

    def first_of(self, *names: str) -> str:
        """Return the first of `names` that is a class of the scene."""
        return next(name for name in names if name in self.classes)

    def look(self, name: str) -> Appearance:
        """Draw one of a class's appearances."""
        looks = APPEARANCES[name]
        return looks[self.rng.integers(len(looks))]

    def polygon(self, name: str, look: Appearance, points: Sequence[Point]) -> None:
        """Paint a polygon."""
        self._draw.polygon(self._pixels(points), fill=self._part(name, look))

    def rectangle(self, name: str, look: Appearance, left: float, top: float, right: float, bottom: float) -> None:
        """Paint a rectangle."""
        self._draw.rectangle(self._pixels([(left, top), (right, bottom)]), fill=self._part(name, look))

    def ellipses(self, name: str, look: Appearance, *circles: tuple[float, float, float, float]) -> None:
        """Paint ellipses (centre x, centre y, radius x, radius y) as one part."""
        fill = self._part(name, look)
        for x, y, radius_x, radius_y in circles:
            self._draw.ellipse(self._pixels([(x - radius_x, y - radius_y), (x + radius_x, y + radius_y)]), fill=fill)

    def lines(self, name: str, look: Appearance, width: float, *lines: Sequence[Point]) -> None:
        """Paint connected lines as one part."""
        fill = self._part(name, look)
        for points in lines:
            self._draw.line(self._pixels(points), fill=fill, width=max(1, round(width * self.height)))

    def render(self) -> tuple[Image.Image, Image.Image]:
        """Return the image (RGB) and its label (mode L)."""
        parts = np.asarray(self._canvas)  # (H, W)
        names, textures = texture_stack()
        count, rng = len(self._part_looks), self.rng
        texture_ids = np.array([names[look.texture] for look in self._part_looks])
        colours = np.array([(look.first, look.second) for look in self._part_looks], dtype=np.float32)  # (parts, 2, 3)
        colours += rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, (count, 1, 3)).astype(np.float32)
        shifts = rng.integers(0, TILE, (2, count))
        rows = np.arange(self.height)[:, None] * TILE // self.height
        columns = np.arange(self.width) * TILE // self.height
        texture = textures[
            texture_ids[parts], (rows + shifts[0][parts]) % TILE, (columns + shifts[1][parts]) % TILE
        ]  # (H, W)
        pixels = colours[:, 0][parts] + texture[..., None] * (colours[:, 1] - colours[:, 0])[parts]
        light = self.uniform(0.7, 1.15) * rng.uniform(0.94, 1.06, 3)
        side_light = np.linspace(self.uniform(0.85, 1.1), self.uniform(0.85, 1.1), self.width)[:, None]
        pixels *= (light * side_light).astype(np.float32)
        pixels += rng.integers(-_NOISE, _NOISE + 1, pixels.shape, dtype=np.int8)
        label = np.array(self._part_labels, dtype=np.uint8)[parts]
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), Image.fromarray(label)

    def _part(self, name: str, look: Appearance) -> int:
        self._part_labels.append(_CLASS_NAMES.index(name) if name in self.classes else IGNORE_INDEX)
        self._part_looks.append(look)
        return len(self._part_labels) - 1

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.height, y * self.height) for x, y in points]
