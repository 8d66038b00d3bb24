"""Cross-entropies at image size. The logits are on the feature grid, and are never enlarged as a whole.

Ignored pixels are left out. If all pixels are ignored, the loss is zero, where the reference divides 0 by 0. For
`across_processes` see `losses_cmdl`.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .large_pieces_cmdl import large_piece_cross_entropy
from .pieces_cmdl import divide, takes_large_pieces
from .processes_cmdl import divide_by_total

_BAND_SIZE = 2**21  # values (8 MiB): the C library reuses memory of this size without a system call
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def image_size_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    align_corners: bool = False,
    across_processes: bool = False,
) -> Tensor:
    """Compute the mean cross-entropy of bilinearly enlarged logits over the pixels that are not ignored.

    Args:
        logits (`Tensor` of shape (B, K, h, w)): Scores on the feature grid.
        labels (`Tensor` of shape (B, H, W), int64): Classes at image size.
        ignore_index (`int`): Label of the pixels to leave out.
        align_corners (`bool`): As in `F.interpolate`.
        across_processes (`bool`): Compute the mean over the pixels of all processes.

    Returns:
        Scalar `Tensor`, float32.
    """
    total, weight = weighted_cross_entropy_sums(logits, labels, ignore_index, align_corners)
    return divide_by_total(total, weight, across_processes)


def weighted_cross_entropy_sums(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    align_corners: bool = False,
    class_weights: Tensor | None = None,
    ohem_threshold: float | None = None,
    ohem_min_kept: int = 100_000,
) -> tuple[Tensor, Tensor]:
    """Compute the weighted sum of the cross-entropies of bilinearly enlarged logits, and the sum of the weights.

    The first sum divided by the second is the weighted mean. Several heads can share one `divide_by_total`, which then
    waits for the other processes only once.

    Args:
        logits (`Tensor` of shape (B, K, h, w)): Scores on the feature grid.
        labels (`Tensor` of shape (B, H, W), int64): Classes at image size.
        ignore_index (`int`): Label of the pixels to leave out.
        align_corners (`bool`): As in `F.interpolate`.
        class_weights (`Tensor` of shape (K,), *optional*): Weights of the classes, 0 or more; by default 1.
        ohem_threshold (`float`, *optional*): In (0, 1]: use only the `hard_pixels`.
        ohem_min_kept (`int`): See `hard_pixels`.

    Returns:
        `tuple` of two scalar `Tensor`, float32: the weighted sum, and the sum of the weights, which has no gradient.
    """
    is_valid = labels != ignore_index
    labels = labels.where(is_valid, 0)
    weights = is_valid.float()
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        by_kernels = _kernel_losses(logits, labels, align_corners) if takes_kernels(logits, labels) else None
        sum_up = large_piece_cross_entropy if takes_large_pieces(logits.device) else _banded_cross_entropy
        losses = by_kernels
        if ohem_threshold is not None:
            if losses is None:
                _, losses = sum_up(logits.detach(), labels, weights, align_corners)
            weights = hard_pixels(losses, is_valid, ohem_threshold, ohem_min_kept).float()
        if class_weights is not None:
            weights = weights * class_weights.float()[labels]
        if by_kernels is None:
            total, _ = sum_up(logits, labels, weights, align_corners, losses)
        else:
            total = torch.where(weights > 0, by_kernels * weights, 0.0).sum()
    return total, weights.sum()


def has_triton() -> bool:
    """Tell whether Triton is installed. It is imported only when a loss is computed on a CUDA device."""
    return _HAS_TRITON


def takes_kernels(logits: Tensor, labels: Tensor) -> bool:
    """Tell whether Triton's kernels compute the loss: on CUDA, if Triton is installed."""
    if not (has_triton() and logits.device.type == "cuda"):
        return False
    from .triton_cross_entropy_cmdl import is_possible

    return is_possible(logits, labels)


