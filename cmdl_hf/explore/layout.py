"""Where embeddings and classes go in a picture: t-SNE of pixels and prototypes, and an order of similar classes."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..extras import install_command

_PRINCIPAL_COMPONENTS = 50
_NUM_ITERATIONS = 750  # of the t-SNE; nothing moves much after them


def check_scikit_learn() -> None:
    """Refuse, before anything is computed, to go on without scikit-learn.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"exploring a model draws a t-SNE, which needs scikit-learn; install it with {install_command('explore')}"
        ) from error


def lay_out(pixel_embeddings: Tensor, prototypes: Tensor, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lay pixels and prototypes out together in the plane, neighbours beside each other (t-SNE).

    Args:
        pixel_embeddings (`Tensor` of shape (N, C)): Unit length.
        prototypes (`Tensor` of shape (K, M, C)): Of any length.
        seed (`int`): Of the layout.

    Returns:
        Places of the pixels (N, 2) and of the prototypes (K, M, 2), float64 in [0, 1].
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    K, M, _ = prototypes.shape
    directions = F.normalize(prototypes.float(), dim=-1).flatten(0, 1)
    points = torch.cat([F.normalize(pixel_embeddings.float(), dim=-1), directions]).cpu().double().numpy()
    num_components = min(_PRINCIPAL_COMPONENTS, *points.shape)
    reduced = PCA(num_components, random_state=seed).fit_transform(points)
    perplexity = min(30.0, (len(points) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", max_iter=_NUM_ITERATIONS, random_state=seed)
    places = tsne.fit_transform(reduced).astype(np.float64)
    places -= places.min(axis=0)
    places /= max(places.max(), 1e-12)
    return places[: -K * M], places[-K * M :].reshape(K, M, 2)


def class_similarity(prototypes: Tensor) -> Tensor:
    """Cosines between the classes' means of their unit-length prototypes: (K, M, C) to (K, K)."""
    means = F.normalize(F.normalize(prototypes.float(), dim=-1).mean(dim=1), dim=-1)
    return means @ means.t()


def order_classes(similarity: Tensor) -> list[int]:
    """Order classes so that similar ones are neighbours: leaves of a hierarchical clustering (average linkage).

    Args:
        similarity (`Tensor` of shape (K, K)): Cosines between classes.

    Returns:
        `list` of the K classes.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # type: ignore[import-untyped]
    from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

    if len(similarity) < 3:
        return list(range(len(similarity)))
    distances = np.clip(1 - similarity.cpu().double().numpy(), 0, 2)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return leaves_list(linkage(squareform(distances), "average", optimal_ordering=True)).tolist()


def most_similar_classes(similarity: Tensor, count: int = 8) -> list[tuple[int, int, float]]:
    """The pairs of different classes with the highest cosines, highest first."""
    rows, columns = torch.triu_indices(len(similarity), len(similarity), offset=1)
    values, order = similarity[rows, columns].sort(descending=True)
    pairs: Any = zip(rows[order].tolist(), columns[order].tolist(), values.tolist(), strict=True)
    return list(pairs)[:count]


def find_originals(prototypes: Tensor, is_duplicate: Tensor) -> dict[tuple[int, int], tuple[int, float]]:
    """Which earlier distribution of its class each duplicate repeats.

    Args:
        prototypes (`Tensor` of shape (K, M, C)): Of any length.
        is_duplicate (`Tensor` of shape (K, M), bool): What `find_duplicates` of the memory bank returned.

    Returns:
        `dict`: for class and distribution of each duplicate, the most similar earlier distribution and the cosine.
    """
    directions = F.normalize(prototypes.float(), dim=-1)
    cosines = (directions @ directions.transpose(1, 2)).tril(diagonal=-1)  # (K, M, M)
    earlier = torch.ones_like(cosines[0]).tril(diagonal=-1).bool()
    values, ids = cosines.masked_fill(~earlier, -torch.inf).max(dim=2)
    return {
        (class_id, m): (int(ids[class_id, m]), float(values[class_id, m]))
        for class_id, m in is_duplicate.nonzero().tolist()
    }
