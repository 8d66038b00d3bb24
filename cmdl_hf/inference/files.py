"""Segment image files with a saved model."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..files import check_can_write, write_image, write_text
from ..images import MAX_PIXELS, UNREADABLE, UnfitImageError, read_image
from ..progress import progress_bar
from ..visualization import default_palette, overlay
from .class_maps import class_map
from .failures import MODEL_ERRORS, is_out_of_memory, reason_of
from .images import find_images
from .loading import choose_device, load_segmenter
from .logits import outlier_map
from .padding import Box, cut_out, find_image

logger = logging.getLogger(__name__)

SUMMARY_FILE = "summary.json"

_JPEG_EDGE = 65_500  # longest edge that a JPEG file can have; longer overlays are made smaller
_MAX_PALETTE = 256  # number of colours of an 8-bit palette


@dataclass(frozen=True)
class _Outputs:
    """The output files of an image."""

    segmentation: Path
    overlay: Path
    outlier_map: Path

    @classmethod
    def named(cls, target: Path) -> "_Outputs":
        stem = target.with_suffix("").name
        return cls(
            target.with_name(f"{stem}.png"),
            target.with_name(f"{stem}_overlay.jpg"),
            target.with_name(f"{stem}_outlier.png"),
        )

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        return self.segmentation, self.overlay, self.outlier_map


@dataclass
class _Prepared:
    """An image with its pixel values for the model."""

    path: Path
    image: Image.Image
    pixel_values: Tensor = field(repr=False)  # (channels, H, W)
    place: Box  # of the image in the pixel values, which may be padded


def predict_files(
    model: str | Path,
    inputs: Sequence[str | Path],
    output_dir: str | Path,
    *,
    batch_size: int = 4,
    use_outlier_map: bool = False,
    max_pixels: int = MAX_PIXELS,
    trust_remote_code: bool = False,
) -> dict[Path, str]:
    """Segment image files and folders of image files. A GPU is used if there is one.

    For every image, `NAME.png` has the class ids, with the model's colours as palette, and `NAME_overlay.jpg` shows
    them. With more than 256 classes, `NAME.png` has 16 bits and no palette. `summary.json` lists the images and their
    classes. Images are rotated by their EXIF orientation. Transparency is dropped, as in training.

    Args:
        model (`str` or `Path`): Folder or Hub name of a semantic segmenter that transformers loads.
        inputs (`Sequence`): Image files, folders (searched with their subfolders) or patterns such as `*.jpg` and
            `**/*.jpg`.
        output_dir (`str` or `Path`): Folder to write to. The subfolders of an input folder are kept.
        batch_size (`int`): Largest number of consecutive images of one size in a batch. It is halved if a batch does
            not fit into memory.
        use_outlier_map (`bool`): Also write `NAME_outlier.png`, for models with class distributions. A pixel is black
            if it is similar to a learned distribution, and white if it is similar to none (one minus its best cosine
            is 1 or more); see [`inference.outlier_map`].
        max_pixels (`int`): Images with more pixels are not read.
        trust_remote_code (`bool`): Whether to run Python files that come with the model.

    Returns:
        `dict`: files that could not be segmented, with the reasons.

    Raises:
        FileNotFoundError: if an input does not exist or contains no image, or if there is no model.
        ValueError: if two images would be written to one file, or one would replace an input; if the model is not a
            semantic segmenter, or has no distributions for an outlier map.
        PermissionError: if the output folder cannot be written to.
    """
    if batch_size < 1 or max_pixels < 1:
        raise ValueError(f"batch_size and max_pixels must be at least 1, found {batch_size} and {max_pixels}")
    output_dir = Path(output_dir)
    targets = _name_outputs(inputs, output_dir)
    _make_folder(output_dir)
    segmenter, processor = load_segmenter(model, trust_remote_code)
    if use_outlier_map and not getattr(segmenter.config, "use_distributions", False):
        raise ValueError(f"an outlier map needs class distributions, and {model} has none; leave out --outlier-map")
    writer = _Writer(segmenter.config, output_dir, targets)
    batches = _Batches(segmenter.to(choose_device()), batch_size, use_outlier_map)
    failures: dict[Path, str] = {}
    with progress_bar(total=len(targets), desc="Segmenting", unit="image") as progress:
        for group in _group(_read(targets, processor, max_pixels, failures), batch_size):
            for prepared, result in zip(group, batches.segment(group), strict=True):
                reason = result if isinstance(result, str) else writer.try_to_write(prepared, *result)
                if reason is not None:
                    failures[prepared.path] = reason
            progress.update(len(writer.rows) + len(failures) - progress.n)
        progress.update(len(targets) - progress.n)  # files at the end that could not be read
    writer.write_summary(str(model), failures)
    return failures


_Result: TypeAlias = tuple[Tensor, Tensor | None]
"""Class ids (H, W) at the image's original size and, if asked for, its outlier map (H, W), on the CPU."""


