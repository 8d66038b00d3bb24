"""Segmentation of images by any semantic segmenter: functions of a model and pixels.

Reference: the test modes of mmsegmentation (whole, slide, test-time augmentation over scales and flips).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import find_logits

ScoreImages: TypeAlias = Callable[[nn.Module, Tensor, Sequence[int]], Tensor]
"""Scores (B, K, *size) of a model, pixel values (B, channels, H, W) and a size, such as `whole_image_logits`."""

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Scales of the papers' multi-scale test."""

_MAX_BYTES_ON_DEVICE = 2**30  # scores of larger images are added up on the CPU


@torch.no_grad()
def whole_image_logits(model: nn.Module, pixel_values: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Score whole images in one pass.

    Args:
        model (`nn.Module`): A semantic segmenter: it returns `logits` (B, K, h, w), or has them in its output.
        pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images.
        size (`Sequence[int]`, *optional*): Height and width of the scores, such as those of the labels; the images'
            own by default. The logits are enlarged to it once, bilinear, align_corners=False.

    Returns:
        `Tensor` of shape (B, K, *size), float32.
    """
    return _enlarge(find_logits(model(pixel_values)).float(), size or pixel_values.shape[-2:])


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
    """Score images window by window, such as those too large for one pass.

    Logits are averaged where windows overlap, as mmsegmentation's slide mode does. The windows of one image differ in
    context, not in scale: averaging before the softmax lets the surer window decide.

    Args:
        model (`nn.Module`): A semantic segmenter: it returns `logits` (B, K, h, w), or has them in its output.
        pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images of any size.
        crop_size (`Sequence[int]`): Height and width of a window, usually those of the training's crops. An edge of
            the image that is shorter bounds the window.
        stride (`Sequence[int]`, *optional*): Steps down and to the right from window to window; the last ones are
            shifted inwards. By default two thirds of the crop, mmsegmentation's choice.
        size (`Sequence[int]`, *optional*): Height and width of the scores; the images' own by default. Windows are
            averaged at the images' size, and the result is resized to it once.
        batch_size (`int`): Windows, of all images together, that the model is given at once.
        accumulation_device (`torch.device` or `str`, *optional*): Where the windows are added up. By default the
            images' device, or the CPU where the scores take more than a GiB: the device then holds no more than
            `batch_size` windows, however large the image.

    Returns:
        `Tensor` of shape (B, K, *size), float32, on the device where the windows were added up.

    Raises:
        ValueError: if the crop has no pixels, or the stride leaves pixels out.
    """
    stride = default_stride(crop_size) if stride is None else stride
    _check_windows(crop_size, stride, batch_size)
    B, _, H, W = pixel_values.shape
    height, width = min(crop_size[0], H), min(crop_size[1], W)
    tops, lefts = _window_starts(H, height, stride[0]), _window_starts(W, width, stride[1])
    windows = [
        (image, slice(top, top + height), slice(left, left + width))
        for image in range(B)
        for top in tops
        for left in lefts
    ]
    sums: Tensor | None = None
    for start in range(0, len(windows), batch_size):
        group = windows[start : start + batch_size]
        logits = whole_image_logits(
            model, torch.stack([pixel_values[i, :, rows, columns] for i, rows, columns in group])
        )
        if sums is None:
            shape = (B, logits.shape[1], H, W)
            sums = torch.zeros(shape, device=accumulation_device or _choose_device(shape, logits.device))
        for (image, rows, columns), window in zip(group, logits.to(sums.device), strict=True):
            sums[image, :, rows, columns] += window
    assert sums is not None
    counts = _count_windows(H, tops, height)[:, None] * _count_windows(W, lefts, width)  # (H, W)
    return _enlarge(sums.div_(counts.to(sums.device)), size or (H, W))


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

    Softmax probabilities are averaged, as mmsegmentation's test-time augmentation does: logits of different scales
    differ in magnitude, and the largest would outvote the others. At every scale the images are resized once from
    what is given, and the logits once to `size`, before the softmax.

    Args:
        model (`nn.Module`): A semantic segmenter: it returns `logits` (B, K, h, w), or has them in its output.
        pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images, best at their original size.
        scales (`Sequence[float]`): Sizes relative to `base_size`.
        use_flip (`bool`): Whether to add the mirrored images.
        size (`Sequence[int]`, *optional*): Height and width of the scores; those of `pixel_values` by default.
        base_size (`Sequence[int]`, *optional*): Height and width that scale 1 means; those of `pixel_values` by
            default.
        crop_size (`Sequence[int]`, *optional*): Score in windows of this size, see [`sliding_window_logits`].
        stride (`Sequence[int]`, *optional*): Of the windows.
        batch_size (`int`): Windows that the model is given at once.
        accumulation_device (`torch.device` or `str`, *optional*): Where the scales are added up. By default the
            images' device, or the CPU where the scores take more than a GiB.

    Returns:
        `Tensor` of shape (B, K, *size), float32, sums over K are 1.

    Raises:
        ValueError: if there is no scale, or one is not above 0.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be numbers above 0, at least one, found {tuple(scales)}")
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


def default_stride(crop_size: Sequence[int]) -> tuple[int, int]:
    """Two thirds of a crop, rounded: 512 × 1024 pixels are moved by 341 × 683."""
    return max(1, round(crop_size[0] * 2 / 3)), max(1, round(crop_size[1] * 2 / 3))


def outlier_map(similarity: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """How little each pixel resembles anything the memory bank has learned.

    One minus the best cosine to any distribution of any class. It is no probability: it ranks the pixels of one
    model, and unusual lighting raises it as an unknown object does.

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
    """Score images of one scale as they are or mirrored, in windows if there is a crop; the result lies as they do."""
    views = images.flip(-1) if is_flipped else images
    if crop_size is None:
        logits = find_logits(model(views)).float()
    else:
        logits = sliding_window_logits(model, views, crop_size, **options)
    return logits.flip(-1) if is_flipped else logits


def _enlarge(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize scores (B, K, h, w) to (B, K, *size)."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _resize_images(pixel_values: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images, with antialiasing where they shrink, as the evaluation transform does."""
    if pixel_values.shape[-2:] == tuple(size):
        return pixel_values
    return F.interpolate(pixel_values, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)


def _check_windows(crop_size: Sequence[int], stride: Sequence[int], batch_size: int) -> None:
    if min(crop_size) < 1:
        raise ValueError(f"crop_size must be (height, width) in pixels, both at least 1, found {tuple(crop_size)}")
    if min(stride) < 1 or any(step > edge for step, edge in zip(stride, crop_size, strict=True)):
        raise ValueError(
            f"stride must lie between 1 and the crop's {tuple(crop_size)}, or pixels would be left out, found "
            f"{tuple(stride)}; two thirds of the crop are usual"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")


def _window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along an edge; the last window ends where the edge does."""
    last = length - window
    return [*range(0, last, stride), last]


def _count_windows(length: int, starts: Sequence[int], window: int) -> Tensor:
    """How many windows cover each pixel along an edge, (length,)."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def _choose_device(shape: Sequence[int], device: torch.device) -> torch.device:
    """The device itself, or the CPU where float32 scores of this shape would fill it."""
    return device if 4 * torch.Size(shape).numel() <= _MAX_BYTES_ON_DEVICE else torch.device("cpu")
