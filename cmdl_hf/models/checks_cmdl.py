"""Checks of what a model is called with."""

import torch
from torch import Tensor


def _may_read_values(tensor: Tensor) -> bool:
    """Whether looking at values costs nothing: not on an accelerator, not while tracing."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def check_pixel_values(pixel_values: Tensor, num_channels: int) -> None:
    """Refuse anything but a batch of normalised images.

    Args:
        pixel_values (`Tensor` of shape (B, num_channels, H, W)): Floating point; finite, where reading is free.
        num_channels (`int`): Channels the backbone takes.

    Raises:
        ValueError: naming the rule, the value found and the cure.
    """
    if pixel_values.dim() != 4 or pixel_values.shape[1] != num_channels:
        raise ValueError(
            f"pixel_values must have shape (batch, {num_channels}, height, width), got {tuple(pixel_values.shape)}; "
            "pass images through the image processor"
        )
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values must be floating point, got {pixel_values.dtype}; normalise the images first")
    if _may_read_values(pixel_values) and not (is_finite := pixel_values.isfinite()).all():
        images = (~is_finite).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(
            f"pixel_values must be finite, but {(~is_finite).sum().item()} of {pixel_values.numel()} values are not, "
            f"in image(s) {images} of the batch; check those files and the normalisation"
        )


def check_labels(labels: Tensor, pixel_values: Tensor, num_labels: int, ignore_index: int) -> None:
    """Refuse labels that do not belong to the images or name no class.

    Args:
        labels (`Tensor` of shape (B, H, W)): Integers in 0..num_labels-1 or ignore_index.
        pixel_values (`Tensor` of shape (B, channels, H, W)): The images.
        num_labels (`int`): Number of classes K.
        ignore_index (`int`): Label of pixels that count nowhere.

    Raises:
        ValueError: naming the rule, the values found and the cure.
    """
    expected = (pixel_values.shape[0], *pixel_values.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"labels must have shape (batch, height, width) = {expected} like pixel_values, got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}; convert them with labels.long()")
    if not _may_read_values(labels):
        return
    labels = labels.long()  # an ignore_index below 0 or above 255 does not fit every type
    is_wrong = ((labels < 0) | (labels >= num_labels)) & (labels != ignore_index)
    if is_wrong.any():
        ids, counts = labels[is_wrong].unique(return_counts=True)
        found = ", ".join(f"{i} ({n} pixels)" for i, n in zip(ids[:8].tolist(), counts[:8].tolist(), strict=True))
        raise ValueError(
            f"labels must lie in 0..{num_labels - 1} or be {ignore_index} (ignored), found {found}; map them before "
            "training, or set num_labels or semantic_loss_ignore_index"
        )
