"""The memory bank: stores class distributions as prototypes, and assigns pixels to them.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

from typing import Any, Literal, assert_never, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .assignment_cmdl import Assignment, AssignmentRule, assign_pixels
from .clusters_cmdl import cluster_pixels
from .constants_cmdl import Constant
from .processes_cmdl import copy_from_first_process, sum_over_processes
from .similarity_cmdl import cosine_similarity, unit_directions

MemoryInit = Literal["random", "reference"]


def start_prototypes(noise: Tensor, memory_init: MemoryInit) -> Tensor:
    """Make the prototypes that training starts from, from normal noise (K, M, C)."""
    if memory_init == "random":
        return F.normalize(noise, dim=-1)
    if memory_init == "reference":
        return noise * 0.02
    assert_never(memory_init)


class CMDLMemoryBank(nn.Module):
    """Memory bank of class distributions: M unit-length prototypes for each of K classes.

    The prototypes are a buffer. They are updated with momentum, never by gradient.

    Args:
        num_labels (`int`): Number of classes K.
        num_distributions (`int`): Distributions M that describe a class.
        hidden_size (`int`): Channels C.
        assignment (`str`): `"argmax"` of the Sinkhorn plan, `"sample"` from it, or `"reference"`.
        momentum (`float`): Momentum of the prototypes, in [0, 1).
        momentum_warmup (`int`): A prototype after t updates has momentum min(momentum, t / (t + momentum_warmup)).
            The first update therefore replaces the random start. 0 keeps the momentum constant.
        sinkhorn_epsilon (`float`): Entropy of the assignment.
        sinkhorn_iterations (`int`): Rounds of Sinkhorn normalisation.
        is_frozen (`bool`): Keep the prototypes unchanged: `update` does nothing.
        use_fallback (`bool`): If no pixel of a class is classified correctly, use all its pixels for the update.

    Raises:
        ValueError: if the assignment is unknown.

    Shape:
        - `prototypes`: (K, M, C), float32, read as stored.
        - `num_updates`: (K, M), int64, number of updates of each prototype.

    Note:
        The reference passes the plan (values 0..1) to a hard Gumbel-softmax as logits. Its draws are nearly uniform,
        so that all distributions of a class collapse to the class mean. `"sample"` uses the logarithm of the plan.
    """

    prototypes: Tensor
    num_updates: Tensor

    def __init__(
        self,
        num_labels: int,
        num_distributions: int = 9,
        hidden_size: int = 512,
        assignment: Assignment = "argmax",
        momentum: float = 0.999,
        momentum_warmup: int = 10,
        sinkhorn_epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        is_frozen: bool = False,
        use_fallback: bool = True,
    ) -> None:
        if assignment not in get_args(Assignment):
            raise ValueError(f"assignment must be one of {', '.join(get_args(Assignment))}, got {assignment!r}")
        super().__init__()
        self.num_labels = num_labels
        self.num_distributions = num_distributions
        self.assignment = assignment
        self.momentum = momentum
        self.momentum_warmup = momentum_warmup
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.is_frozen = is_frozen
        self.use_fallback = use_fallback
        start = F.normalize(torch.randn(num_labels, num_distributions, hidden_size), dim=-1)
        self.register_buffer("prototypes", start)
        self._directions = Constant()
        self.register_buffer("num_updates", torch.zeros(num_labels, num_distributions, dtype=torch.int64))

    def _apply(self, fn: Any, recurse: bool = True) -> "CMDLMemoryBank":
        """Move with the model to its device, but keep float32: a lower precision would lose the small updates."""
        kept = self.prototypes
        self._directions.clear()
        super()._apply(fn, recurse)
        if self.prototypes.dtype != kept.dtype:
            self.prototypes = kept.to(self.prototypes.device)
        return self

    def _replicate_for_data_parallel(self) -> Any:
        raise RuntimeError(
            "torch.nn.DataParallel would lose the updates of the memory bank, because it trains copies of the model: "
            "start one process per device with torchrun or accelerate launch, or hide all devices but one with "
            "CUDA_VISIBLE_DEVICES=0"
        )

    @property
    def rule(self) -> AssignmentRule:
        """How pixels are assigned to the distributions of their class."""
        return AssignmentRule(self.assignment, self.sinkhorn_epsilon, self.sinkhorn_iterations)

    def train(self, mode: bool = True) -> "CMDLMemoryBank":
        """Set the mode, see `nn.Module`."""
        self._directions.clear()
        return super().train(mode)

    def forward(
        self,
        pixel_embeddings: Tensor | None = None,
        similarity: Tensor | None = None,
        labels: Tensor | None = None,
        is_correct: Tensor | None = None,
        assigned_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the prototypes (K, M, C) as they are stored, after an `update` if it gets pixels.

        All reads and the update go through this call. What wraps or offloads the bank can then do its part.
        """
        if pixel_embeddings is not None:
            assert similarity is not None
            assert labels is not None
            assert is_correct is not None
            self.update(pixel_embeddings, similarity, labels, is_correct, assigned_ids)
        return self.prototypes

    def read(self) -> Tensor:
        """Return a detached copy of the prototypes (K, M, C). A later `update` does not change it."""
        return self().detach().clone()

    def directions(self, prototypes: Tensor | None = None) -> Tensor:
        """Return the prototypes at unit length, with the distributions as first dimension.

        Args:
            prototypes (`Tensor` of shape (K, M, C), *optional*): Result of `read`; by default the present prototypes.

        Returns:
            `Tensor` of shape (M, K, C), float32. A later `update` does not change it.
        """
        prototypes = self() if prototypes is None else prototypes
        return self._directions.get(lambda: unit_directions(prototypes), prototypes)

    def similarity(self, pixel_embeddings: Tensor, prototypes: Tensor | None = None) -> Tensor:
        """Compute the cosine of every pixel to every distribution.

        Args:
            pixel_embeddings (`Tensor` of shape (N, C)): Unit length.
            prototypes (`Tensor` of shape (K, M, C), *optional*): Result of `read`; by default the present prototypes.

        Returns:
            `Tensor` of shape (N, K, M) in [-1, 1], float32 also under autocast.
        """
        return cosine_similarity(pixel_embeddings, self.directions(prototypes))

    @torch.no_grad()
    def update(
        self,
        pixel_embeddings: Tensor,
        similarity: Tensor,
        labels: Tensor,
        is_correct: Tensor,
        assigned_ids: Tensor | None = None,
    ) -> None:
        """Move the prototypes towards their assigned pixels, in place (momentum update).

        All pixels of a class are assigned, but only correctly classified pixels move a prototype. If a class has none,
        `use_fallback` uses all its pixels. A distribution without such pixels does not change. In a process group
        every process must call this, and all banks stay equal.

        Args:
            pixel_embeddings (`Tensor` of shape (N, C)): Unit length.
            similarity (`Tensor` of shape (N, K, M)): Cosines to the distributions.
            labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out.
            is_correct (`Tensor` of shape (N,), bool): Whether the nearest class is the label.
            assigned_ids (`Tensor` of shape (N,), int64, *optional*): Distribution of each pixel, if the losses have
                already assigned the pixels. By default they are assigned here.

        Note:
            Pixels with non-finite embeddings (for example after a half-precision overflow) are left out.

            The reference has no fallback. There, the pixels of a rare class are nearest to prototypes of frequent
            classes, and the rare class keeps its random start (CamVid: pole, sign, pedestrian and bicyclist in 460
            steps).
        """
        if self.is_frozen:
            return
        K, M = self.num_labels, self.num_distributions
        embeddings = pixel_embeddings.float()
        own, labels = self._find_used(similarity, labels)
        if assigned_ids is None:
            assigned_ids = assign_pixels(own, labels, K, self.rule)

        # The last slot collects the unused pixels. In counts (2, K·M + 1), row 0 counts correct pixels, row 1 all.
        slots = torch.where(labels < K, labels * M + assigned_ids, K * M)
        counts = embeddings.new_zeros(2, K * M + 1)
        counts[0].index_add_(0, slots, is_correct.to(counts.dtype))
        counts[1].index_add_(0, slots, torch.ones_like(slots, dtype=counts.dtype))
        correct, total = sum_over_processes(counts)[:, :-1].view(2, K, M)
        is_starved = (correct.sum(dim=1) == 0) & self.use_fallback  # (K,)
        is_updated = torch.where(is_starved[:, None], total, correct) > 0

        is_mover = is_correct | is_starved[labels.clamp_max(K - 1)]
        sums = embeddings.new_zeros(K * M + 1, embeddings.shape[1])
        sums.index_add_(0, torch.where(is_mover, slots, K * M), embeddings)
        sums = sum_over_processes(sums)[:-1].view(K, M, -1)

        old = self.prototypes.float()
        momentum = self._momentum()
        moved = momentum * old + (1 - momentum) * F.normalize(sums, dim=-1)
        new = torch.where(is_updated[..., None], moved, old)
        # All prototypes are re-normalised, as in the reference. A batch without used pixels changes nothing.
        self.prototypes.copy_(torch.where(is_updated.any(), F.normalize(new, dim=-1), old))
        self.num_updates += is_updated

    @torch.no_grad()
    def start_from_clusters(
        self, pixel_embeddings: Tensor, labels: Tensor, num_rounds: int = 10, generator: torch.Generator | None = None
    ) -> None:
        """Replace the random start, in place, by cluster centres of the embeddings of each class (spherical k-means).

        See [`cluster_pixels`]. If a class has fewer different pixels than distributions, its other prototypes keep
        their random start. In a process group every process must call this with its own pixels. The clusters use the
        pixels of all processes, and all banks become equal.

        Args:
            pixel_embeddings (`Tensor` of shape (N, C)): Embeddings of a sample of the data. Tens of thousands of
                pixels on each process are enough, because K·M·N cosines must fit into memory.
            labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out.
            num_rounds (`int`): Rounds of k-means.
            generator (`torch.Generator`, *optional*): Random generator, on the device of the embeddings.

        Raises:
            ValueError: if the shapes do not fit.

        Note:
            `num_updates` of a prototype that starts from data is set to 9 * `momentum_warmup`. The next update then
            has momentum 0.9, or `momentum` if that is lower. With `num_updates` 0 the momentum would be 0, and the
            first batch would replace the cluster centre.
        """
        if pixel_embeddings.dim() != 2 or pixel_embeddings.shape[1] != self.prototypes.shape[2]:
            raise ValueError(
                f"pixel_embeddings must have shape (pixels, {self.prototypes.shape[2]}), got "
                f"{tuple(pixel_embeddings.shape)}"
            )
        if labels.shape != pixel_embeddings.shape[:1]:
            raise ValueError(f"labels must have shape ({len(pixel_embeddings)},), got {tuple(labels.shape)}")
        K, M = self.num_labels, self.num_distributions
        centres, is_found = cluster_pixels(pixel_embeddings, labels, K, M, num_rounds, generator)
        start = torch.where(is_found[..., None], centres, F.normalize(self.prototypes.float(), dim=-1))
        self.prototypes.copy_(copy_from_first_process(start))
        self.num_updates.masked_fill_(is_found, 9 * self.momentum_warmup)

    @torch.no_grad()
    def find_duplicates(self, threshold: float = 0.95) -> Tensor:
        """Find duplicate distributions: those whose prototype nearly equals an earlier one of the same class.

        Args:
            threshold (`float`): The later of two prototypes is a duplicate if their cosine is above this.

        Returns:
            `Tensor` of shape (K, M), bool.
        """
        directions = F.normalize(self().float(), dim=-1)
        cosines = directions @ directions.transpose(1, 2)  # (K, M, M)
        return (cosines > threshold).tril(diagonal=-1).any(dim=2)

    @torch.no_grad()
    def find_dead(self, since: Tensor | None = None) -> Tensor:
        """Find dead distributions: no pixel has ever moved their prototype, but another one of their class was moved.

        Args:
            since (`Tensor` of shape (K, M), int64, *optional*): An earlier copy of `num_updates`, to count only later
                updates. By default all updates count, and a start from data counts as updates.

        Returns:
            `Tensor` of shape (K, M), bool.
        """
        is_alive = self.num_updates > (0 if since is None else since)
        return ~is_alive & is_alive.any(dim=1, keepdim=True)

    def _find_used(self, similarity: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines (N, M) to the pixels' own classes, 0 for pixels to leave out, and the labels, K for these."""
        index = labels.clamp(0, self.num_labels - 1)[:, None, None].expand(-1, 1, self.num_distributions)
        own = similarity.gather(1, index).squeeze(1)
        is_used = (labels >= 0) & (labels < self.num_labels) & own.isfinite().all(dim=1)
        return torch.where(is_used[:, None], own, 0.0), torch.where(is_used, labels, self.num_labels)

    def _momentum(self) -> Tensor:
        """Return the momentum of the next update of each prototype (K, M, 1)."""
        num_updates = self.num_updates[..., None].float()
        if not self.momentum_warmup:
            return torch.full_like(num_updates, self.momentum)
        return (num_updates / (num_updates + self.momentum_warmup)).clamp_max(self.momentum)

    def extra_repr(self) -> str:
        """Show sizes, assignment and momentum."""
        return (
            f"num_labels={self.num_labels}, num_distributions={self.num_distributions}, "
            f"assignment={self.assignment!r}, momentum={self.momentum}"
        )
