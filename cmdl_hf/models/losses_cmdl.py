"""Losses of CMDL on the feature grid, as functions of tensors that return a scalar.

All losses leave out pixels whose label is not a class, and classes without pixels. Without any pixel the loss is zero,
where the reference divides 0 by 0.

With `across_processes=True` every mean uses the pixels of all processes of the process group, and all processes must
call the function. The average of their results and gradients then equals the result of one process on the whole batch.
With `False` no process waits for another.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .assignment_cmdl import AssignmentRule, assign_pixels
from .pieces_cmdl import MEMORY_BUDGET, divide, takes_large_pieces
from .processes_cmdl import add_other_processes, num_processes, sum_over_processes

_PART_SIZE = 2**20  # values (4 MiB), so that a part stays in the processor's cache


class _PixelComparison(torch.autograd.Function):
    """Forward and backward of `compare_with_distributions`: cosines, their maxima over M, and the contrasts.

    Written by hand, because autograd would compute the gradient of the cosines twice, add both, and keep masks and
    exponentials of the same size. Here only the cosines of size N·K·M are kept. All other tensors of that size are
    computed in parts that stay in the cache. This takes two thirds of the time at K=171.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        directions: Tensor,
        classes: Tensor,
        is_used: Tensor,
        own_weights: Tensor | None,
        temperature: float,
        rule: AssignmentRule | None,
        across_processes: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        # Stored as (N, M, K): a maximum over M then reads complete rows of classes, seven times as fast at K=171.
        cosines = embeddings.new_empty(len(embeddings), *directions.shape[:2])
        index = classes[:, None, None].expand(-1, len(directions), 1)
        maxima, sums = [], []
        for rows in _parts(cosines):
            torch.mm(embeddings[rows], directions.flatten(0, 1).t(), out=cosines[rows].flatten(1))
            maxima.append(cosines[rows].amax(dim=1))
            # No maximum is subtracted: the exponentials fit into float32, because the temperature is at least 0.025.
            exponentials = (cosines[rows] / temperature).exp_() if temperature != 1 else cosines[rows].exp()
            sums.append(exponentials.scatter_(2, index[rows], 0.0).sum(dim=(1, 2)))
        nearest, total = torch.cat(maxima), torch.cat(sums)  # (N, K), (N,)
        own = cosines.gather(2, index).squeeze(2)  # (N, M)
        targets, ids = own / temperature, None
        if rule is not None and own_weights is not None:
            ids = _assign(own, classes, is_used, directions.shape[1], rule, across_processes)
            total += own_weights * targets.exp().scatter_(1, ids[:, None], 0.0).sum(dim=1)
            targets = targets.gather(1, ids[:, None])
            ctx.mark_non_differentiable(ids)
        normaliser = total.log_()
        margins = normaliser[:, None] - targets  # (N, M), or (N, 1) for the assigned distribution alone
        ctx.save_for_backward(cosines, directions, nearest, normaliser, margins, index, is_used, own_weights, ids)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        contrasts = torch.where(is_used, F.softplus(margins).mean(dim=1), 0.0)
        return cosines.transpose(1, 2), nearest, contrasts, ids

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_similarity: Tensor | None, grad_nearest: Tensor | None, grad_contrasts: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        cosines, directions, nearest, normaliser, margins, index, is_used, own_weights, ids = ctx.saved_tensors
        if grad_contrasts is None:
            grad_contrasts = torch.zeros_like(normaliser)
        slopes = margins.sigmoid() * (grad_contrasts / (margins.shape[1] * ctx.temperature))[:, None]
        slopes = slopes.masked_fill_(~is_used[:, None], 0.0)  # of all distributions but the targets, summed over them
        own_slopes = -slopes  # (N, M)
        if ids is not None:
            own = cosines.gather(2, index).squeeze(2) / ctx.temperature
            shares = (own - normaliser[:, None]).exp_() * own_weights[:, None]
            own_slopes = shares.scatter_(1, ids[:, None], -1.0) * slopes
        # For a left-out pixel with non-finite values a slope of 0 is not enough: 0 times infinity is not 0.
        is_dirty = ~(is_used | normaliser.isfinite())
        grad_embeddings = directions.new_empty(len(cosines), directions.shape[2])
        for rows in _parts(cosines):
            grad = torch.add(-normaliser[rows, None, None], cosines[rows], alpha=1 / ctx.temperature).exp_()
            grad.mul_(slopes[rows].sum(dim=1)[:, None, None])
            grad.scatter_(2, index[rows], own_slopes[rows].unsqueeze(2))
            if grad_nearest is not None:  # divided among equal maxima, as in the gradient of `amax`
                is_nearest = (cosines[rows] == nearest[rows, None]).to(grad.dtype)
                grad.addcmul_(is_nearest, (grad_nearest[rows] / is_nearest.sum(dim=1))[:, None])
            if grad_similarity is not None:
                grad.add_(grad_similarity[rows].transpose(1, 2))
            torch.mm(grad.flatten(1), directions.flatten(0, 1), out=grad_embeddings[rows])
            grad_embeddings[rows].masked_fill_(is_dirty[rows, None], 0.0)
        return grad_embeddings, None, None, None, None, None, None, None


