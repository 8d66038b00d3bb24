"""The output files of segmented images and videos: their names, and what is written to them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import check_can_write, write_image, write_text
from .images import find_inputs, is_video
from .segmentation import Classes, Segmentation

SUMMARY_FILE = "summary.json"

_JPEG_EDGE = 65_500  # longest edge that a JPEG file can have; longer overlays are made smaller


@dataclass(frozen=True)
class Outputs:
    """The output files of an image, or of a video."""

    paths: tuple[Path, ...]

    @classmethod
    def named(cls, target: Path) -> "Outputs":
        """Name the files after the image's or video's name in the output folder."""
        ends = ("_overlay.mp4", "_frames.csv") if is_video(target) else (".png", "_overlay.jpg", "_outlier.png")
        stem = target.with_suffix("").name
        return cls(tuple(target.with_name(f"{stem}{end}") for end in ends))


@dataclass(frozen=True)
class OverlayStyle:
    """How overlays are drawn.

    Args:
        alpha (`float`): Share of the colours in [0, 1].
        hide (`Collection` of strings): Names of classes that are left clear.
    """

    alpha: float = 0.5
    hide: Collection[str] = ()

    def check(self, classes: Classes) -> None:
        """Raise `ValueError` if a hidden class does not exist, or `alpha` is out of range."""
        classes.find(self.hide)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in 0..1, found {self.alpha}")


class Writer:
    """Writes the results of each image and, at the end, the summary.

    Args:
        output_dir (`Path`): Folder to write to.
        targets (`dict`): The output files of every image and video.
        style (`OverlayStyle`): How overlays are drawn.
        classes (`Classes`): The classes of the model.

    Raises:
        ValueError: if the style does not fit the classes.
    """

    def __init__(self, output_dir: Path, targets: dict[Path, Outputs], style: OverlayStyle, classes: Classes) -> None:
        style.check(classes)
        self.output_dir = output_dir
        self.targets = targets
        self.style = style
        self.rows: dict[Path, dict[str, Any]] = {}

    def try_to_write(self, path: Path, segmentation: Segmentation, use_outlier_map: bool) -> str | None:
        """Write the results of an image. If this fails, return the reason."""
        try:
            self.write(path, segmentation, use_outlier_map)
        except OSError as error:
            if error.errno is not None:  # a system error, such as a full disk; Pillow's own have none
                raise
            return f"its results cannot be written: {error}"
        return None

    def write(self, path: Path, segmentation: Segmentation, use_outlier_map: bool) -> None:
        """Write the class ids, the overlay and, if asked for, the outlier map of an image."""
        ids_file, overlay_file, outlier_file = self.targets[path].paths
        write_image(ids_file, segmentation.to_image(), self.output_dir)
        painted = segmentation.overlay(self.style.alpha, self.style.hide)
        painted.thumbnail((_JPEG_EDGE, _JPEG_EDGE))  # which enlarges nothing
        write_image(overlay_file, painted, self.output_dir, quality=92)
        row = {
            "file": str(path),
            "width": segmentation.image.width,
            "height": segmentation.image.height,
            "segmentation": self.relative(ids_file),
            "overlay": self.relative(overlay_file),
            "classes": list_shares(segmentation.classes, segmentation.shares_by_id),
        }
        if use_outlier_map and segmentation.outliers is not None:
            outliers = segmentation.outliers
            grey = Image.fromarray((outliers.clip(0, 1) * 255).round().astype(np.uint8))
            write_image(outlier_file, grey, self.output_dir)
            row["outlier_map"] = self.relative(outlier_file)
            row["outlier_mean"], row["outlier_max"] = round(float(outliers.mean()), 4), round(float(outliers.max()), 4)
        self.rows[path] = row

    def relative(self, path: Path) -> str:
        """Name a file relative to the output folder."""
        return path.relative_to(self.output_dir).as_posix()

    def write_summary(self, model: str, failures: dict[Path, str]) -> None:
        """List the images and videos with their classes, and what could not be segmented."""
        rows = [self.rows[path] for path in self.targets if path in self.rows]
        summary = {
            "model": model,
            "images": [row for row in rows if "frames" not in row],
            "videos": [row for row in rows if "frames" in row],
            "not_segmented": {str(path): reason for path, reason in failures.items()},
        }
        write_text(self.output_dir / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def list_shares(classes: Classes, shares: dict[int, float]) -> list[dict[str, Any]]:
    """List classes with their shares of the pixels, as the summary has them."""
    return [{"id": id_, "name": classes.names[id_], "share": round(share, 6)} for id_, share in shares.items()]


def make_output_folder(folder: Path) -> None:
    """Make the output folder, and find out before the work whether it can be written to."""
    in_the_way = next((part for part in (folder, *folder.parents) if part.exists()), folder)
    if in_the_way.is_file():
        raise NotADirectoryError(f"{in_the_way} is a file; name a folder to write to")
    check_can_write(folder, is_folder=True)


def name_outputs(inputs: Sequence[str | Path], output_dir: Path) -> dict[Path, Outputs]:
    """Find the images and videos, and name their output files."""
    if not inputs:
        raise ValueError("there is nothing to segment; name image files, folders, or patterns in quotes")
    targets: dict[Path, Outputs] = {}
    sources: dict[Path, Path] = {}
    found = [image for given in inputs for image in find_inputs(given, output_dir)]
    originals = {path.resolve() for path, _ in found}
    for path, name in found:
        outputs = Outputs.named(output_dir / name)
        for target in outputs.paths:
            if target.resolve() in originals:
                raise ValueError(f"{target} would replace an input image; name another folder")
            if target.exists() and not (output_dir / SUMMARY_FILE).exists():
                raise ValueError(f"{target} exists, and cmdl predict did not write it; name another folder")
            if sources.setdefault(target, path) != path:
                raise ValueError(
                    f"{sources[target]} and {path} would both be written to {target}; name the folder that contains "
                    "both: its subfolders are kept"
                )
        targets[path] = outputs
    return targets