def _kernel_losses(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    from .triton_cross_entropy_cmdl import enlarged_cross_entropy

    return enlarged_cross_entropy(logits, labels, align_corners)


def _banded_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool, losses: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute what `large_piece_cross_entropy` does, in small bands for a CPU. Known losses save nothing here."""
    return _EnlargedCrossEntropy.apply(logits, labels, weights, align_corners)


class _EnlargedCrossEntropy(torch.autograd.Function):
    """Weighted sum of the cross-entropies of bilinearly enlarged logits, and each cross-entropy without gradient.

    Written by hand, because autograd would keep the enlarged logits (B, K, H, W), and take five times as long on a
    CPU. The gradient is computed together with the sum, in bands of image rows, and is kept at the size of the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        size = labels.shape[-2:]
        down, across = (_enlargement(logits, dim, size[dim], align_corners) for dim in (-2, -1))
        widened = logits @ across.t()  # (B, K, h, W)
        grad = torch.zeros_like(widened) if ctx.needs_input_grad[0] else None
        losses = []
        for rows, source in _bands(logits, size, align_corners):
            classes, band_weights = labels[:, None, rows], weights[:, None, rows]
            scores = down[rows, source] @ widened[:, :, source]  # (B, K, rows, W)
            largest, own = scores.amax(dim=1, keepdim=True), scores.gather(1, classes)
            sums = scores.sub_(largest).exp_().sum(dim=1, keepdim=True)
            losses.append(sums.log() + largest - own)
            if grad is not None:
                scores.mul_(band_weights / sums).scatter_(1, classes, (-losses[-1]).expm1_() * band_weights)
                grad[:, :, source] += down[rows, source].t() @ scores
        pixel_losses = torch.cat(losses, dim=2).squeeze(1)  # (B, H, W)
        ctx.save_for_backward(None if grad is None else grad @ across)
        ctx.mark_non_differentiable(pixel_losses)
        return torch.where(weights > 0, pixel_losses * weights, 0.0).sum(), pixel_losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_total, None, None, None


def _enlargement(logits: Tensor, dim: int, size: int, align_corners: bool) -> Tensor:
    """Return the weights (size, length) of `F.interpolate`'s linear interpolation of one dimension."""
    identity = torch.eye(logits.shape[dim], dtype=logits.dtype, device=logits.device)
    return F.interpolate(identity[None], size=size, mode="linear", align_corners=align_corners)[0].t()


def _bands(logits: Tensor, size: Sequence[int], align_corners: bool) -> list[tuple[slice, slice]]:
    """Divide the rows of the enlarged logits into up to 64 bands of about 8 MiB.

    Each band comes with the rows of the logits that it is computed from. A compiled graph needs no bands.
    """
    if torch.compiler.is_compiling():
        return [(slice(None), slice(None))]
    height, length = size[0], logits.shape[-2]
    num_bands = min(64, logits.shape[0] * logits.shape[1] * height * size[1] // _BAND_SIZE + 1)
    scale = (length - 1) / max(height - 1, 1) if align_corners else length / height
    return [
        # One more row at both ends, with weights 0, so that rounding need not be exact.
        (rows, slice(max(int(rows.start * scale) - 2, 0), min(int(rows.stop * scale) + 3, length)))
        for rows in divide(height, num_bands)
    ]


@torch.no_grad()
def hard_pixels(losses: Tensor, is_valid: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Online hard example mining (OHEM): find the pixels of every image with a low probability of their true class.

    Args:
        losses (`Tensor` of shape (B, H, W)): Cross-entropy of every pixel.
        is_valid (`Tensor` of shape (B, H, W), bool): Pixels that are not ignored.
        threshold (`float`): In (0, 1]. A pixel is hard if the probability of its class is below the threshold.
        min_kept (`int`): At least 1. This number of valid pixels of each image, those with the largest losses, is
            always hard, and so are all pixels with the same loss as the last of them.

    Returns:
        `Tensor` of shape (B, H, W), bool.

    Note:
        `OHEMPixelSampler` of mmsegmentation keeps `min_kept` times B pixels of the whole batch of a process. Here the
        number applies to each image, so that the result does not depend on the number of processes.
    """
    ranked = torch.where(is_valid, losses, -1.0).flatten(1)  # (B, H·W), valid losses are 0 or more
    min_kept = min(min_kept, ranked.shape[1])
    smallest_kept = ranked.topk(min_kept, dim=1, sorted=False).values.amin(dim=1)[:, None, None]
    return is_valid & ((losses > -math.log(threshold)) | (losses >= smallest_kept))
