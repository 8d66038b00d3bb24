"""Are the distributions of a class several, and does it matter which one a pixel is near? Functions of tensors.

K classes, M distributions of each, N pixels, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_within_class(prototypes: Tensor) -> Tensor:
    """Compute the mean cosine between different distributions of each class.

    Args:
        prototypes (`Tensor` of shape (K, M, C)): One prototype for each distribution.

    Returns:
        `Tensor` of shape (K,), float32, in [-1, 1]: 1 if all are equal. With M = 1 it is 1.
    """
    directions = F.normalize(prototypes.float(), dim=-1)
    num_distributions = directions.shape[1]
    if num_distributions == 1:
        return directions.new_ones(len(directions))
    sums = directions.sum(dim=1).square().sum(dim=-1)  # of all M² cosines
    return (sums - num_distributions) / (num_distributions * (num_distributions - 1))


def effective_number(prototypes: Tensor, shares: Tensor | None = None) -> Tensor:
    """Compute how many different distributions each class has in effect.

    It is exp(-Σ λ log λ) over the eigenvalues λ of Σ_m w_m v_m v_mᵀ, with prototypes v_m of unit length and weights
    w_m with sum 1 (the weighted Vendi score, arXiv 2210.02410). Equal distributions count once, and unused ones not.

    Args:
        prototypes (`Tensor` of shape (K, M, C)): One prototype for each distribution.
        shares (`Tensor` of shape (K, M), *optional*): Pixels or share of pixels of each distribution, 0 or more. By
            default all distributions weigh the same.

    Returns:
        `Tensor` of shape (K,), float32, in [1, M]. A class without pixels has 0.
    """
    directions = F.normalize(prototypes.double(), dim=-1)
    weights = torch.ones_like(directions[..., 0]) if shares is None else shares.double()
    total = weights.sum(dim=1, keepdim=True)
    scaled = directions * (weights / total.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()[..., None]
    values = torch.linalg.eigvalsh(scaled @ scaled.transpose(1, 2)).clamp_min(1e-12)  # (K, M), those of the sum
    number = torch.exp(-(values * values.log()).sum(dim=1))
    return torch.where(total.squeeze(1) > 0, number, 0.0).float()


def posterior_entropy(own_similarity: Tensor, temperature: float) -> Tensor:
    """Compute the entropy of the softmax over the distributions of a pixel's class, divided by log M.

    Args:
        own_similarity (`Tensor` of shape (N, M)): Cosine of each pixel to the distributions of its class, M above 1.
        temperature (`float`): The cosines are divided by this number.

    Returns:
        Scalar `Tensor`: mean over the pixels, in [0, 1]. 1 means that a pixel is equally near to all.
    """
    logs = (own_similarity.float() / temperature).log_softmax(dim=1)
    entropies = -(logs.exp() * logs).sum(dim=1)
    return entropies.mean() / torch.tensor(float(own_similarity.shape[1])).log().to(entropies.device)


def of_own_class(similarity: Tensor, labels: Tensor) -> Tensor:
    """Select the cosines of each pixel to the distributions of its class: (N, K, M) and (N,) -> (N, M)."""
    return similarity.gather(1, labels[:, None, None].expand(-1, 1, similarity.shape[2])).squeeze(1)
