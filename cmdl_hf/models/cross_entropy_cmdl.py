"""Cross-entropies at image size, of logits that lie on the feature grid and are never enlarged as a whole.

A pixel whose label is to be ignored is left out, and without any other the loss is zero, where the reference divides 0
by 0. `across_processes` is as in `losses_cmdl`.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .processes_cmdl import divide_by_total

_BAND_SIZE = 2**21  # values, or 8 MiB: what the C library hands out again without asking the system


def image_size_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    align_corners: bool = False,
    across_processes: bool = False,
) -> Tensor:
    """Cross-entropy of bilinearly enlarged logits, the mean over the pixels that are not ignored.

    Args:
        logits (`Tensor` of shape (B, K, h, w)): Scores on the feature grid.
        labels (`Tensor` of shape (B, H, W), int64): Classes at image size.
        ignore_index (`int`): Label of the pixels to leave out.
        align_corners (`bool`): How the corners are enlarged.
        across_processes (`bool`): Take the mean over the pixels of all processes.

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
    """Cross-entropies of bilinearly enlarged logits times their weights, and the weights, summed over the pixels.

    The first divided by the second is the weighted mean. Several heads on the same labels can so share one
    `divide_by_total`, which waits for the other processes once.

    Args:
        logits (`Tensor` of shape (B, K, h, w)): Scores on the feature grid.
        labels (`Tensor` of shape (B, H, W), int64): Classes at image size.
        ignore_index (`int`): Label of the pixels to leave out.
        align_corners (`bool`): How the corners are enlarged.
        class_weights (`Tensor` of shape (K,), *optional*): Weight of each class's pixels, 0 or more; omitted, 1.
        ohem_threshold (`float`, *optional*): In (0, 1]: keep `hard_pixels` only.
        ohem_min_kept (`int`): See `hard_pixels`.

    Returns:
        `tuple` of two scalar `Tensor`, float32: the sum, and the total weight, which takes no gradient.
    """
    is_valid = labels != ignore_index
    labels = labels.where(is_valid, 0)
    weights = is_valid.float()
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        if ohem_threshold is not None:
            _, losses = _EnlargedCrossEntropy.apply(logits.detach(), labels, weights, align_corners)
            weights = hard_pixels(losses, is_valid, ohem_threshold, ohem_min_kept).float()
        if class_weights is not None:
            weights = weights * class_weights.float()[labels]
        total, _ = _EnlargedCrossEntropy.apply(logits, labels, weights, align_corners)
    return total, weights.sum()


class _EnlargedCrossEntropy(torch.autograd.Function):
    """Weighted sum of the cross-entropies of bilinearly enlarged logits, and all cross-entropies, without gradient.

    By hand because autograd would keep the enlarged logits (B, K, H, W), and take five times as long on a CPU. The
    gradient is formed along with the sum, band by band of image rows, and kept at the size of the logits.
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
    """Weights (size, length) of the linear interpolation of a dimension, as `F.interpolate` has them."""
    identity = torch.eye(logits.shape[dim], dtype=logits.dtype, device=logits.device)
    return F.interpolate(identity[None], size=size, mode="linear", align_corners=align_corners)[0].t()


def _bands(logits: Tensor, size: Sequence[int], align_corners: bool) -> list[tuple[slice, slice]]:
    """Cut the rows of enlarged logits into up to 64 bands of about 8 MiB; with the rows of the logits they come from.

    Not in a compiled graph, which needs no help.
    """
    if torch.compiler.is_compiling():
        return [(slice(None), slice(None))]
    height, length = size[0], logits.shape[-2]
    num_bands = min(64, logits.shape[0] * logits.shape[1] * height * size[1] // _BAND_SIZE + 1, height)
    scale = (length - 1) / max(height - 1, 1) if align_corners else length / height
    bounds = [height * i // num_bands for i in range(num_bands + 1)]
    return [
        # A row more at both ends, whose weights are 0, spares exact rounding.
        (slice(start, end), slice(max(int(start * scale) - 2, 0), min(int(end * scale) + 3, length)))
        for start, end in itertools.pairwise(bounds)
    ]


@torch.no_grad()
def hard_pixels(losses: Tensor, is_valid: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Online hard example mining (OHEM): find the pixels of every image that the network is not sure about.

    Args:
        losses (`Tensor` of shape (B, H, W)): Cross-entropy of every pixel.
        is_valid (`Tensor` of shape (B, H, W), bool): Which pixels count at all.
        threshold (`float`): In (0, 1]: a pixel is hard if the probability of its class is below.
        min_kept (`int`): At least 1: so many valid pixels of an image, those of the largest losses, are hard in any
            case, and with them all whose loss equals the smallest of theirs.

    Returns:
        `Tensor` of shape (B, H, W), bool.

    Note:
        Like `OHEMPixelSampler` of mmsegmentation, but it takes its `min_kept` times B from the whole batch of a
        process; from each image it does not depend on how the images are spread over processes.
    """
    ranked = torch.where(is_valid, losses, -1.0).flatten(1)  # (B, H·W), valid losses are 0 or more
    min_kept = min(min_kept, ranked.shape[1])
    smallest_kept = ranked.topk(min_kept, dim=1, sorted=False).values.amin(dim=1)[:, None, None]
    return is_valid & ((losses > -math.log(threshold)) | (losses >= smallest_kept))
