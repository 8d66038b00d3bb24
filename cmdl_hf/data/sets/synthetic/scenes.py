"""Complete street scenes and their labels, made of textures and objects."""

import datasets
import numpy as np
from PIL import Image

from ...label_table import LabelTable
from ...reading import encode_png
from ..base import FEATURES, SegmentationDataset
from .canvas import Point, Scene
from .objects import OBJECT_KINDS
from .textures import APPEARANCES, PARTS

ALL_LABELS = LabelTable.of("synthetic")
"""All twenty classes. A data set of K classes has the first K."""


def load_synthetic(
    num_train: int = 200,
    num_validation: int = 50,
    num_test: int = 50,
    size: tuple[int, int] = (128, 160),
    num_labels: int = 8,
    seed: int = 0,
) -> SegmentationDataset:
    """Generate a data set of street scenes, in memory.

    Image i of a split depends only on `seed`, the split and i. A larger set therefore starts with the images of a
    smaller set.

    Args:
        num_train (`int`): Number of training images.
        num_validation (`int`): Number of validation images.
        num_test (`int`): Number of test images.
        size (`tuple[int, int]`): Height and width, at least 16 each.
        num_labels (`int`): Number of classes K, 2 to 20. Objects of the other classes do not occur.
        seed (`int`): Seed, at least 0.

    Returns:
        `SegmentationDataset` with the columns `image`, `label` and `id`, as `load_benchmark` returns it.

    Raises:
        ValueError: if `num_labels` or `size` is out of range.

    Example:
        ```python
        >>> from cmdl_hf.data import load_synthetic

        >>> scenes = load_synthetic(num_train=8, num_labels=5)
        >>> scenes["train"][0]["image"].size, scenes.id2label[4]
        ((160, 128), 'car')
        ```
    """
    if not 2 <= num_labels <= ALL_LABELS.num_labels:
        raise ValueError(f"num_labels must lie in 2..{ALL_LABELS.num_labels}, got {num_labels}")
    if min(size) < 16:
        raise ValueError(f"size must be at least 16×16 pixels, got {size[0]}×{size[1]}")
    label_table = LabelTable(ALL_LABELS.rows[:num_labels])
    splits = {}
    for place, (split, count) in enumerate(
        {"train": num_train, "validation": num_validation, "test": num_test}.items()
    ):
        columns: dict[str, list] = {name: [] for name in FEATURES}
        for index in range(count):
            image, label = generate_scene(np.random.default_rng([seed, place, index]), size, num_labels)
            columns["image"].append({"path": None, "bytes": encode_png(image)})
            columns["label"].append({"path": None, "bytes": encode_png(label)})
            columns["id"].append(f"{split}_{index:05d}")
        splits[split] = datasets.Dataset.from_dict(columns, features=FEATURES, split=split)
    return SegmentationDataset(splits, label_table)


def generate_scene(
    rng: np.random.Generator, size: tuple[int, int], num_labels: int
) -> tuple[Image.Image, Image.Image]:
    """Generate one scene.

    Args:
        rng (`np.random.Generator`): Generator of all random choices.
        size (`tuple[int, int]`): Height and width.
        num_labels (`int`): Number of classes K.

    Returns:
        The image (RGB) and its label (mode L; 255 = void).
    """
    scene = Scene(rng, size, num_labels)
    _paint_backdrop(scene)
    _paint_facades(scene)
    _paint_ground(scene)
    _paint_barriers(scene)
    _paint_objects(scene)
    _paint_void(scene)
    return scene.render()


def _paint_backdrop(scene: Scene) -> None:
    name = scene.first_of("sky", "building")
    scene.rectangle(name, scene.look(name), 0, 0, scene.aspect, 1)


def _paint_facades(scene: Scene) -> None:
    x = -scene.uniform(0, 0.2)
    while x < scene.aspect:
        width = scene.uniform(0.15, 0.45)
        distance = abs(x + width / 2 - scene.vanishing_x) / scene.aspect
        top = scene.horizon - 0.1 - distance * scene.uniform(0.3, 1.1)
        bottom = scene.horizon + 0.03 + 0.1 * distance
        if scene.chance(0.85):
            scene.rectangle("building", scene.look("building"), x, top, x + width, bottom)
            if "awning" in scene.classes and scene.chance(0.5):
                edge = bottom - 0.1
                corners = [(x, edge), (x + width, edge), (x + width + 0.02, edge + 0.06), (x - 0.02, edge + 0.06)]
                scene.polygon("awning", scene.look("awning"), corners)
        x += width


