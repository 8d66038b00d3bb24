"""Cross-entropy of bilinearly enlarged logits in few large pieces, for accelerators on which Triton does not run.

Each operator of a piece starts a kernel, so the pieces are as large as a budget of memory allows, and the operators
few: image rows come first in memory, which makes every interpolation one matrix product.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pieces_cmdl import MEMORY_BUDGET, divide

# What the scores of a piece may take of the budget; the rest is for copies of logits and labels, and other maps.
_SCORES_SHARE = 0.6


class _Pieces:
    """Pieces of the enlarged logits, computed one after the other.

    Args:
        logits (`Tensor` of shape (B, K, h, w)): Scores on the feature grid.
        labels (`Tensor` of shape (B, H, W), int64): Classes at image size.
        align_corners (`bool`): As in `F.interpolate`.
    """

    def __init__(self, logits: Tensor, labels: Tensor, align_corners: bool) -> None:
        self.height, self.width = labels.shape[-2:]
        self.length, self.align_corners = logits.shape[2], align_corners
        sizes = (self.length, self.height), (logits.shape[3], self.width)
        identity = torch.eye(max(logits.shape[2:]), dtype=logits.dtype, device=logits.device)
        weights = {  # of both dimensions at once, if they are alike
            (length, size): F.interpolate(identity[None, :length, :length], size, None, "linear", align_corners)[0].t()
            for length, size in dict.fromkeys(sizes)
        }
        self.down, self.across = (weights[key] for key in sizes)  # (H, h), (W, w)
        self.logits = logits.permute(2, 0, 1, 3).contiguous()  # (h, B, K, w)
        self.classes = labels.transpose(0, 1).unsqueeze(2)  # (H, B, 1, W)
        num_bytes = self.logits[0, :, :, 0].numel() * self.height * self.width * logits.element_size()
        self.rows = divide(self.height, -int(-num_bytes // (_SCORES_SHARE * MEMORY_BUDGET)))

    def scores(self) -> Iterator[tuple[slice, Tensor]]:
        """Compute the scores (rows, B, K, W) of every piece, which comes with its image rows."""
        for rows in self.rows:
            source = self._source(rows)
            widened = self.logits[source].view(-1, self.across.shape[1]) @ self.across.t()
            scores = self.down[rows, source] @ widened.view(source.stop - source.start, -1)
            del widened
            yield rows, scores.view(-1, *self.classes.shape[1:2], self.logits.shape[2], self.width)
            del scores

    def subtract_gradient(self, gradient: Tensor, rows: slice, slopes: Tensor) -> None:
        """Subtract the gradient of the scores of a piece (rows, B, K, W) from that of the logits (h, B, K, w)."""
        source = self._source(rows)
        narrowed = self.down[rows, source].t() @ slopes.flatten(1)
        gradient[source].view(-1, gradient.shape[3]).addmm_(narrowed.view(-1, self.width), self.across, alpha=-1)

    def _source(self, rows: slice) -> slice:
        """Return the rows of the logits that image rows are computed from."""
        first, last = rows.start, rows.stop - 1
        if self.align_corners:
            lower, upper = (row * (self.length - 1) // max(self.height - 1, 1) for row in (first, last))
        else:
            lower, upper = (((2 * row + 1) * self.length - self.height) // (2 * self.height) for row in (first, last))
        return slice(min(max(lower, 0), self.length - 1), min(max(upper, 0) + 2, self.length))


class _LargePieceCrossEntropy(torch.autograd.Function):
    """Weighted sum of the cross-entropies of bilinearly enlarged logits, and each cross-entropy without gradient."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool, losses: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        pieces = _Pieces(logits, labels, align_corners)
        gradient = torch.zeros_like(pieces.logits) if ctx.needs_input_grad[0] else None
        zero = weights.new_zeros(())
        row_weights = weights.transpose(0, 1).unsqueeze(2)  # (H, B, 1, W)
        if losses is None:
            losses = _compute_losses(pieces, row_weights, zero, gradient)
        elif gradient is not None:
            _compute_gradient(pieces, row_weights, losses.transpose(0, 1).unsqueeze(2), gradient)
        ctx.save_for_backward(None if gradient is None else gradient.permute(1, 2, 0, 3))
        ctx.mark_non_differentiable(losses)
        ctx.set_materialize_grads(False)
        return torch.where(weights > 0, losses * weights, zero).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total, None, None, None, None


def _compute_losses(pieces: _Pieces, weights: Tensor, zero: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the cross-entropies (B, H, W), and write the gradient if there is a place for it."""
    own, sums = (weights.new_empty(pieces.classes.shape) for _ in range(2))
    for rows, scores in pieces.scores():
        classes = pieces.classes[rows]
        scores.sub_(scores.amax(dim=2, keepdim=True))
        torch.gather(scores, 2, classes, out=own[rows])
        torch.sum(scores.exp_(), dim=2, keepdim=True, out=sums[rows])
        if gradient is not None:  # negative, so that no weight has to change its sign
            scores.mul_(torch.addcdiv(zero, weights[rows], sums[rows], value=-1))
            scores.scatter_add_(2, classes, weights[rows])
            pieces.subtract_gradient(gradient, rows, scores)
        del scores
    return sums.log_().sub_(own).squeeze(2).transpose(0, 1)


def _compute_gradient(pieces: _Pieces, weights: Tensor, losses: Tensor, gradient: Tensor) -> None:
    """Write the gradient for known cross-entropies (H, B, 1, W)."""
    negative_weights = -weights
    for rows, scores in pieces.scores():
        classes = pieces.classes[rows]
        scores.sub_(scores.gather(2, classes) + losses[rows]).exp_().mul_(negative_weights[rows])
        scores.scatter_add_(2, classes, weights[rows])
        pieces.subtract_gradient(gradient, rows, scores)
        del scores


def large_piece_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool, losses: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the weighted sum of the cross-entropies of bilinearly enlarged logits.

    Args:
        logits (`Tensor` of shape (B, K, h, w), float32): Scores on the feature grid.
        labels (`Tensor` of shape (B, H, W), int64): Classes at image size in 0..K-1.
        weights (`Tensor` of shape (B, H, W), float32): Weights of the pixels, 0 or more.
        align_corners (`bool`): As in `F.interpolate`.
        losses (`Tensor` of shape (B, H, W), float32, *optional*): The cross-entropies, if they are known.

    Returns:
        `tuple` of two `Tensor`, float32: the sum, and the cross-entropies (B, H, W), which have no gradient.
    """
    return _LargePieceCrossEntropy.apply(logits, labels, weights, align_corners, losses)
