"""Turns instance annotations in COCO's JSON format (polygons, RLE) into masks of class ids."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..escaping import MAX_NAME, one_line
from ..extras import install_command
from ..files import open_regular
from ..images import MAX_PIXELS
from .label_table import IGNORE_INDEX

MAX_BYTES = 2_000_000_000
"""Largest JSON file that is read."""


@dataclass(frozen=True)
class CocoImage:
    """An image of a JSON file with its annotations.

    Args:
        file_name (`str`): Its name in the JSON file.
        size (`tuple[int, int]`): Width and height, in pixels.
        annotations (`list[dict]`): Its annotations.
    """

    file_name: str
    size: tuple[int, int]
    annotations: list[dict[str, Any]]


@dataclass(frozen=True)
class CocoFile:
    """The content of a JSON file.

    Args:
        path (`Path`): The file.
        categories (`dict[int, str]`): Name of each category, in the order of the ids.
        images (`list[CocoImage]`): The images.
    """

    path: Path
    categories: dict[int, str]
    images: list[CocoImage]


def check_pycocotools() -> None:
    """Raise ImportError with the command that installs pycocotools, if it is missing."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise ImportError(f"polygons need pycocotools, which is not installed: {install_command('coco')}") from error


def read_coco(path: Path) -> CocoFile:
    """Read and check a JSON file of COCO instances.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is too large or no JSON of instances, or an id, a size or a reference is wrong. The message
            names the file, the entry and the value.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of annotations {path}; correct the path (--annotations)")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}; divide it")
    try:
        with open_regular(path) as file:
            content = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, which it is not ({error}); correct it") from error
    try:
        return _parse(path, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(path: Path, content: Any) -> CocoFile:
    if not isinstance(content, dict):
        raise ValueError("expected an object with images, annotations and categories")
    entries = {}
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list) or not all(isinstance(each, dict) for each in content[name]):
            raise ValueError(f"expected a list of objects named {name}; take the JSON file of instances")
        entries[name] = content[name]
    if any("segments_info" in each for each in entries["annotations"][:1]):
        raise ValueError("these are panoptic annotations; take the JSON file of instances")
    categories: dict[int, str] = {}
    for each in entries["categories"]:
        id_, name = _whole(each, "id", "category"), each.get("name")
        if id_ in categories or not isinstance(name, str) or not name.strip() or name in categories.values():
            raise ValueError(f"categories must have different ids and names, found {one_line(each, MAX_NAME)}")
        categories[id_] = name
    images: dict[int, CocoImage] = {}
    for each in entries["images"]:
        id_ = _whole(each, "id", "image")
        if id_ in images or not isinstance(each.get("file_name"), str):
            raise ValueError(f"images must have different ids and a file_name, found {one_line(each, MAX_NAME)}")
        width, height = _whole(each, "width", "image"), _whole(each, "height", "image")
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise ValueError(f"image {id_} has a size of {width} × {height}; it must have 1 to {MAX_PIXELS:,} pixels")
        images[id_] = CocoImage(each["file_name"], (width, height), [])
    for each in entries["annotations"]:
        image_id, category_id = _whole(each, "image_id", "annotation"), _whole(each, "category_id", "annotation")
        for what, id_, known in (("image", image_id, images), ("category", category_id, categories)):
            if id_ not in known:
                raise ValueError(f"annotation {one_line(each.get('id'), 20)} names {what} {id_}, which is not listed")
        images[image_id].annotations.append(each)
    return CocoFile(path, dict(sorted(categories.items())), list(images.values()))


def _whole(entry: dict[str, Any], name: str, kind: str) -> int:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} of each {kind} must be a whole number, found {one_line(repr(value), MAX_NAME)}")
    return value


def draw_mask(image: CocoImage, train_ids: dict[int, int], background: int) -> Image.Image:
    """Draw the annotations of an image: crowds (255) first, then the larger, so that smaller ones lie on top.

    Args:
        image (`CocoImage`): The image.
        train_ids (`dict[int, int]`): Class of each category.
        background (`int`): Value of pixels without annotation.

    Returns:
        `Image` of mode L.

    Raises:
        ValueError: if a segmentation breaks a rule. The message names the annotation.
    """
    width, height = image.size
    mask = np.full((height, width), background, dtype=np.uint8)
    parts: list[tuple[bool, int, int, int, np.ndarray]] = []
    for each in image.annotations:
        try:
            region = _draw(each.get("segmentation"), height, width)
        except ValueError as error:
            raise ValueError(f"{image.file_name}: annotation {one_line(each.get('id'), 20)}: {error}") from error
        is_crowd = bool(each.get("iscrowd"))
        value = IGNORE_INDEX if is_crowd else train_ids[each["category_id"]]
        packed = np.packbits(region)  # of many instances, whole masks would not fit into memory
        parts.append((not is_crowd, -int(region.sum()), len(parts), value, packed))
    for *_, value, packed in sorted(parts, key=lambda part: part[:3]):
        mask[np.unpackbits(packed, count=mask.size).reshape(mask.shape).astype(bool)] = value
    return Image.fromarray(mask)


def _draw(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Draw polygons or RLE as an array (H, W) of bool."""
    if isinstance(segmentation, dict):
        return _decode_rle(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation (only a box?); draw its outline, or remove it")
    from pycocotools import mask as coco

    polygons = [_check_polygon(polygon, height, width) for polygon in segmentation]
    return coco.decode([coco.merge(coco.frPyObjects(polygons, height, width))])[..., 0].astype(bool)


def _check_polygon(polygon: Any, height: int, width: int) -> list[float]:
    """Check the numbers of a polygon; what reaches beyond the image by less than its size is cut by the drawing."""
    is_list = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
    if not is_list or not all(isinstance(each, int | float) and math.isfinite(each) for each in polygon):
        raise ValueError(
            f"a polygon must be a list of three points or more, x and y in turn, found {one_line(polygon, MAX_NAME)}"
        )
    xs, ys = polygon[::2], polygon[1::2]
    is_far = min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height
    if is_far or max(xs) < 0 or min(xs) > width or max(ys) < 0 or min(ys) > height:
        raise ValueError(
            f"the polygon lies outside of the image of {width} × {height}: x {min(xs):g} to {max(xs):g}, "
            f"y {min(ys):g} to {max(ys):g}; correct the size or the polygon"
        )
    return [float(each) for each in polygon]


def _decode_rle(segmentation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Decode run lengths, after their sum is compared with the size of the image."""
    counts = segmentation.get("counts")
    if segmentation.get("size") != [height, width]:
        raise ValueError(
            f"the RLE must be of the image's size, {[height, width]}, found "
            f"{one_line(segmentation.get('size'), MAX_NAME)}"
        )
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError(f"the counts of an RLE must be whole numbers from 0, found {one_line(counts, MAX_NAME)}")
    if sum(runs) != height * width:
        raise ValueError(f"the counts of an RLE must sum to {height * width} pixels, found {sum(runs)}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T  # by columns


def _decompress(text: str) -> list[int]:
    """Read COCO's text of run lengths: five bits a letter, lowest first; from the fourth on, differences."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        number, shift, more = 0, 0, True
        while more:
            if position >= len(text) or shift > 30 or not 48 <= ord(text[position]) < 112:
                raise ValueError("the text of an RLE is damaged")
            bits = ord(text[position]) - 48
            number |= (bits & 31) << shift
            shift, position, more = shift + 5, position + 1, bool(bits & 32)
            if not more and bits & 16:
                number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
    return runs


def class_ids(categories: dict[int, str], has_background: bool) -> tuple[dict[int, int], list[str]]:
    """Number categories from 0, or from 1 after the class `background`.

    Returns:
        The class of each category, and the names of the classes.

    Raises:
        ValueError: if there are too many categories.
    """
    first = int(has_background)
    names = ["background"] * first + list(categories.values())
    if len(names) > IGNORE_INDEX or len(set(names)) < len(names):
        raise ValueError(
            f"there can be up to {IGNORE_INDEX} classes of different names, found {len(names)}; with a category "
            "called background use --no-background"
        )
    return {id_: index for index, id_ in enumerate(categories, start=first)}, names


def find_split(path: Path, names: Sequence[str]) -> str | None:
    """Find the split that a JSON file is of: a word of its name, as in `instances_train2017.json`, or its folder."""
    words = "".join(letter if letter.isalpha() else " " for letter in path.stem.lower()).split()
    return next((word for word in (*words, path.parent.name.lower()) if word in names), None)
