"""Segment pixel values with any semantic segmenter.

Reference: the test modes of mmsegmentation (whole, slide, test-time augmentation over scales and flips).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import find_logits
from .placing import match_precision

ScoreImages: TypeAlias = Callable[[nn.Module, Tensor, Sequence[int]], Tensor]
"""A function from a model, pixel values (B, channels, H, W) and a size to scores (B, K, *size)."""

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Scales of the papers' multi-scale test."""

_MAX_BYTES_ON_DEVICE = 2**30  # larger scores are summed on the CPU


@torch.no_grad()
def whole_image_logits(model: nn.Module, pixel_values: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Score whole images in one pass.

    Args:
        model (`nn.Module`): A semantic segmenter. It returns `logits` (B, K, h, w), or an output that contains them.
        pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images.
        size (`Sequence[int]`, *optional*): Height and width of the scores, such as those of the labels. By default,
            those of the images. The logits are resized once, bilinear, align_corners=False.

    Returns:
        `Tensor` of shape (B, K, *size), float32.
    """
    return _enlarge(find_logits(model(match_precision(pixel_values, model))).float(), size or pixel_values.shape[-2:])


@torch.no_grad()
def sliding_window_logits(
    model: nn.Module,
    pixel_values: Tensor,
    crop_size: Sequence[int],
    stride: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    batch_size: int = 4,
    accumulation_device: torch.device | str | None = None,
) -> Tensor:
    """Score images in sliding windows, for example images that are too large for one pass.

    Logits are averaged where windows overlap, as in mmsegmentation's slide mode. The windows of one image differ in
    context, not in scale. The average before the softmax therefore favours the more confident window.

    Args:
        model (`nn.Module`): A semantic segmenter. It returns `logits` (B, K, h, w), or an output that contains them.
        pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images of any size.
        crop_size (`Sequence[int]`): Height and width of a window, usually the crop size of the training. A window is
            never larger than the image.
        stride (`Sequence[int]`, *optional*): Vertical and horizontal step between windows. The last windows are
            shifted inwards. By default two thirds of the crop, as in mmsegmentation.
        size (`Sequence[int]`, *optional*): Height and width of the scores. By default, those of the images. Windows
            are averaged at the images' size, and the result is resized once.
        batch_size (`int`): Number of windows, of all images together, in one forward pass.
        accumulation_device (`torch.device` or `str`, *optional*): Device on which the windows are summed. By default
            the images' device, or the CPU if the scores take more than one GiB. The images' device then stores at
            most `batch_size` windows, for images of any size.

    Returns:
        `Tensor` of shape (B, K, *size), float32, on the device on which the windows were summed.

    Raises:
        ValueError: if the crop has no pixels, or the stride skips pixels.
    """
    windows = Windows(pixel_values.shape, crop_size, stride, batch_size)
    height = windows.size[0]
    sums: Tensor | None = None
    for group in windows.groups():
        logits = whole_image_logits(model, windows.cut(pixel_values, group))
        sums = windows.zeros(logits, height, accumulation_device) if sums is None else sums
        for (image, rows, columns), window in zip(group, logits.to(sums.device), strict=True):
            sums[image, :, rows, columns] += window
    assert sums is not None
    return _enlarge(sums.div_(windows.counts(0, height).to(sums.device)), size or windows.size)


@torch.no_grad()
def multi_scale_probabilities(
    model: nn.Module,
    pixel_values: Tensor,
    scales: Sequence[float] = SCALES,
    use_flip: bool = True,
    size: Sequence[int] | None = None,
    base_size: Sequence[int] | None = None,
    crop_size: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    batch_size: int = 4,
    accumulation_device: torch.device | str | None = None,
) -> Tensor:
    """Score images at several scales, each also mirrored: the papers' "MS" or "multi-scale + flip".

    Softmax probabilities are averaged, as in mmsegmentation's test-time augmentation. Logits of different scales
    differ in magnitude, so an average of logits would follow the largest. At every scale, the given images are resized
    once, and the logits are resized once to `size`, before the softmax.

    Args:
        model (`nn.Module`): A semantic segmenter. It returns `logits` (B, K, h, w), or an output that contains them.
        pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images, preferably at their original size.
        scales (`Sequence[float]`): Sizes relative to `base_size`.
        use_flip (`bool`): Whether to add the mirrored images.
        size (`Sequence[int]`, *optional*): Height and width of the scores. By default, those of `pixel_values`.
        base_size (`Sequence[int]`, *optional*): Height and width at scale 1. By default, those of `pixel_values`.
        crop_size (`Sequence[int]`, *optional*): Score in windows of this size, see [`sliding_window_logits`].
        stride (`Sequence[int]`, *optional*): Step between the windows.
        batch_size (`int`): Number of windows in one forward pass.
        accumulation_device (`torch.device` or `str`, *optional*): Device on which the scales are summed. By default
            the images' device, or the CPU if the scores take more than one GiB.

    Returns:
        `Tensor` of shape (B, K, *size), float32. The sums over K are 1.

    Raises:
        ValueError: if there is no scale, or a scale is not above 0.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one or more numbers above 0, found {tuple(scales)}")
    height, width = base_size or pixel_values.shape[-2:]
    size = size or pixel_values.shape[-2:]
    flips = (False, True) if use_flip else (False,)
    options = {"stride": stride, "batch_size": batch_size, "accumulation_device": accumulation_device}
    sums: Tensor | None = None
    for scale in scales:
        images = _resize_images(pixel_values, (max(1, round(height * scale)), max(1, round(width * scale))))
        for is_flipped in flips:
            logits = _view_logits(model, images, is_flipped, crop_size, **options)
            if sums is None:
                shape = (*logits.shape[:2], *size)
                sums = torch.zeros(shape, device=accumulation_device or _choose_device(shape, pixel_values.device))
            sums += _enlarge(logits.to(sums.device), size).softmax(dim=1)
    assert sums is not None
    return sums.div_(len(scales) * len(flips))


class Windows:
    """The windows of a batch of images, ordered by their rows.

    Args:
        shape (`Sequence[int]`): Shape of the images, (B, channels, H, W).
        crop_size (`Sequence[int]`): See [`sliding_window_logits`].
        stride (`Sequence[int]`, *optional*): See [`sliding_window_logits`].
        batch_size (`int`): Number of windows in a group.

    Attributes:
        size (`tuple[int, int]`): Height and width of the images.

    Raises:
        ValueError: if the crop has no pixels, or the stride skips pixels.
    """

    def __init__(
        self, shape: Sequence[int], crop_size: Sequence[int], stride: Sequence[int] | None, batch_size: int
    ) -> None:
        stride = default_stride(crop_size) if stride is None else stride
        _check_windows(crop_size, stride, batch_size)
        self.size = (shape[-2], shape[-1])
        self._num_images, self._batch_size = shape[0], batch_size
        self._extent = tuple(min(edge, length) for edge, length in zip(crop_size, self.size, strict=True))
        self._starts = [_window_starts(*edge) for edge in zip(self.size, self._extent, stride, strict=True)]

    def groups(self) -> Iterator[list[tuple[int, slice, slice]]]:
        """Yield groups of windows: index of the image, rows and columns."""
        height, width = self._extent
        windows = [
            (image, slice(top, top + height), slice(left, left + width))
            for top in self._starts[0]
            for image in range(self._num_images)
            for left in self._starts[1]
        ]
        yield from (windows[start : start + self._batch_size] for start in range(0, len(windows), self._batch_size))

    def cut(self, pixel_values: Tensor, group: Sequence[tuple[int, slice, slice]]) -> Tensor:
        """Return the pixel values of a group of windows as a batch."""
        return torch.stack([pixel_values[image, :, rows, columns] for image, rows, columns in group])

    def zeros(self, logits: Tensor, height: int, device: torch.device | str | None = None) -> Tensor:
        """Return zeros (B, K, height, W) to sum scores in, for the logits of a group."""
        shape = (self._num_images, logits.shape[1], height, self.size[1])
        return torch.zeros(shape, device=device or _choose_device(shape, logits.device))

    def counts(self, start: int, end: int) -> Tensor:
        """Count the windows that cover each pixel of the rows from `start` to `end`, (rows, W)."""
        lengths = zip(self.size, self._starts, self._extent, strict=True)
        down, across = (_count_windows(*edge) for edge in lengths)
        return down[start:end, None] * across


def default_stride(crop_size: Sequence[int]) -> tuple[int, int]:
    """Return two thirds of a crop size, rounded: 341 × 683 for windows of 512 × 1024 pixels."""
    return max(1, round(crop_size[0] * 2 / 3)), max(1, round(crop_size[1] * 2 / 3))


def outlier_map(similarity: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Measure how little each pixel resembles the distributions of the memory bank.

    The value is one minus the best cosine to any distribution of any class. It is not a probability. It ranks the
    pixels of one model. Unknown objects raise it, and so does unusual light.

    Args:
        similarity (`Tensor` of shape (N, K, M)): Cosines to the distributions, from `output_distributions=True`.
        grid (`Sequence[int]`): Height and width of the feature grid; N is a multiple of their product.
        size (`Sequence[int]`): Height and width of the map, such as the image's.

    Returns:
        `Tensor` of shape (B, *size), float32, in [0, 2].
    """
    best = similarity.float().amax(dim=(1, 2)).view(-1, 1, *grid)
    return 1 - F.interpolate(best, size=tuple(size), mode="bilinear", align_corners=False).squeeze(1)


def _view_logits(
    model: nn.Module, images: Tensor, is_flipped: bool, crop_size: Sequence[int] | None, **options: Any
) -> Tensor:
    """Score images of one scale, mirrored or not, in windows if there is a crop; the scores are mirrored back."""
    views = images.flip(-1) if is_flipped else images
    if crop_size is None:
        logits = find_logits(model(match_precision(views, model))).float()
    else:
        logits = sliding_window_logits(model, views, crop_size, **options)
    return logits.flip(-1) if is_flipped else logits


def _enlarge(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize scores (B, K, h, w) to (B, K, *size)."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _resize_images(pixel_values: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images, with antialiasing when they shrink, as in the evaluation transform."""
    if pixel_values.shape[-2:] == tuple(size):
        return pixel_values
    return F.interpolate(pixel_values, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)


def _check_windows(crop_size: Sequence[int], stride: Sequence[int], batch_size: int) -> None:
    if min(crop_size) < 1:
        raise ValueError(f"crop_size must be (height, width) in pixels, both at least 1, found {tuple(crop_size)}")
    if min(stride) < 1 or any(step > edge for step, edge in zip(stride, crop_size, strict=True)):
        raise ValueError(
            f"stride must lie between 1 and the crop size {tuple(crop_size)}, or pixels would be skipped, found "
            f"{tuple(stride)}; use two thirds of the crop size"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")


def _window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first pixels of the windows along an edge. The last window ends at the end of the edge."""
    last = length - window
    return [*range(0, last, stride), last]


def _count_windows(length: int, starts: Sequence[int], window: int) -> Tensor:
    """Count the windows that cover each pixel along an edge, (length,)."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def _choose_device(shape: Sequence[int], device: torch.device) -> torch.device:
    """Return the device, or the CPU if float32 scores of this shape are too large for it."""
    return device if 4 * torch.Size(shape).numel() <= _MAX_BYTES_ON_DEVICE else torch.device("cpu")
