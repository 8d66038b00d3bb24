"""The shapes of the objects in generated street scenes.

A painter takes the scene, the class, the point where the object touches the ground, and the length of a car at this
depth.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .canvas import Point, Scene
from .textures import PARTS


def _paint_car(scene: Scene, name: str, foot: Point, size: float) -> None:
    """A hatchback, a saloon or a van."""
    x, y = foot
    look = scene.look(name)
    roofs = {"hatchback": (0.1, 0.25, 0.72), "saloon": (0.22, 0.34, 0.62), "van": (0.02, 0.04, 0.8)}
    start, roof_start, roof_end = [*roofs.values()][scene.rng.integers(len(roofs))]
    height = scene.uniform(0.34, 0.42) if start > 0.05 else scene.uniform(0.48, 0.58)
    left, top, sill = x - 0.5 * size, y - height * size, y - 0.22 * size

    def at(share: float) -> float:
        return left + share * size

    roof = [(at(start), sill), (at(roof_start), top), (at(roof_end), top), (at(min(roof_end + 0.14, 1)), sill)]
    front = [(at(1), sill + 0.03 * size), (at(1), y - 0.06 * size)]
    scene.polygon(name, look, [(left, y - 0.06 * size), (left, sill), *roof, *front])
    window_bottom, window_top = sill + 0.01 * size, top + 0.04 * size
    upper = [(at(roof_start + 0.05), window_top), (at(roof_end - 0.04), window_top)]
    lower = [(at(roof_end + 0.06), window_bottom), (at(roof_start - 0.05), window_bottom)]
    scene.polygon(name, PARTS["glass"], [*upper, *lower])
    _paint_wheels(scene, name, [at(0.2), at(0.8)], y, 0.09 * size)


def _paint_wheels(scene: Scene, name: str, centres: Sequence[float], y: float, radius: float) -> None:
    scene.ellipses(name, PARTS["tyre"], *((x, y - radius, radius, radius) for x in centres))


def _paint_truck(scene: Scene, name: str, foot: Point, size: float) -> None:
    """A cab before a box or a flat bed."""
    x, y = foot
    look = scene.look(name)
    box_top = y - size * (0.85 if scene.chance(0.6) else 0.35)
    scene.rectangle(name, look, x - 0.8 * size, box_top, x + 0.4 * size, y - 0.12 * size)
    scene.rectangle(name, scene.look(name), x + 0.42 * size, y - 0.6 * size, x + 0.8 * size, y - 0.08 * size)
    scene.rectangle(name, PARTS["glass"], x + 0.56 * size, y - 0.54 * size, x + 0.78 * size, y - 0.36 * size)
    _paint_wheels(scene, name, [x - 0.55 * size, x - 0.3 * size, x + 0.6 * size], y, 0.11 * size)


def _paint_bus(scene: Scene, name: str, foot: Point, size: float) -> None:
    x, y = foot
    scene.rectangle(name, scene.look(name), x - 0.9 * size, y - 0.75 * size, x + 0.9 * size, y - 0.07 * size)
    for place in (-0.8, -0.38, 0.04, 0.46):
        left = x + place * size
        scene.rectangle(name, PARTS["glass"], left, y - 0.65 * size, left + 0.34 * size, y - 0.4 * size)
    _paint_wheels(scene, name, [x - 0.6 * size, x + 0.6 * size], y, 0.1 * size)


def _paint_person(scene: Scene, name: str, foot: Point, size: float) -> None:
    x, y = foot
    height, stride = 0.62 * size, scene.uniform(0.03, 0.1) * size
    hip, shoulder = y - 0.45 * height, y - 0.83 * height
    scene.lines(name, scene.look(name), 0.06 * size, [(x, hip), (x - stride, y)], [(x, hip), (x + stride, y)])
    shoulders = [(x - 0.1 * size, shoulder), (x + 0.1 * size, shoulder)]
    scene.polygon(name, scene.look(name), [*shoulders, (x + 0.07 * size, hip), (x - 0.07 * size, hip)])
    scene.ellipses(name, PARTS["skin"], (x, y - 0.92 * height, 0.055 * size, 0.08 * height))


def _paint_bicycle(scene: Scene, name: str, foot: Point, size: float) -> None:
    x, y = foot
    look, radius = scene.look(name), 0.13 * size
    hub, left, right = y - radius, x - 0.2 * size, x + 0.2 * size
    scene.ellipses(name, PARTS["tyre"], (left, hub, radius, radius), (right, hub, radius, radius))
    scene.ellipses(name, look, (left, hub, 0.6 * radius, 0.6 * radius), (right, hub, 0.6 * radius, 0.6 * radius))
    saddle, bar = (x - 0.08 * size, y - 0.34 * size), (x + 0.14 * size, y - 0.36 * size)
    scene.lines(name, look, 0.04 * size, [(left, hub), saddle, (x, hub), bar, (right, hub)], [saddle, bar])


def _paint_tree(scene: Scene, name: str, foot: Point, size: float) -> None:
    """A tree with a round, a pointed or a bushy crown."""
    x, y = foot
    look = scene.look(name)
    if scene.chance(0.3):
        bushes = [(x + step * size, y - 0.1 * size, 0.22 * size, 0.16 * size) for step in (-0.3, 0, 0.3)]
        scene.ellipses(name, look, *bushes)
        return
    height = scene.uniform(0.9, 1.5) * size
    scene.rectangle(name, PARTS["bark"], x - 0.04 * size, y - 0.6 * height, x + 0.04 * size, y)
    if scene.chance(0.35):
        foot_of_crown, half_width = y - 0.25 * height, 0.32 * size
        corners = [(x, y - height), (x - half_width, foot_of_crown), (x + half_width, foot_of_crown)]
        scene.polygon(name, look, corners)
        return
    crown = y - 0.7 * height
    circles = [
        (x + scene.uniform(-0.22, 0.22) * size, crown + scene.uniform(-0.2, 0.2) * size, radius, radius)
        for radius in (0.34 * size, 0.28 * size, 0.24 * size)
    ]
    scene.ellipses(name, look, *circles)


def _paint_pole(scene: Scene, name: str, foot: Point, size: float) -> None:
    """A lamp post, with or without an arm."""
    x, y = foot
    look, top = scene.look(name), y - 1.5 * size
    scene.rectangle(name, look, x - 0.035 * size, top, x + 0.035 * size, y)
    if scene.chance(0.6):
        reach = 0.4 * size * (-1 if scene.chance(0.5) else 1)
        scene.lines(name, look, 0.05 * size, [(x, top), (x + reach, top + 0.03 * size)])


def _post(scene: Scene, foot: Point, size: float, height: float) -> float:
    """Paint the pole of a sign or a light, if pole is a class of the scene; returns the y of its top."""
    x, y = foot
    if "pole" in scene.classes:
        scene.rectangle("pole", scene.look("pole"), x - 0.025 * size, y - height * size, x + 0.025 * size, y)
    return y - height * size


def _paint_sign(scene: Scene, name: str, foot: Point, size: float) -> None:
    """A round, a triangular or a square sign."""
    x, _ = foot
    y, look, radius = _post(scene, foot, size, 0.8), scene.look(name), scene.uniform(0.13, 0.18) * size
    shape = scene.rng.integers(3)
    if shape == 0:
        scene.ellipses(name, look, (x, y, radius, radius))
    elif shape == 1:
        scene.polygon(name, look, [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)])
    else:
        scene.rectangle(name, look, x - radius, y - radius, x + radius, y + radius)


def _paint_light(scene: Scene, name: str, foot: Point, size: float) -> None:
    x, _ = foot
    y, radius = _post(scene, foot, size, 1.0), 0.09 * size
    scene.rectangle(name, scene.look(name), x - radius, y - 0.2 * size, x + radius, y + 0.2 * size)
    lamp = y + (scene.rng.integers(3) - 1) * 0.12 * size
    scene.ellipses(name, PARTS["lamp"], (x, lamp, 0.6 * radius, 0.6 * radius))


def _paint_bench(scene: Scene, name: str, foot: Point, size: float) -> None:
    x, y = foot
    look = scene.look(name)
    scene.rectangle(name, look, x - 0.28 * size, y - 0.3 * size, x + 0.28 * size, y - 0.22 * size)
    scene.rectangle(name, look, x - 0.3 * size, y - 0.16 * size, x + 0.3 * size, y - 0.1 * size)
    legs = [[(x + step * size, y - 0.3 * size), (x + step * size, y)] for step in (-0.22, 0.22)]
    scene.lines(name, look, 0.05 * size, *legs)


def _paint_bin(scene: Scene, name: str, foot: Point, size: float) -> None:
    x, y = foot
    top, half_width = y - scene.uniform(0.22, 0.34) * size, 0.1 * size
    corners = [(x - 1.2 * half_width, top), (x + 1.2 * half_width, top), (x + half_width, y), (x - half_width, y)]
    scene.polygon(name, scene.look(name), corners)


def _paint_dog(scene: Scene, name: str, foot: Point, size: float) -> None:
    x, y = foot
    look, ahead = scene.look(name), -1 if scene.chance(0.5) else 1
    legs = [[(x + step * size, y - 0.15 * size), (x + step * size, y)] for step in (-0.14, -0.08, 0.08, 0.14)]
    scene.lines(name, look, 0.04 * size, *legs)
    head = (x + ahead * 0.22 * size, y - 0.28 * size, 0.08 * size, 0.07 * size)
    scene.ellipses(name, look, (x, y - 0.18 * size, 0.2 * size, 0.09 * size), head)


class ObjectKind(NamedTuple):
    """Painter of the objects of a class, their place, and the smallest and largest number of them."""

    paint: Callable[[Scene, str, Point, float], None]
    is_on_road: bool
    fewest: int
    most: int


OBJECT_KINDS: dict[str, ObjectKind] = {
    "vegetation": ObjectKind(_paint_tree, False, 1, 3),
    "car": ObjectKind(_paint_car, True, 1, 3),
    "person": ObjectKind(_paint_person, False, 1, 3),
    "pole": ObjectKind(_paint_pole, False, 0, 2),
    "traffic sign": ObjectKind(_paint_sign, False, 0, 2),
    "truck": ObjectKind(_paint_truck, True, 0, 1),
    "bicycle": ObjectKind(_paint_bicycle, True, 0, 2),
    "traffic light": ObjectKind(_paint_light, False, 0, 2),
    "bus": ObjectKind(_paint_bus, True, 0, 1),
    "bench": ObjectKind(_paint_bench, False, 0, 2),
    "bin": ObjectKind(_paint_bin, False, 0, 2),
    "dog": ObjectKind(_paint_dog, False, 0, 2),
}
"""All classes with objects."""
