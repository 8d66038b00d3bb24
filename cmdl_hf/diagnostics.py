"""Are the distributions of a class several, and does it matter which one a pixel is near? Functions of tensors.

K classes, M distributions of each, N pixels, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_PROBE_STEPS = 400


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


def chance_agreement(num_pixels: Tensor) -> Tensor:
    """Compute how often two independent pixels of a class would be nearest to the same distribution.

    Args:
        num_pixels (`Tensor` of shape (K, M)): How many pixels of each class are nearest to each of its distributions.

    Returns:
        Scalar `Tensor` in [0, 1]: mean over the pixels.
    """
    of_class = num_pixels.sum(dim=1, keepdim=True)
    by_chance = (num_pixels / of_class.clamp_min(1)).square().sum(dim=1, keepdim=True)
    return (by_chance * of_class).sum() / of_class.sum().clamp_min(1)


def divide_probabilities(probabilities: Tensor, similarity: Tensor, temperature: float) -> Tensor:
    """Divide each class probability among the distributions of the class, by how near the pixel is to them.

    Args:
        probabilities (`Tensor` of shape (N, K)): Class probabilities.
        similarity (`Tensor` of shape (N, K, M)): Cosines to the distributions.
        temperature (`float`): The cosines are divided by this number.

    Returns:
        `Tensor` of shape (N, K·M): M · p · π, with the posterior π of the distributions of a class.
    """
    posterior = (similarity.float() / temperature).softmax(dim=2)
    return (probabilities[:, :, None] * posterior * similarity.shape[2]).flatten(1)


def probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_labels: int) -> float:
    """Train a linear classifier on some pixels and score it on others.

    Args:
        train (`tuple`): Inputs (N, D), float32, and classes (N,), int64.
        test (`tuple`): The same of other pixels.
        num_labels (`int`): Number of classes.

    Returns:
        `float` in [0, 1]: mean IoU over the classes that occur or are predicted.
    """
    inputs, labels = train
    weight = torch.zeros(num_labels, inputs.shape[1], device=inputs.device, requires_grad=True)
    bias = torch.zeros(num_labels, device=inputs.device, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=0.1, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _PROBE_STEPS)
    with torch.enable_grad():
        for _ in range(_PROBE_STEPS):
            optimizer.zero_grad()
            F.cross_entropy(F.linear(inputs, weight, bias), labels).backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        predicted = F.linear(test[0], weight, bias).argmax(dim=1)
    joint = torch.bincount(test[1] * num_labels + predicted, minlength=num_labels**2).view(num_labels, num_labels)
    hits, unions = joint.diagonal(), joint.sum(dim=0) + joint.sum(dim=1) - joint.diagonal()
    return (hits[unions > 0] / unions[unions > 0]).mean().item()
