"""Endings of the names of images and masks, such as `X_sat.jpg` and `X_mask.png`: one of each throughout."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...escaping import MAX_NAME, one_line

SEPARATORS = "_-. "
"""One of them begins an ending."""

JPEG = {".jpg", ".jpeg", ".jpe"}
"""Suffixes of files with losses, in which class ids do not survive."""

_MASK_WORDS = {"mask", "masks", "label", "labels", "labelids", "gt", "seg", "l", "annotation", "annotations"}
_MOST_ENDINGS = 8  # of a name; frame_0001, frame_0002, ... are names and no endings of frame

Files = Mapping[str, Sequence[Path]]


class Endings(NamedTuple):
    """What names of images and names of masks have beyond those of their pair. Empty: nothing."""

    images: str
    masks: str

    def describe(self) -> str:
        """Say in words how images and masks are named."""
        if self.images:
            of_masks = f", of masks in {one_line(self.masks, MAX_NAME)}" if self.masks else ", masks have none"
            return f"names of images end in {one_line(self.images, MAX_NAME)}{of_masks}"
        if self.masks:
            return f"names of masks end in {one_line(self.masks, MAX_NAME)}"
        return "masks have the names of their images"


def find_endings_of_both(splits: Iterable[tuple[Files, Files | None]]) -> Endings | None:
    """Find the ending of images and that of masks, if most names pair so.

    In one folder with both, the masks are those whose ending has a word such as mask or label, or else those that are
    no JPEG files while all images are.

    Args:
        splits (`Iterable`): Images and masks of every split by name; masks are `None` where one folder has both.

    Returns:
        `Endings`, or `None` if fewer than half of the images pair in this way.

    Raises:
        ValueError: if they pair in several ways, each as well as the other.
    """
    by_word, by_suffix = Counter[Endings](), Counter[Endings]()
    num_images = 0.0
    for images, masks in splits:
        num_images += len(images) / 2 if masks is None else len(images)
        for endings, names in _pairs(images, images if masks is None else masks):
            if masks is not None or (_is_for_masks(endings.masks) and not _is_for_masks(endings.images)):
                by_word[endings] += 1
            elif not _is_for_masks(endings.images) and _is_jpeg(images[names[0]]) and not _is_jpeg(images[names[1]]):
                by_suffix[endings] += 1
    chosen = _choose(by_word, num_images)
    return chosen if chosen is not None else _choose(by_suffix, max(num_images, 4.0))


def suffix_of_masks(files: Files) -> str | None:
    """Return the suffix of the masks in a folder in which most names occur twice, as X.jpg and X.png; else None."""
    pairs = [{path.suffix.lower() for path in paths} for paths in files.values() if len(paths) == 2]
    if not pairs or 2 * len(pairs) < len(files):
        return None
    common = set.intersection(*pairs) - JPEG  # with whose losses class ids do not survive
    return ".png" if ".png" in common else common.pop() if len(common) == 1 else None


def _pairs(images: Files, masks: Files) -> Iterable[tuple[Endings, tuple[str, str]]]:
    """Yield how an image and a mask with the same beginning end, and their names."""
    of_images, of_masks = _by_beginning(images), _by_beginning(masks)
    for beginning, names in of_images.items():
        others = of_masks.get(beginning, [])
        if max(len(names), len(others)) > _MOST_ENDINGS:
            continue
        for name in names:
            for other in others:
                endings = Endings(name[len(beginning) :], other[len(beginning) :])
                if endings.images and endings.images != endings.masks and (endings.masks or images is not masks):
                    yield endings, (name, other)


def _by_beginning(files: Files) -> dict[str, list[str]]:
    """Map what a name may be without an ending to the names; a name itself is without one, too."""
    names: dict[str, list[str]] = {}
    for name in files:
        first = name.rfind("/") + 2  # at least one letter is left
        for end in (*(end for end in range(first, len(name)) if name[end] in SEPARATORS), len(name)):
            names.setdefault(name[:end], []).append(name)
    return names


def _is_for_masks(ending: str) -> bool:
    return any(word in _MASK_WORDS for word in re.split(f"[{re.escape(SEPARATORS)}]+", ending.lower()))


def _is_jpeg(paths: Sequence[Path]) -> bool:
    return all(path.suffix.lower() in JPEG for path in paths)


def _choose(counts: Counter[Endings], num_images: float) -> Endings | None:
    """Return the endings of most pairs, the shortest of those that end alike; refuse a choice between others."""
    best = max(counts.values(), default=0)
    if not best or 2 * best < num_images:
        return None
    equal = sorted(
        (endings for endings, count in counts.items() if count == best), key=lambda e: len(e.images + e.masks)
    )
    chosen = equal[0]
    for other in equal[1:]:
        if not (other.images.endswith(chosen.images) and other.masks.endswith(chosen.masks)):
            ways = " or ".join(f"X{one_line(a)} with X{one_line(b)}" for a, b in (chosen, other))
            raise ValueError(
                f"names of images and masks pair in several ways, as {ways}; leave one kind of images and one kind of "
                "masks there, and move the other files away"
            )
    return chosen