class _Batches:
    """Runs a model on batches, and reduces the batch size if a batch does not fit into memory."""

    def __init__(self, model: nn.Module, batch_size: int, use_outlier_map: bool) -> None:
        self.model = model
        self.batch_size = batch_size
        self.use_outlier_map = use_outlier_map
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def segment(self, group: Sequence[_Prepared]) -> Iterator[_Result | str]:
        """Yield the result of each image, or the reason why it cannot be segmented."""
        done = 0
        while done < len(group):
            images = group[done : done + self.batch_size]
            try:
                results: list[_Result] | None = self._segment(images)
            except MODEL_ERRORS as error:
                if not is_out_of_memory(error):
                    yield from self._segment_each(images, error)
                    done += len(images)
                    continue
                results = None
            if results is not None:
                yield from results
                done += len(images)
                continue
            # Not in the exception handler, which would keep the memory in use.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(images) == 1:
                yield "does not fit into memory, even alone; make it smaller"
                done += 1
            else:
                self.batch_size = len(images) // 2
                logger.warning(
                    "%d images do not fit into memory at once; continuing with %d", len(images), self.batch_size
                )

    def _segment_each(self, images: Sequence[_Prepared], error: Exception) -> Iterator[_Result | str]:
        """Find the images of a batch that the model cannot process, for example too small ones."""
        if len(images) == 1:
            yield f"the model cannot process it: {reason_of(error)}"
            return
        for prepared in images:
            yield from self.segment([prepared])

    def _segment(self, images: Sequence[_Prepared]) -> list[_Result]:
        pixel_values = torch.stack([prepared.pixel_values for prepared in images]).to(self.device)
        options = {"output_distributions": True} if self.use_outlier_map else {}
        output = self.model(pixel_values=pixel_values, **options)
        results = []
        for index, prepared in enumerate(images):
            original = (prepared.image.height, prepared.image.width)
            size, part = prepared.place.enlarged(prepared.pixel_values.shape[-2:], original)
            ids = cut_out(class_map(output.logits[index, None], size)[0], part).cpu()
            outliers = None
            if self.use_outlier_map:
                grid = output.distribution_ids.shape[-2:]
                similarity = output.similarity.unflatten(0, (len(images), -1))[index]  # (h*w, K, M)
                outliers = cut_out(outlier_map(similarity, grid, size)[0], part).cpu()
            results.append((ids, outliers))
        return results


