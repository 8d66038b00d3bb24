"""Segmentation of images by any transformers semantic segmenter: functions of a model and pixels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def whole_image_logits(model: nn.Module, pixel_values: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Score whole images in one pass.

    Args:
        model (`nn.Module`): A semantic segmenter whose output has `logits` (B, K, h, w).
        pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images.
        size (`Sequence[int]`, *optional*): Height and width of the scores, such as those of the labels; the images'
            own by default. The logits are enlarged to it once, bilinear, align_corners=False.

    Returns:
        `Tensor` of shape (B, K, *size), float32.
    """
    logits = model(pixel_values=pixel_values).logits.float()
    return F.interpolate(logits, size=tuple(size or pixel_values.shape[-2:]), mode="bilinear", align_corners=False)


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
