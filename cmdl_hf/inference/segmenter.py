"""The one path from an image to its class ids: image processor, model, and class maps at the image's size."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..models import find_logits
from .batches import Batches
from .blending import BlendedWindows, Maps, WindowScores, to_arrays
from .class_maps import class_map, class_map_with_confidence, distribution_map, ids_dtype
from .failures import MODEL_ERRORS
from .logits import outlier_map
from .padding import Box, cut_out, find_image
from .placing import find_device, match_precision
from .segmentation import Classes, Segmentation

logger = logging.getLogger(__name__)

LARGE_IMAGE = 2**24
"""Images with more pixels, such as 4096 × 4096, are segmented in windows, unless the image processor shrinks them."""

WINDOW = (1024, 1024)
"""Height and width of the windows of such images."""

_MUCH_SMALLER = 4  # so many times smaller an image processor makes an image, and a warning tells so


@dataclass
class Prepared:
    """An image with its pixel values for the model, or without them if it is segmented in windows."""

    image: Image.Image
    pixel_values: Tensor | None = field(default=None, repr=False)  # (channels, H, W)
    place: Box | None = None  # of the image in the pixel values, which may be padded


class Segmenter:
    """Segments images with a model and its image processor.

    Args:
        model (`nn.Module`): A semantic segmenter of transformers, in eval mode.
        processor: Its image processor.
        batch_size (`int`): Largest number of images, or windows, in a batch. It is halved if they do not fit into
            memory.
        window (`tuple[int, int]`, *optional*): Height and width of windows, in pixels. Images are then not resized:
            they pass through the model in overlapping windows of this size, whose scores are blended. By default, only
            images of more than `LARGE_IMAGE` pixels do, in windows of `WINDOW`, and if the processor does not resize.
        with_confidence (`bool`): Whether to find the probability of each pixel's class.
        with_distributions (`bool`): Whether to find the distributions and outliers, if the model has distributions.

    Raises:
        ValueError: if `batch_size` or `window` is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        batch_size: int = 4,
        window: tuple[int, int] | None = None,
        with_confidence: bool = True,
        with_distributions: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}")
        if window is not None and (len(window) != 2 or min(window) < 1):
            raise ValueError(f"window must be (height, width) in pixels, both at least 1, found {tuple(window)}")
        self.model, self.processor = model, processor
        self.classes = Classes.of(model.config)
        self.window = window
        self._with_confidence = with_confidence
        self._with_distributions = with_distributions and bool(getattr(model.config, "use_distributions", False))
        self._device = find_device(model)
        self._images: Batches[Prepared, Maps] = Batches(self._run_whole, batch_size, "images")
        self._windows: Batches[Tensor, WindowScores] = Batches(self._run_windows, batch_size, "windows")

    def prepare(self, image: Image.Image) -> Prepared:
        """Make the pixel values of an RGB image, or leave that to its windows.

        Raises:
            RuntimeError, ValueError, AssertionError, MemoryError: if the image processor does not take it.
        """
        if self._choose_window(image) is not None:
            return Prepared(image)
        pixel_values = torch.as_tensor(self.processor(image, return_tensors="pt")["pixel_values"])[0]
        place = find_image(self.processor, image, pixel_values.shape[-2:])
        factor = max(image.height / place.height, image.width / place.width)
        if factor > _MUCH_SMALLER and image.width * image.height > LARGE_IMAGE:
            logger.warning(
                "an image of %d × %d pixels is made %.0f times smaller for the model; to keep its details, set a "
                "window such as 1024 1024",
                *(*image.size, factor),
            )
        return Prepared(image, pixel_values, place)

    def segment(self, images: Iterable[Prepared]) -> Iterator[Segmentation | Exception]:
        """Yield the segmentation of each image, or the error that the model raises on it, even alone.

        Consecutive images whose pixel values have one size make a batch.
        """
        for group in _group(images, self._images.batch_size):
            if group[0].pixel_values is None:
                found: Iterable[Maps | Exception] = [self._run_large(group[0].image)]
            else:
                found = self._images(group)
            for prepared, maps in zip(group, found, strict=True):
                yield maps if isinstance(maps, Exception) else self._finish(prepared.image, maps)

    def _finish(self, image: Image.Image, maps: Maps) -> Segmentation:
        return Segmentation(image, maps.ids, self.classes, maps.confidence, maps.distribution_ids, maps.outliers)

    def _choose_window(self, image: Image.Image) -> tuple[int, int] | None:
        is_large = image.width * image.height > LARGE_IMAGE and not getattr(self.processor, "do_resize", False)
        return WINDOW if self.window is None and is_large else self.window

    def _run(self, pixel_values: Sequence[Tensor]) -> Any:
        options = {"output_distributions": True} if self._with_distributions else {}
        batch = match_precision(torch.stack(list(pixel_values)).to(self._device), self.model)
        return self.model(pixel_values=batch, **options)

    @torch.no_grad()
    def _run_whole(self, images: Sequence[Prepared]) -> list[Maps]:
        """Segment images in one pass; their pixel values have one size."""
        output = self._run([prepared.pixel_values for prepared in images if prepared.pixel_values is not None])
        results = []
        for index, prepared in enumerate(images):
            assert prepared.place is not None
            assert prepared.pixel_values is not None
            original = (prepared.image.height, prepared.image.width)
            size, part = prepared.place.enlarged(prepared.pixel_values.shape[-2:], original)
            logits = find_logits(output)[index, None]
            dtype, confidence = ids_dtype(logits.shape[1]), None
            if self._with_confidence:
                ids, confidence = class_map_with_confidence(logits, size, dtype=dtype)
                confidence = cut_out(confidence[0], part)
            else:
                ids = class_map(logits, size, dtype)
            distributions, outliers = None, None
            if self._with_distributions:
                similarity = _similarity_of(output, index)  # (h, w, K, M)
                distributions = cut_out(distribution_map(_nearest(similarity), ids[0]), part)
                outliers = cut_out(outlier_map(similarity.flatten(0, 1), similarity.shape[:2], size)[0], part)
            results.append(to_arrays(cut_out(ids[0], part), confidence, distributions, outliers))
        return results

    def _run_large(self, image: Image.Image) -> Maps | Exception:
        """Segment an image in windows."""
        window = self._choose_window(image)
        assert window is not None
        blended = BlendedWindows((image.height, image.width), window)
        try:
            return blended.blend(map(self._score_row, _cut(image, blended)), self._with_confidence)
        except MODEL_ERRORS as error:
            return error

    def _score_row(self, windows: Sequence[Image.Image]) -> list[WindowScores]:
        """Find the scores of a row of windows."""
        scores = []
        for found in self._windows(_Lazy(windows, self._window_values)):
            if isinstance(found, Exception):
                raise found
            scores.append(found)
        return scores

    def _window_values(self, window: Image.Image) -> Tensor:
        """Make the pixel values of a window, which keeps its size."""
        kept = {name: False for name in ("do_resize", "do_pad") if getattr(self.processor, name, False)}
        pixel_values = torch.as_tensor(self.processor(window, return_tensors="pt", **kept)["pixel_values"])[0]
        if tuple(pixel_values.shape[-2:]) != (window.height, window.width):
            raise ValueError("its image processor changes the size of windows; segment whole images")
        return pixel_values

    @torch.no_grad()
    def _run_windows(self, windows: Sequence[Tensor]) -> list[WindowScores]:
        output = self._run(windows)
        scores = []
        for index, logits in enumerate(find_logits(output).float()):
            if self._with_distributions:
                similarity = _similarity_of(output, index)
                scores.append(WindowScores(logits, similarity.float().amax(dim=(2, 3)), _nearest(similarity)))
            else:
                scores.append(WindowScores(logits))
        return scores


