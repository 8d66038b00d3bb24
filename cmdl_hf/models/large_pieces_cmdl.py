"""Cross-entropy of bilinearly enlarged logits in few large pieces, for accelerators on which Triton does not run.

Each operator of a piece starts a kernel, so the pieces are as large as a budget of memory allows, and the operators
few: image rows come first in memory, which makes every interpolation one matrix product.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pieces_cmdl import MEMORY_BUDGET, divide

_SCORES_SHARE = 0.55  # of the budget; the rest is for the gradient, rows of logits and labels, and maps at image size


def interpolation_weights(logits: Tensor, dim: int, size: int, align_corners: bool) -> Tensor:
    """Return the weights (size, length) of `F.interpolate`'s linear interpolation of one dimension."""
    identity = torch.eye(logits.shape[dim], dtype=logits.dtype, device=logits.device)
    return F.interpolate(identity[None], size=size, mode="linear", align_corners=align_corners)[0].t()


def source_rows(rows: slice, height: int, length: int, align_corners: bool, margin: int) -> slice:
    """Return the rows of the logits that image rows are computed from, and more at both ends in case of rounding."""
    scale = (length - 1) / max(height - 1, 1) if align_corners else length / height
    return slice(max(int(rows.start * scale) - margin, 0), min(int(rows.stop * scale) + margin + 1, length))


class _LargePieceCrossEntropy(torch.autograd.Function):
    """Weighted sum of the cross-entropies of bilinearly enlarged logits, and each cross-entropy without gradient."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        (height, width), grid = labels.shape[-2:], logits.shape[-2:]
        down = interpolation_weights(logits, -2, height, align_corners)
        across = interpolation_weights(logits, -1, width, align_corners)
        classes = labels.transpose(0, 1).unsqueeze(2)  # (H, B, 1, W)
        logits = logits.permute(2, 0, 1, 3).contiguous()  # (h, B, K, w)
        grad = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        statistics = []
        for rows in _pieces(logits, height, width):
            source = source_rows(rows, height, grid[0], align_corners, margin=1)
            scores, *found = _scores(logits[source], down[rows, source], across, classes[rows])
            statistics.append(torch.cat(found, dim=2))
            if grad is not None:
                piece_weights = weights.transpose(0, 1)[rows, :, None]
                scores.mul_(piece_weights / found[2]).scatter_add_(2, classes[rows], -piece_weights)
                narrowed = (down[rows, source].t() @ scores.flatten(1)).view(-1, width)
                del scores
                grad[source].view(-1, grid[1]).addmm_(narrowed, across)
        own, largest, sums = torch.cat(statistics).unbind(dim=2)  # (H, B, W)
        losses = (sums.log() + (largest - own)).transpose(0, 1)
        ctx.save_for_backward(None if grad is None else grad.permute(1, 2, 0, 3))
        ctx.mark_non_differentiable(losses)
        return torch.where(weights > 0, losses * weights, 0.0).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_total, None, None, None


def _pieces(logits: Tensor, height: int, width: int) -> list[slice]:
    num_bytes = logits[0, :, :, 0].numel() * height * width * logits.element_size()
    return divide(height, -int(-num_bytes // (_SCORES_SHARE * MEMORY_BUDGET)))


def _scores(logits: Tensor, down: Tensor, across: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return exponentials (rows, B, K, W), and the own score, the largest score and the sum of the exponentials."""
    widened = logits.view(-1, logits.shape[3]) @ across.t()
    scores = (down @ widened.view(len(logits), -1)).view(-1, *logits.shape[1:3], len(across))
    del widened
    own, largest = scores.gather(2, classes), scores.amax(dim=2, keepdim=True)
    scores.sub_(largest).exp_()
    return scores, own, largest, scores.sum(dim=2, keepdim=True)


def large_piece_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Compute the weighted sum of the cross-entropies of bilinearly enlarged logits.

    Args:
        logits (`Tensor` of shape (B, K, h, w), float32): Scores on the feature grid.
        labels (`Tensor` of shape (B, H, W), int64): Classes at image size in 0..K-1.
        weights (`Tensor` of shape (B, H, W), float32): Weights of the pixels, 0 or more.
        align_corners (`bool`): As in `F.interpolate`.

    Returns:
        `tuple` of two `Tensor`, float32: the sum, and the cross-entropies (B, H, W), which have no gradient.
    """
    return _LargePieceCrossEntropy.apply(logits, labels, weights, align_corners)
