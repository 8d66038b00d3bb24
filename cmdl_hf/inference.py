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
