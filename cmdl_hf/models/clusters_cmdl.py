"""Clusters of pixels: spherical k-means within each class, for all classes at once and over all processes.

Reference: k-means++, D. Arthur and S. Vassilvitskii, 2007, for the first centres.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .processes_cmdl import gather_over_processes, sum_over_processes
from .similarity_cmdl import cosine_similarity, unit_directions


@torch.no_grad()
def cluster_pixels(
    pixel_embeddings: Tensor,
    labels: Tensor,
    num_labels: int,
    num_distributions: int,
    num_rounds: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Cluster the directions of the embeddings of each class.

    The first centre of a class is a random pixel of the class. Each next centre is drawn with probability proportional
    to its distance 1 - cosine from the nearest earlier centre (k-means++). A class with fewer different pixels than
    distributions has only as many clusters as pixels. In a process group every process must call this with its own
    pixels.

    Args:
        pixel_embeddings (`Tensor` of shape (N, C)): Embeddings of any length. K·M·N cosines must fit into memory.
        labels (`Tensor` of shape (N,), int64): Classes in 0..K-1; any other value is left out, and so are pixels with
            non-finite embeddings.
        num_labels (`int`): Number of classes K.
        num_distributions (`int`): Clusters M of a class, one for each of its distributions.
        num_rounds (`int`): Rounds of k-means.
        generator (`torch.Generator`, *optional*): Random generator, on the device of the embeddings.

    Returns:
        `tuple`: the centres (K, M, C), float32, and which of them were found (K, M), bool. Found centres have unit
        length, all others are 0.
    """
    K, M = num_labels, num_distributions
    embeddings = F.normalize(pixel_embeddings.float(), dim=-1)
    is_used = (labels >= 0) & (labels < K) & embeddings.isfinite().all(dim=1)
    # Left-out pixels get label K. An added last row with label K makes sure that every process has at least one row.
    embeddings = F.pad(torch.where(is_used[:, None], embeddings, 0.0), (0, 0, 0, 1))
    labels = F.pad(torch.where(is_used, labels, K), (0, 1), value=K)

    centres, is_found = _spread_out(embeddings, labels, K, M, generator)
    index = labels.clamp_max(K - 1)[:, None, None].expand(-1, 1, M)
    for _ in range(num_rounds):
        own = cosine_similarity(embeddings, unit_directions(centres)).gather(1, index).squeeze(1)  # (N, M)
        sums = embeddings.new_zeros((K + 1) * M, embeddings.shape[1])
        sums.index_add_(0, labels * M + own.argmax(dim=1), embeddings)
        sums = sum_over_processes(sums).view(K + 1, M, -1)[:-1]
        is_moved = sums.norm(dim=-1, keepdim=True) > 0
        centres = torch.where(is_moved, F.normalize(sums, dim=-1), centres)
    return centres, is_found


def _spread_out(
    embeddings: Tensor, labels: Tensor, num_labels: int, num_distributions: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Pick up to M pixels of every class, far from each other: (K, M, C), and which were found (K, M).

    Missing centres are 0. This happens only if all different pixels of the class are picked, so that no pixel is
    nearest to a missing centre.
    """
    classes = labels.clamp_max(num_labels - 1)
    distance = torch.where(labels < num_labels, 1.0, 0.0)  # to the nearest centre picked so far
    centres, is_found = [], []
    for _ in range(num_distributions):
        # The arg-max of log-weights plus Gumbel noise is a draw with probabilities proportional to the weights.
        noise = torch.empty_like(distance).exponential_(generator=generator).log_()
        scores = distance.clamp_min(1e-5).log() - noise
        scores = scores.masked_fill(distance < 1e-5, -torch.inf)
        centre, is_there = _pick_highest(scores, embeddings, labels, num_labels)
        cosine = (embeddings * centre[classes]).sum(dim=1)
        distance = torch.where(is_there[classes], torch.minimum(distance, 1 - cosine), distance)
        centres.append(centre)
        is_found.append(is_there)
    return torch.stack(centres, dim=1), torch.stack(is_found, dim=1)


def _pick_highest(scores: Tensor, embeddings: Tensor, labels: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Find the pixel with the highest score of every class, over all processes: (K, C), and whether there is one."""
    K, N = num_labels, len(scores)
    highest = scores.new_full((K + 1,), -torch.inf).scatter_reduce_(0, labels, scores, "amax")
    is_highest = (scores == highest[labels]) & scores.isfinite()
    order = torch.where(is_highest, torch.arange(N, device=scores.device), N - 1)
    first = order.new_full((K + 1,), N - 1).scatter_reduce_(0, labels, order, "amin")
    candidates = torch.cat([highest[:-1, None], embeddings[first[:-1]]], dim=1)
    of_all = gather_over_processes(candidates)  # (P, K, 1 + C)
    best, process = of_all[..., 0].max(dim=0)
    return of_all[process, torch.arange(K, device=process.device), 1:], best > -torch.inf