class _Writer:
    """Writes the results of each image and, at the end, the summary."""

    def __init__(self, config: Any, output_dir: Path, targets: dict[Path, _Outputs]) -> None:
        self.id2label = {int(id_): name for id_, name in config.id2label.items()}
        self.num_labels = config.num_labels
        palette = getattr(config, "palette", None) or []
        self.palette = palette if len(palette) == self.num_labels else default_palette(self.num_labels)
        self.output_dir = output_dir
        self.targets = targets
        self.rows: dict[Path, dict[str, Any]] = {}

    def try_to_write(self, prepared: _Prepared, ids: Tensor, outliers: Tensor | None) -> str | None:
        """Write the results of an image. If this fails, return the reason."""
        try:
            self.write(prepared, ids, outliers)
        except OSError as error:
            if error.errno is not None:  # a system error, such as a full disk; Pillow's own have none
                raise
            return f"its results cannot be written: {error}"
        return None

    def write(self, prepared: _Prepared, ids: Tensor, outliers: Tensor | None) -> None:
        outputs = self.targets[prepared.path]
        if self.num_labels > _MAX_PALETTE:
            segmentation = Image.fromarray(ids.numpy().astype(np.uint16))
        else:
            segmentation = Image.fromarray(ids.numpy().astype(np.uint8)).convert("P")
            segmentation.putpalette([channel for color in self.palette for channel in color])
        write_image(outputs.segmentation, segmentation, self.output_dir)
        painted = overlay(prepared.image, ids, self.palette, ignore_index=-1)
        painted.thumbnail((_JPEG_EDGE, _JPEG_EDGE))  # which enlarges nothing
        write_image(outputs.overlay, painted, self.output_dir, quality=92)
        row = {
            "file": str(prepared.path),
            "width": prepared.image.width,
            "height": prepared.image.height,
            "segmentation": outputs.segmentation.relative_to(self.output_dir).as_posix(),
            "overlay": outputs.overlay.relative_to(self.output_dir).as_posix(),
            "classes": self._shares(ids),
        }
        if outliers is not None:
            grey = Image.fromarray((outliers.clamp(0, 1) * 255).round().byte().numpy())
            write_image(outputs.outlier_map, grey, self.output_dir)
            row["outlier_map"] = outputs.outlier_map.relative_to(self.output_dir).as_posix()
            row["outlier_mean"], row["outlier_max"] = round(float(outliers.mean()), 4), round(float(outliers.max()), 4)
        self.rows[prepared.path] = row

    def write_summary(self, model: str, failures: dict[Path, str]) -> None:
        images = [self.rows[path] for path in self.targets if path in self.rows]
        summary = {
            "model": model,
            "images": images,
            "not_segmented": {str(path): reason for path, reason in failures.items()},
        }
        write_text(self.output_dir / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")

    def _shares(self, ids: Tensor) -> list[dict[str, Any]]:
        """List the classes of an image with their shares of the pixels, the largest first."""
        counts = torch.bincount(ids.flatten(), minlength=self.num_labels)
        order = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())].tolist()
        return [
            {"id": id_, "name": self.id2label[id_], "share": round(int(counts[id_]) / ids.numel(), 6)} for id_ in order
        ]


def _read(paths: Iterable[Path], processor: Any, max_pixels: int, failures: dict[Path, str]) -> Iterator[_Prepared]:
    """Yield the readable images. Record the reasons for all others in `failures`."""
    for path in paths:
        try:
            image = read_image(path, max_pixels)
        except UnfitImageError as error:
            failures[path] = str(error)
            if error.is_too_large:
                failures[path] += ", or raise the limit with --max-pixels if it comes from a source you trust"
            continue
        except UNREADABLE as error:
            failures[path] = str(error) or type(error).__name__
            continue
        except MemoryError:
            failures[path] = "does not fit into memory; make it smaller"
            continue
        try:
            pixel_values = processor(image, return_tensors="pt")["pixel_values"][0]
            place = find_image(processor, image, pixel_values.shape[-2:])
        except MODEL_ERRORS as error:
            failures[path] = f"the model's image processor cannot process it: {reason_of(error)}"
        else:
            yield _Prepared(path, image, pixel_values, place)


def _group(images: Iterable[_Prepared], batch_size: int) -> Iterator[list[_Prepared]]:
    """Collect consecutive images whose pixel values have one size."""
    group: list[_Prepared] = []
    for prepared in images:
        if group and (len(group) == batch_size or prepared.pixel_values.shape != group[0].pixel_values.shape):
            yield group
            group = []
        group.append(prepared)
    if group:
        yield group


def _make_folder(folder: Path) -> None:
    """Make the output folder, and find out before the work whether it can be written to."""
    in_the_way = next((part for part in (folder, *folder.parents) if part.exists()), folder)
    if in_the_way.is_file():
        raise NotADirectoryError(f"{in_the_way} is a file; name a folder to write to")
    check_can_write(folder, is_folder=True)


def _name_outputs(inputs: Sequence[str | Path], output_dir: Path) -> dict[Path, _Outputs]:
    """Find the images, and name their output files."""
    if not inputs:
        raise ValueError("there is nothing to segment; name image files, folders, or patterns in quotes")
    targets: dict[Path, _Outputs] = {}
    sources: dict[Path, Path] = {}
    found = [image for given in inputs for image in find_images(given, output_dir)]
    originals = {path.resolve() for path, _ in found}
    for path, name in found:
        outputs = _Outputs.named(output_dir / name)
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
