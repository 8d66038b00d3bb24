"""Assignment of the pixels of every class to the distributions of their class.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

from typing import Literal, NamedTuple, assert_never

import torch
from torch import Tensor

from .processes_cmdl import sum_over_processes

Assignment = Literal["sample", "argmax", "reference"]


class AssignmentRule(NamedTuple):
    """How a pixel is assigned to one distribution of its class.

    Args:
        assignment (`str`): `"argmax"` of the Sinkhorn plan, `"sample"` from it, or `"reference"`: see
            `CMDLMemoryBank`.
        epsilon (`float`): Entropy of the plan, see `sinkhorn`.
        num_iterations (`int`): Rounds of `sinkhorn`.
    """

    assignment: Assignment = "argmax"
    epsilon: float = 0.05
    num_iterations: int = 3


@torch.no_grad()
def sinkhorn(
    similarity: Tensor,
    labels: Tensor | None = None,
    num_labels: int = 1,
    epsilon: float = 0.05,
    num_iterations: int = 3,
    across_processes: bool = True,
) -> Tensor:
    """Assign the pixels of every class to its distributions in equal parts (Sinkhorn-Knopp).

    All classes are processed at once: the sums over the pixels of a class are segment sums. Shapes are therefore
    fixed, and the cost does not grow with the number of classes.

    Args:
        similarity (`Tensor` of shape (N, M)): Cosine of each pixel to its own class's M distributions, in [-1, 1].
        labels (`Tensor` of shape (N,), int64, *optional*): Class of each pixel in 0..num_labels-1, or num_labels
            for a pixel to leave out. By default all pixels belong to one class.
        num_labels (`int`): Number of classes K.
        epsilon (`float`): Entropy of the plan, at least 0.025.
        num_iterations (`int`): Number of rounds, at least 1. Each round normalises the distributions, then the pixels.
        across_processes (`bool`): Sum over the pixels of all processes. All processes must then call this.

    Returns:
        `Tensor` of shape (N, M), float32: the transport plan. Each row sums to 1.

    Note:
        The reference scales the whole matrix to sum 1, its columns to 1/M and its rows to 1/P. These constants cancel.
    """
    if labels is None:
        labels = torch.zeros(len(similarity), dtype=torch.int64, device=similarity.device)
    kernel = ((similarity.float() - 1) / epsilon).exp()  # in [exp(-80), 1], which fits into float32
    plan = kernel
    for _ in range(num_iterations):
        totals = kernel.new_zeros(num_labels + 1, kernel.shape[1]).index_add_(0, labels, plan)
        if across_processes:
            sum_over_processes(totals)
        plan = plan / totals.clamp_min_(torch.finfo(kernel.dtype).tiny)[labels]
        plan = plan / plan.sum(dim=1, keepdim=True)
    return plan


@torch.no_grad()
def assign_pixels(
    similarity: Tensor, labels: Tensor, num_labels: int, rule: AssignmentRule, across_processes: bool = True
) -> Tensor:
    """Assign each pixel to one distribution of its class.

    Args:
        similarity (`Tensor` of shape (N, M)): Cosine of each pixel to the distributions of its own class.
        labels (`Tensor` of shape (N,), int64): Class of each pixel, K for a pixel to leave out.
        num_labels (`int`): Number of classes K.
        rule (`AssignmentRule`): How to assign.
        across_processes (`bool`): See `sinkhorn`.

    Returns:
        `Tensor` of shape (N,), int64, in 0..M-1.
    """
    plan = sinkhorn(similarity, labels, num_labels, rule.epsilon, rule.num_iterations, across_processes)
    if rule.assignment == "argmax":
        return plan.argmax(dim=1)
    if rule.assignment == "sample":
        logits = plan.log()
    elif rule.assignment == "reference":
        logits = plan
    else:
        assert_never(rule.assignment)
    gumbel_noise = -torch.empty_like(plan).exponential_().log()
    return (logits + gumbel_noise).argmax(dim=1)
