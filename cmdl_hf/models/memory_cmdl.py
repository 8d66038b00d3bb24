"""The memory bank: class distributions kept as prototypes, and how pixels are assigned to them.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clusters_cmdl import cluster_pixels
from .processes_cmdl import copy_from_first_process, sum_over_processes
from .similarity_cmdl import cosine_similarity, unit_directions

Assignment = Literal["sample", "argmax", "reference"]


@torch.no_grad()
def sinkhorn(
    similarity: Tensor,
    labels: Tensor | None = None,
    num_labels: int = 1,
    epsilon: float = 0.05,
    num_iterations: int = 3,
) -> Tensor:
    """Share the pixels of every class out over its distributions in equal parts (Sinkhorn-Knopp).

    All classes at once: the sums over the pixels of a class are segment sums, so shapes are fixed and the
    cost does not grow with the number of classes. In a process group they run over the pixels of every process.

    Args:
        similarity (`Tensor` of shape (N, M)): Cosine of each pixel to its own class's M distributions, in [-1, 1].
        labels (`Tensor` of shape (N,), int64, *optional*): Class of each pixel in 0..num_labels-1, or num_labels
            for a pixel to leave out. Omitted, all pixels are of one class.
        num_labels (`int`): Number of classes K.
        epsilon (`float`): Entropy of the plan, at least 0.025.
        num_iterations (`int`): Rounds, at least 1; each makes the distributions' totals equal, then the pixels'.

    Returns:
        `Tensor` of shape (N, M), float32: the transport plan. Each row sums to 1.

    Note:
        The reference scales the whole matrix, its columns to 1/M and its rows to 1/P; those constants cancel.
    """
    if labels is None:
        labels = torch.zeros(len(similarity), dtype=torch.int64, device=similarity.device)
    kernel = ((similarity.float() - 1) / epsilon).exp()  # at most 1, at least exp(-80): a float32 either way
    plan = kernel
    for _ in range(num_iterations):
        totals = kernel.new_zeros(num_labels + 1, kernel.shape[1]).index_add_(0, labels, plan)
        totals = sum_over_processes(totals).clamp_min_(torch.finfo(kernel.dtype).tiny)
        plan = plan / totals[labels]
        plan = plan / plan.sum(dim=1, keepdim=True)
    return plan


class CMDLMemoryBank(nn.Module):
    """Memory bank of class distributions: M unit-length prototypes for each of K classes.

    The prototypes are a buffer that moves by momentum, never by gradient.

    Args:
        num_labels (`int`): Number of classes K.
        num_distributions (`int`): Distributions M that describe a class.
        hidden_size (`int`): Channels C.
        assignment (`str`): `"argmax"` of the Sinkhorn plan, `"sample"` from it, or `"reference"`.
        momentum (`float`): Momentum of the prototypes, in [0, 1).
        momentum_warmup (`int`): A prototype with t updates behind it moves with min(momentum, t / (t + warm-up)),
            so its first pixels replace the random start; 0 keeps the momentum constant.
        sinkhorn_epsilon (`float`): Entropy of the assignment.
        sinkhorn_iterations (`int`): Rounds of Sinkhorn normalisation.
        is_frozen (`bool`): Leave the prototypes as they are; `update` then does nothing.
        use_fallback (`bool`): Where no pixel of a class is classified correctly, let all of them move its prototypes.

    Raises:
        ValueError: if there is no such assignment.

    Shape:
        - `prototypes`: (K, M, C), float32, read as stored.
        - `num_updates`: (K, M), int64, updates each prototype has had.

    Note:
        The reference hands the plan (values 0..1) to a hard Gumbel-softmax as logits: nearly uniform draws, in
        which the distributions of a class collapse to its mean. `"sample"` draws from the plan's logarithm.
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
        self.register_buffer("num_updates", torch.zeros(num_labels, num_distributions, dtype=torch.int64))

    def _apply(self, fn: Any, recurse: bool = True) -> "CMDLMemoryBank":
        """Follow the model to its device, but not to a lower precision, in which thousandths would be lost."""
        kept = self.prototypes
        super()._apply(fn, recurse)
        if self.prototypes.dtype != kept.dtype:
            self.prototypes = kept.to(self.prototypes.device)
        return self

    def read(self) -> Tensor:
        """Return a detached copy of the prototypes (K, M, C), which a later `update` leaves alone."""
        return self.prototypes.detach().clone()

    def directions(self, prototypes: Tensor | None = None) -> Tensor:
        """Prototypes at unit length, those of a distribution side by side.

        Args:
            prototypes (`Tensor` of shape (K, M, C), *optional*): What `read` returned; read afresh if omitted.

        Returns:
            `Tensor` of shape (M, K, C), float32, which a later `update` leaves alone.
        """
        prototypes = self.prototypes.detach() if prototypes is None else prototypes
        return unit_directions(prototypes)

    def similarity(self, pixel_embeddings: Tensor, prototypes: Tensor | None = None) -> Tensor:
        """Cosine of every pixel to every distribution.

        Args:
            pixel_embeddings (`Tensor` of shape (N, C)): Unit length.
            prototypes (`Tensor` of shape (K, M, C), *optional*): What `read` returned; read afresh if omitted.

        Returns:
            `Tensor` of shape (N, K, M), float32 under autocast, too, in [-1, 1].
        """
        return cosine_similarity(pixel_embeddings, self.directions(prototypes))

    @torch.no_grad()
    def assign(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """Give each pixel one of its class's distributions.

        Args:
            similarity (`Tensor` of shape (N, M)): Cosine to the pixel's own class's distributions.
            labels (`Tensor` of shape (N,), int64): Class of each pixel, K for a pixel to leave out.

        Returns:
            `Tensor` of shape (N,), int64, in 0..M-1.
        """
        plan = sinkhorn(similarity, labels, self.num_labels, self.sinkhorn_epsilon, self.sinkhorn_iterations)
        if self.assignment == "argmax":
            return plan.argmax(dim=1)
        logits = plan.log() if self.assignment == "sample" else plan
        gumbel_noise = -torch.empty_like(plan).exponential_().log()
        return (logits + gumbel_noise).argmax(dim=1)

    @torch.no_grad()
    def update(self, pixel_embeddings: Tensor, similarity: Tensor, labels: Tensor, is_correct: Tensor) -> None:
        """Move the prototypes towards the pixels assigned to them (momentum update), in place.

        All pixels of a class take part in the assignment; only those classified correctly move a prototype, or, with
        `use_fallback`, all where none is. A distribution without pixels stays. In a process group every process must
        call this, and all end up equal.

        Args:
            pixel_embeddings (`Tensor` of shape (N, C)): Unit length.
            similarity (`Tensor` of shape (N, K, M)): Cosines to the distributions.
            labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out.
            is_correct (`Tensor` of shape (N,), bool): Whether the nearest class is the label.

        Note:
            Pixels with non-finite embeddings (a half-precision overflow, say) are left out.

            The reference has no fallback. A rare class, whose pixels are nearest to the prototypes of frequent ones,
            then never leaves its random start (CamVid: pole, sign, pedestrian and bicyclist in 460 steps).
        """
        if self.is_frozen:
            return
        K, M = self.num_labels, self.num_distributions
        embeddings = pixel_embeddings.float()
        index = labels.clamp(0, K - 1)[:, None, None].expand(-1, 1, M)
        own = similarity.gather(1, index).squeeze(1)  # (N, M)
        is_used = (labels >= 0) & (labels < K) & own.isfinite().all(dim=1)
        labels = torch.where(is_used, labels, K)
        ids = self.assign(torch.where(is_used[:, None], own, 0.0), labels)

        # The last slot takes the rest. Of (2, K·M + 1) counts the first are those of the correct pixels, then of all.
        slots = torch.where(is_used, labels * M + ids, K * M)
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
        # All are re-normalised, as in the reference, but a batch without any pixel changes nothing at all.
        self.prototypes.copy_(torch.where(is_updated.any(), F.normalize(new, dim=-1), old))
        self.num_updates += is_updated

    @torch.no_grad()
    def start_from_clusters(
        self, pixel_embeddings: Tensor, labels: Tensor, num_rounds: int = 10, generator: torch.Generator | None = None
    ) -> None:
        """Replace the random start by clusters of data: spherical k-means of the embeddings of each class, in place.

        See [`cluster_pixels`]. A class with fewer different pixels than distributions keeps the random start of the
        rest, a class without pixels that of all.

        In a process group every process must call this, each with pixels of its own: the clusters are those of the
        pixels of all of them, and all banks end equal.

        Args:
            pixel_embeddings (`Tensor` of shape (N, C)): Embeddings of a sample of the data; K·M·N cosines are held
                at once, so tens of thousands of pixels on each process are plenty.
            labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out.
            num_rounds (`int`): Rounds of k-means.
            generator (`torch.Generator`, *optional*): Of the draws, on the embeddings' device.

        Raises:
            ValueError: if the shapes do not fit.

        Note:
            A prototype that starts from data counts as one that has had 9 warm-ups of updates (`num_updates`), so the
            next batch moves it with momentum 0.9, or the bank's where that is lower. With none behind it, momentum 0
            would throw the cluster away for what one batch holds of it.
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
        """Tell which distributions repeat an earlier one of their class.

        Args:
            threshold (`float`): Cosine of two prototypes above which the later one is a duplicate.

        Returns:
            `Tensor` of shape (K, M), bool.
        """
        directions = F.normalize(self.prototypes.float(), dim=-1)
        cosines = directions @ directions.transpose(1, 2)  # (K, M, M)
        return (cosines > threshold).tril(diagonal=-1).any(dim=2)

    @torch.no_grad()
    def find_dead(self, since: Tensor | None = None) -> Tensor:
        """Tell which distributions were never updated although another one of their class was.

        Args:
            since (`Tensor` of shape (K, M), int64, *optional*): An earlier copy of `num_updates`, to ask about what
                came after it. Omitted, the whole life of the bank, in which a start from data counts as updates.

        Returns:
            `Tensor` of shape (K, M), bool.
        """
        is_alive = self.num_updates > (0 if since is None else since)
        return ~is_alive & is_alive.any(dim=1, keepdim=True)

    def _momentum(self) -> Tensor:
        """Momentum of each prototype's next update (K, M, 1)."""
        num_updates = self.num_updates[..., None].float()
        if not self.momentum_warmup:
            return torch.full_like(num_updates, self.momentum)
        return (num_updates / (num_updates + self.momentum_warmup)).clamp_max(self.momentum)

    def extra_repr(self) -> str:
        """Show the sizes and the rule of assignment."""
        return (
            f"num_labels={self.num_labels}, num_distributions={self.num_distributions}, "
            f"assignment={self.assignment!r}, momentum={self.momentum}"
        )