def _parts(cosines: Tensor) -> list[slice]:
    """Divide the rows of (N, M, K): up to 16 parts on a CPU, few on an accelerator, one in a compiled graph."""
    if torch.compiler.is_compiling():
        return [slice(None)]
    if takes_large_pieces(cosines.device):
        return divide(len(cosines), cosines.numel() * cosines.element_size() // MEMORY_BUDGET + 1)
    return divide(len(cosines), min(16, cosines.numel() // _PART_SIZE + 1))


def _assign(
    own: Tensor, classes: Tensor, is_used: Tensor, num_labels: int, rule: AssignmentRule, across_processes: bool
) -> Tensor:
    """Assign the used pixels by their cosines (N, M) to the distributions of their class, as the bank does."""
    is_used = is_used & own.isfinite().all(dim=1)
    labels = torch.where(is_used, classes, num_labels)
    return assign_pixels(torch.where(is_used[:, None], own, 0.0), labels, num_labels, rule, across_processes)


class PixelComparison(NamedTuple):
    """Output of `compare_with_distributions`.

    Args:
        similarity (`Tensor` of shape (N, K, M)): Cosine of each pixel to each distribution.
        nearest (`Tensor` of shape (N, K)): Maxima of the cosines over M.
        contrasts (`Tensor` of shape (N,)): Contrast of each pixel, 0 for left-out pixels. Their `mean_over_classes` is
            the contrastive loss.
        assigned_ids (`Tensor` of shape (N,), int64, *optional*): Distribution that each pixel is assigned to, among
            those of its class. `None` if the contrast's target is every distribution of the class.
    """

    similarity: Tensor
    nearest: Tensor
    contrasts: Tensor
    assigned_ids: Tensor | None


def compare_with_distributions(
    pixel_embeddings: Tensor,
    directions: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    rule: AssignmentRule | None = None,
    intra_class_negative_weight: float = 0.0,
    across_processes: bool = False,
) -> PixelComparison:
    """Compare every pixel with every distribution, for the losses and for the update of the memory bank.

    Without a `rule` the contrast is that of `contrastive_loss`: its targets are all distributions of the pixel's
    class. With a rule its target is the distribution m* that the pixel is assigned to. For a pixel of class c and
    scores s = cosine / temperature, the contrast is then

        -s(c, m*) + log(exp s(c, m*) + β Σ_{m ≠ m*} exp s(c, m) + Σ_{c' ≠ c, m} exp s(c', m)).

    β is `intra_class_negative_weight`. It is 0 for a class with fewer than 2·M pixels: these cannot be divided among M
    distributions in equal parts, so the assignment of most of them says nothing.

    Args:
        pixel_embeddings (`Tensor` of shape (N, C), float32): Unit length.
        directions (`Tensor` of shape (M, K, C), float32): The memory bank's `directions`. They get no gradient.
        labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out of the contrast.
        temperature (`float`): Temperature of the contrast, at least 0.025; the reference has none.
        rule (`AssignmentRule`, *optional*): Assign the pixels by this rule. By default they are not assigned.
        intra_class_negative_weight (`float`): β, in [0, 1]. 0 leaves the class's other distributions out.
        across_processes (`bool`): Assign the pixels of all processes together. All processes must then call this.

    Returns:
        `PixelComparison`.
    """
    num_distributions, num_labels, _ = directions.shape
    is_used, classes = _named_classes(labels, num_labels)
    own_weights = None
    if rule is not None:
        counts = _count_classes(is_used, classes, num_labels, across_processes)
        own_weights = intra_class_negative_weight * (counts >= 2 * num_distributions)[classes].float()
    return PixelComparison(
        *_PixelComparison.apply(
            pixel_embeddings, directions, classes, is_used, own_weights, temperature, rule, across_processes
        )
    )


def contrastive_loss(
    similarity: Tensor, labels: Tensor, temperature: float = 1.0, across_processes: bool = False
) -> Tensor:
    """Pixel-to-distribution contrast: each distribution of a pixel's class against all those of other classes.

    For a pixel of class c and each distribution m of c, this is the cross-entropy of the scores [s(c, m), all s(c', ·)
    with c' ≠ c] with the first as target. It equals softplus(lse - s(c, m)), where lse is the log-sum-exp over the
    other classes. The loss is the mean over the pixels of a class, then over the present classes, then over m.

    This function takes similarities. If you have embeddings, `compare_with_distributions` and `mean_over_classes`
    compute the same loss in less time. For the contrast with the assigned distribution see
    `compare_with_distributions`.

    Args:
        similarity (`Tensor` of shape (N, K, M), float32): Cosines to all distributions.
        labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out.
        temperature (`float`): The similarities are divided by this number, at least 0.025; the reference has none.
        across_processes (`bool`): Compute the means over the pixels and classes of all processes.

    Returns:
        Scalar `Tensor`.
    """
    is_used, classes = _named_classes(labels, similarity.shape[1])
    scores = similarity.where(is_used[:, None, None], 0.0) / temperature
    index = classes[:, None, None].expand(-1, 1, scores.shape[2])
    others = scores.exp().scatter(1, index, 0.0).sum(dim=(1, 2)).log()
    contrasts = F.softplus(others[:, None] - scores.gather(1, index).squeeze(1)).mean(dim=1)
    return mean_over_classes(contrasts, labels, similarity.shape[1], across_processes)


def mean_over_classes(losses: Tensor, labels: Tensor, num_labels: int, across_processes: bool = False) -> Tensor:
    """Compute the mean over the pixels of each class, then over the present classes.

    Args:
        losses (`Tensor` of shape (N,)): Loss of each pixel.
        labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out.
        num_labels (`int`): Number of classes K.
        across_processes (`bool`): Compute the means over the pixels and classes of all processes.

    Returns:
        Scalar `Tensor`.
    """
    is_used, classes = _named_classes(labels, num_labels)
    counts = _count_classes(is_used, classes, num_labels, across_processes)
    if across_processes:
        losses = losses * num_processes()
    num_present = (counts > 0).sum().clamp_min(1)
    return (losses * (is_used / (counts.clamp_min(1)[classes] * num_present))).sum()


def _named_classes(labels: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Return which labels are classes, and the labels with all others replaced by 0 or K-1."""
    return (labels >= 0) & (labels < num_labels), labels.clamp(0, num_labels - 1)


def _count_classes(is_used: Tensor, classes: Tensor, num_labels: int, across_processes: bool) -> Tensor:
    """Count the pixels of each class (K,), float32, those of all processes if asked."""
    counts = torch.zeros(num_labels, device=classes.device).index_add_(0, classes, is_used.float())
    return sum_over_processes(counts) if across_processes else counts


def class_margin_loss(
    pixel_embeddings: Tensor, labels: Tensor, prototypes: Tensor, across_processes: bool = False
) -> Tensor:
    """Class margin: similarity of the class means of this batch to the nearest other class.

    It is the mean over the present classes c of (1 + max over c' ≠ c of cos(mean embedding of c, mean of
    prototypes[c'])) / 2.

    Args:
        pixel_embeddings (`Tensor` of shape (N, C)): Unit length.
        labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out.
        prototypes (`Tensor` of shape (K, M, C)): The memory bank. It gets no gradient.
        across_processes (`bool`): Compute the mean embeddings over the pixels of all processes.

    Returns:
        Scalar `Tensor` in [0, 1].

    Note:
        The reference compares channels instead of classes, and has no gradient: see `class_margin_reference`.
    """
    num_labels = len(prototypes)
    is_used = (labels >= 0) & (labels < num_labels)
    classes = torch.where(is_used, labels, num_labels)
    sums = pixel_embeddings.new_zeros(num_labels + 1, pixel_embeddings.shape[1])
    sums = sums.index_add(0, classes, pixel_embeddings)[:-1]
    counts = sums.new_zeros(num_labels + 1).index_add_(0, classes, torch.ones_like(classes, dtype=sums.dtype))[:-1]
    both = add_other_processes(torch.cat([sums, counts[:, None]], dim=1), across_processes)
    sums, counts = both[:, :-1], both[:, -1]
    centres = F.normalize(prototypes.detach().to(sums.dtype).mean(dim=1), dim=-1)
    cosines = F.normalize(sums, dim=-1) @ centres.t()
    cosines = cosines.masked_fill(torch.eye(num_labels, dtype=torch.bool, device=cosines.device), -1.0)
    is_present = counts > 0
    margins = torch.where(is_present, (1 + cosines.amax(dim=1)) / 2, 0.0)
    return margins.sum() / is_present.sum().clamp_min(1)


@torch.no_grad()
def class_margin_reference(prototypes: Tensor) -> Tensor:
    """Class margin of the public reference, for comparison with it. It compares channels, and has no gradient.

    It is (1 + min over pairs of channels i ≠ j of cos(m[:, i], m[:, j])) / K, without cosines that are exactly 0.
    m (K, C) are the means over the distributions.

    Args:
        prototypes (`Tensor` of shape (K, M, C)): The memory bank after the update.

    Returns:
        Scalar `Tensor` without gradient.
    """
    columns = F.normalize(prototypes.float().mean(dim=1), dim=0)  # (K, C)
    cosines = columns.t() @ columns
    is_skipped = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device) | (cosines == 0)
    return (1 + cosines.masked_fill(is_skipped, torch.inf).amin()) / len(prototypes)