class _Lazy(Sequence[Tensor]):
    """The pixel values of windows, made when they are asked for."""

    def __init__(self, windows: Sequence[Image.Image], convert: Any) -> None:
        self._windows, self._convert = windows, convert

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._convert(window) for window in self._windows[index]]
        return self._convert(self._windows[index])


def _cut(image: Image.Image, blended: BlendedWindows) -> Iterator[list[Image.Image]]:
    """Cut the windows out of an image, row by row."""
    for row in blended.rows():
        yield [image.crop((across.start, down.start, across.stop, down.stop)) for down, across in row]


def _similarity_of(output: Any, index: int) -> Tensor:
    """Return the similarity (h, w, K, M) of one image of a batch."""
    B, h, w = output.distribution_ids.shape
    return output.similarity.unflatten(0, (B, h, w))[index]


def _nearest(similarity: Tensor) -> Tensor:
    """Find the nearest distribution of every class: (h, w, K, M) -> (h, w, K)."""
    return similarity.argmax(dim=3).to(ids_dtype(similarity.shape[3]))


def _group(images: Iterable[Prepared], batch_size: int) -> Iterator[list[Prepared]]:
    """Collect consecutive images whose pixel values have one size; one that is segmented in windows is alone."""
    group: list[Prepared] = []
    for prepared in images:
        if group and (len(group) == batch_size or not _fit_together(group[0], prepared)):
            yield group
            group = []
        group.append(prepared)
    if group:
        yield group


def _fit_together(one: Prepared, other: Prepared) -> bool:
    if one.pixel_values is None or other.pixel_values is None:
        return False
    return one.pixel_values.shape == other.pixel_values.shape
