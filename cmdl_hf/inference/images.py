"""Image and video files of a user, found by name, folder or pattern."""

import glob
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from ..escaping import one_line
from ..files import walk_files
from ..images import SUFFIXES

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
"""Names under which videos are looked for."""

_MODEL_FILES = ("config.json", "adapter_config.json", "*.safetensors", "run.json", "recipe.yaml")


def is_video(path: Path) -> bool:
    """Whether a file is a video by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_input(given: str) -> bool:
    """Whether an argument of a command means images or videos, and not a model.

    A folder does if it has images or videos in it and no file of a model or a training. Other arguments do by their
    name: it ends as that of an image or video, or has wildcards.
    """
    path = Path(given)
    if path.is_dir():
        return not any(any(path.glob(name)) for name in _MODEL_FILES) and any(
            map(_is_image_or_video, walk_files(path))
        )
    return _is_image_or_video(path) or (re.search(r"[*?\[]", given) is not None and not path.exists())


def find_inputs(given: str | Path, output_dir: Path) -> Iterator[tuple[Path, Path]]:
    """Find the images and videos of one command-line input. Other files of a folder are counted in a warning.

    Args:
        given (`str` or `Path`): An image or video file, a folder (searched with its subfolders, but for hidden files),
            or a pattern such as `*.jpg` or `**/*.jpg`.
        output_dir (`Path`): Folder of the results. If it lies below the searched folder, its files are skipped as
            results of an earlier call.

    Yields:
        Every image and video, and its name relative to the searched folder.

    Raises:
        FileNotFoundError: if there is no image and no video.
    """
    root = Path(given)
    if root.exists() and not root.is_dir():  # what is no file is refused when it is read
        yield root, Path(root.name)
        return
    if root.is_dir():
        below = walk_files(root)
        found = list(filter(_is_image_or_video, below))
        _tell_passed_over(sorted(set(below) - set(found)), root, output_dir)
    else:
        found = [path for path in map(Path, glob.glob(str(given), recursive=True)) if not path.is_dir()]
        root = _fixed_part(root)
    paths = sorted(path for path in found if not _is_earlier_output(path, root, output_dir))
    if not paths:
        raise FileNotFoundError(f"{given} is no image file, no folder with images, and no pattern that matches images")
    yield from ((path, path.relative_to(root)) for path in paths)


def _is_image_or_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or is_video(path)


def _tell_passed_over(paths: list[Path], root: Path, output_dir: Path) -> None:
    if paths := [path for path in paths if not _is_earlier_output(path, root, output_dir)]:
        logger.warning(
            "%s: %d file(s) are no images or videos by their names and are passed over, such as %s",
            root,
            len(paths),
            one_line(paths[0]),
        )


def _fixed_part(pattern: Path) -> Path:
    """Return the folder that a pattern searches: its parts before the first wildcard."""
    parts = pattern.parts
    first = next((index for index, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts) - 1)
    return Path(*parts[:first])


def _is_earlier_output(path: Path, root: Path, output_dir: Path) -> bool:
    """Whether a file lies in the output folder, and this lies below the searched folder."""
    output = output_dir.resolve()
    return output != root.resolve() and output in path.resolve().parents and root.resolve() in output.parents
