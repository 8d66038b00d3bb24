"""Class maps with the probability of each pixel's class, computed in pieces as class maps are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .class_maps import _interpolate_rows, _resize, piece_size


@torch.no_grad()
def class_map_with_confidence(
    scores: Tensor, size: Sequence[int], is_probability: bool = False
) -> tuple[Tensor, Tensor]:
    """Enlarge scores to an image's size, and take the class with the largest score and its probability, in pieces.

    Args:
        scores (`Tensor` of shape (B, K, h, w)): Logits or probabilities, on the feature grid or at the image's size.
        size (`Sequence[int]`): Height and width of the maps.
        is_probability (`bool`): Whether the scores are probabilities already. Otherwise the softmax is taken after
            the enlargement.

    Returns:
        The class map of [`class_map`], (B, *size), int64, and the probabilities of its classes, (B, *size), float32,
        in [0, 1].
    """
    B, K, h, _ = scores.shape
    height, width = size
    at_once = max(1, piece_size(scores.device) // (B * K * width))
    above, below, weight = (part.to(scores.device) for part in _interpolate_rows(h, height))
    ids = torch.empty((B, height, width), dtype=torch.int64, device=scores.device)
    confidence = torch.empty((B, height, width), device=scores.device)
    for start in range(0, height, at_once):
        if at_once >= height:
            piece = _resize(scores.float(), (height, width))
        else:
            rows = slice(start, min(start + at_once, height))
            low, high = int(above[rows][0]), int(below[rows][-1]) + 1
            widened = _resize(scores[:, :, low:high].float(), (high - low, width))
            upper, lower = widened[:, :, above[rows] - low], widened[:, :, below[rows] - low]
            piece = torch.lerp(upper, lower, weight[rows][:, None])
        best, classes = piece.max(dim=1)
        ids[:, start : start + at_once] = classes
        if not is_probability:
            best = (best - piece.logsumexp(dim=1)).exp_()
        confidence[:, start : start + at_once] = best
    return ids, confidence