def _road_edge(scene: Scene, depth: float, side: int) -> float:
    """Return the x of the road's edge on a side (-1 left, 1 right) at a depth from 0 (horizon) to 1 (bottom)."""
    centre = scene.vanishing_x + depth * (scene.aspect / 2 - scene.vanishing_x)
    return centre + side * (0.03 + 0.42 * scene.aspect * depth)


def _strip(scene: Scene, start: float, end: float) -> list[Point]:
    """Return the corners of a strip of ground that ends in the vanishing point. Edges are in half road widths."""
    corners = []
    for depth, edges in ((0.0, (start, end)), (1.0, (end, start))):
        left, right = (_road_edge(scene, depth, side) for side in (-1, 1))
        centre, half_width = (left + right) / 2, (right - left) / 2
        y = scene.horizon + depth * (1 - scene.horizon)
        corners += [(centre + edge * half_width, y) for edge in edges]
    return corners


def _paint_ground(scene: Scene) -> None:
    ground = scene.first_of(*(("terrain",) if scene.chance(0.6) else ()), "sidewalk", "road")
    scene.rectangle(ground, scene.look(ground), 0, scene.horizon, scene.aspect, 1)
    if "sidewalk" in scene.classes:
        scene.polygon("sidewalk", scene.look("sidewalk"), _strip(scene, -1.5, 1.5))
    scene.polygon("road", scene.look("road"), _strip(scene, -1, 1))
    if scene.chance(0.6):
        scene.polygon("road", PARTS["marking"], _strip(scene, -0.04, 0.04))
    if scene.chance(0.4):
        scene.polygon("road", PARTS["marking"], _strip(scene, -0.92, -0.86))


def _paint_barriers(scene: Scene) -> None:
    """Paint a fence, a wall, or both along the street."""
    names = [name for name in ("fence", "wall") if name in scene.classes and scene.chance(0.6)]
    for name in names:
        side = -1 if scene.chance(0.5) else 1
        edge = 0.0 if side < 0 else scene.aspect
        far = scene.vanishing_x + side * scene.uniform(0.1, 0.35)
        height = scene.uniform(0.1, 0.2)
        foot = scene.horizon + scene.uniform(0.1, 0.25)
        near_top, far_top = foot - height, scene.horizon + 0.03 - height / 3
        corners = [(far, far_top), (edge, near_top), (edge, foot), (far, scene.horizon + 0.03)]
        scene.polygon(name, scene.look(name), corners)


def _paint_objects(scene: Scene) -> None:
    """Paint objects on the road and beside it, distant objects first."""
    placed = []
    for name, kind in OBJECT_KINDS.items():
        if name in scene.classes:
            count = scene.rng.integers(kind.fewest, kind.most + 1)
            placed += [(scene.uniform(0.12, 0.85), name, kind) for _ in range(count)]
    for depth, name, kind in sorted(placed, key=lambda item: item[0]):
        side = -1 if scene.chance(0.5) else 1
        edge = _road_edge(scene, depth, side)
        inward = scene.uniform(0.15, 0.9) if kind.is_on_road else -scene.uniform(0.05, 0.5)
        x = edge + inward * (_road_edge(scene, depth, -side) - edge) / 2
        y = scene.horizon + depth * (1 - scene.horizon)
        kind.paint(scene, name, (x, y), 0.14 + 0.5 * depth)


def _paint_void(scene: Scene) -> None:
    """Paint void pixels: the hood of the car with the camera, and objects without a class."""
    if scene.chance(0.5):
        scene.ellipses("void", PARTS["hood"], (scene.aspect / 2, 1.06, 0.4 * scene.aspect, 0.12))
    names = list(APPEARANCES)
    for _ in range(scene.rng.integers(1, 3)):
        x, y, radius = scene.uniform(0, scene.aspect), scene.uniform(0.3, 0.95), scene.uniform(0.02, 0.06)
        angles = np.sort(scene.rng.uniform(0, 2 * np.pi, 6))
        corners = [(x + radius * np.cos(angle), y + radius * np.sin(angle)) for angle in angles]
        scene.polygon("void", scene.look(names[scene.rng.integers(len(names))]), corners)
