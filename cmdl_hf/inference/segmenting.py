"""Segment pixel values with any semantic segmenter: class maps at the size of the image, or at any other."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..models import find_logits
from .class_maps import GrowingClassMap, class_map
from .logits import Windows, whole_image_logits
from .placing import match_precision

SegmentImages: TypeAlias = Callable[[nn.Module, Tensor, Sequence[int]], Tensor]
"""A function from a model, pixel values (B, channels, H, W) and a size to class ids (B, *size)."""


@torch.no_grad()
def segment_whole_images(model: nn.Module, pixel_values: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Segment whole images in one pass. The scores are never held at image size.

    Args:
        model (`nn.Module`): A semantic segmenter. It returns `logits` (B, K, h, w), or an output that contains them.
        pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images.
        size (`Sequence[int]`, *optional*): Height and width of the class maps, such as those of the labels. By
            default, those of the images.

    Returns:
        `Tensor` of shape (B, *size), int64: the arg-max of [`whole_image_logits`].
    """
    return class_map(find_logits(model(match_precision(pixel_values, model))).float(), size or pixel_values.shape[-2:])


@torch.no_grad()
def segment_in_windows(
    model: nn.Module,
    pixel_values: Tensor,
    crop_size: Sequence[int],
    stride: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    batch_size: int = 4,
) -> Tensor:
    """Segment images in sliding windows. Scores are held for about two rows of windows, not for the whole image.

    The arguments are those of [`sliding_window_logits`].

    Returns:
        `Tensor` of shape (B, *size), int64: the arg-max of [`sliding_window_logits`].

    Raises:
        ValueError: if the crop has no pixels, or the stride skips pixels.
    """
    windows = Windows(pixel_values.shape, crop_size, stride, batch_size)
    growing = GrowingClassMap(windows.size, size or windows.size)
    groups = list(windows.groups())
    # Windows come in the order of their rows: before a group, all rows above its first one are final.
    firsts = [min(rows.start for _, rows, _ in group) for group in groups] + [windows.size[0]]
    height = max(max(rows.stop for _, rows, _ in group) - first for group, first in zip(groups, firsts, strict=False))
    sums: Tensor | None = None  # of the scores of the rows from `first` on
    for group, first, following in zip(groups, firsts, firsts[1:], strict=False):
        logits = whole_image_logits(model, windows.cut(pixel_values, group))
        sums = windows.zeros(logits, height) if sums is None else sums
        for (image, rows, columns), window in zip(group, logits.to(sums.device), strict=True):
            sums[image, :, rows.start - first : rows.stop - first, columns] += window
        if num_final := following - first:
            counts = windows.counts(first, following).to(sums.device)
            growing.add(sums[:, :, :num_final].div_(counts))
            _move_up(sums, num_final)
    return growing.finish()


def _move_up(sums: Tensor, num_rows: int) -> None:
    """Move the rows of (B, K, rows, W) up in place, with zeros below."""
    height = sums.shape[2]
    for start in range(0, height, num_rows):
        moved = sums[:, :, start + num_rows : start + 2 * num_rows]  # does not overlap with its new place
        sums[:, :, start : start + moved.shape[2]] = moved
    sums[:, :, max(height - num_rows, 0) :] = 0
