"""Do the distributions of a class have roles of their own, and does the prediction depend on them?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

from ..diagnostics import chance_agreement, divide_probabilities, of_own_class, posterior_entropy, probe
from ..models import labels_on_grid
from ..progress import progress_bar

_NUM_PIXELS = 20_000  # of all images together

AGREEMENT_FIGURES = ("posterior_entropy", "agreement", "chance_agreement")
ROLE_FIGURES = (*AGREEMENT_FIGURES, "probe_gain", "permutation_effect")

LabelledImage = tuple[str, Image.Image, Callable[[Sequence[int]], Tensor]]
"""Name, RGB image, and a function from the size (h, w) of a grid to its classes (h·w,), int64."""


@dataclass
class _Pixels:
    """Labelled pixels of some images.

    Shape:
        - `labels`: (N,), int64.
        - `probabilities`: (N, K), coarse class probabilities.
        - `similarity`: (N, K, M).
        - `ids`: (N,), the most similar distribution of the true class.
        - `ids_in_copy`: (N,), the same in the mirrored and recoloured copy of the image.
        - `is_early`: (N,), bool, whether the pixel is of the first half of the images.
    """

    labels: Tensor
    probabilities: Tensor
    similarity: Tensor
    ids: Tensor
    ids_in_copy: Tensor
    is_early: Tensor


def measure_roles(
    network: Callable[[Image.Image, str], Any], model: nn.Module, images: Sequence[LabelledImage], num_labels: int
) -> dict[str, float | None]:
    """Measure whether the distributions of a class are told apart, and whether it matters.

    Args:
        network (`Callable`): From an image and its name to the model's output, with distributions.
        model (`nn.Module`): The model of `network`, with at least two distributions in a class.
        images (`Sequence` of `LabelledImage`): A few dozen are enough.
        num_labels (`int`): Number of classes K.

    Returns:
        `dict`: the figures of [`measure_agreement`], and two more in [-1, 1]; None where there is nothing to measure.
        `probe_gain`: mean IoU of a linear classifier on class probabilities that are divided among the distributions,
        minus that of one on equally divided ones. Both learn from the first half of the images and are scored on the
        others.
        `permutation_effect`: change of the mean IoU if the distributions of each class vote in each other's place;
        measured where votes depend on the distribution (`voting="posterior"`).
    """
    config = cast(Any, model.config)
    pixels = _gather(network, images, max(_NUM_PIXELS // len(images), 1))
    if not len(pixels.labels):
        return dict.fromkeys(ROLE_FIGURES)
    return {
        **_describe_agreement(pixels, config.voting_temperature),
        "probe_gain": _probe_gain(pixels, config.voting_temperature, num_labels),
        "permutation_effect": _permutation_effect(network, model, images, num_labels),
    }


def measure_agreement(
    network: Callable[[Image.Image, str], Any], images: Sequence[LabelledImage], temperature: float
) -> dict[str, float | None]:
    """Measure how surely a pixel belongs to one distribution of its class.

    Args:
        network (`Callable`): From an image and its name to a model's output, with at least two distributions in a
            class.
        images (`Sequence` of `LabelledImage`): A few are enough.
        temperature (`float`): The temperature of the posterior over the distributions.

    Returns:
        `dict`: figures in [0, 1], or None if no pixel is labelled.
        `posterior_entropy`: of the softmax over the distributions of a pixel's class, divided by log M.
        `agreement`: how often a pixel has the same distribution in a mirrored and recoloured copy of its image.
        `chance_agreement`: how often two pixels of a class have the same.
    """
    pixels = _gather(network, images, max(_NUM_PIXELS // len(images), 1))
    return _describe_agreement(pixels, temperature) if len(pixels.labels) else dict.fromkeys(AGREEMENT_FIGURES)


def _describe_agreement(pixels: _Pixels, temperature: float) -> dict[str, float | None]:
    _, K, M = pixels.similarity.shape
    num_pixels = torch.bincount(pixels.labels * M + pixels.ids, minlength=K * M).view(K, M)
    own = of_own_class(pixels.similarity, pixels.labels)
    return {
        "posterior_entropy": posterior_entropy(own, temperature).item(),
        "agreement": (pixels.ids == pixels.ids_in_copy).float().mean().item(),
        "chance_agreement": chance_agreement(num_pixels).item(),
    }


def labels_on(label: np.ndarray, grid: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Resize labels to a feature grid as in training: (H, W) to (h·w,)."""
    return labels_on_grid(torch.from_numpy(label).to(device)[None], grid).flatten()


@torch.no_grad()
def _gather(network: Callable[[Image.Image, str], Any], images: Sequence[LabelledImage], num_pixels: int) -> _Pixels:
    """Draw up to `num_pixels` labelled grid pixels of each image."""
    generator = torch.Generator().manual_seed(0)
    rows: list[tuple[Tensor, ...]] = []
    for place, (name, image, labels_on) in enumerate(_with_progress(images, "Comparing with mirrored copies")):
        output, copied = network(image, name), network(make_copy(image), name)
        grid = tuple(output.distribution_ids.shape[1:])
        labels = labels_on(grid).to(output.logits.device)
        (labelled,) = ((labels >= 0) & (labels < output.similarity.shape[1])).nonzero(as_tuple=True)
        chosen = labelled[torch.randperm(len(labelled), generator=generator)[:num_pixels].to(labelled.device)]
        mirrored = copied.similarity.unflatten(0, grid).flip(1).flatten(0, 1)
        of_pixel, similarity = labels[chosen], output.similarity[chosen].float()
        rows.append(
            (
                of_pixel,
                output.coarse_logits.float().softmax(dim=1).flatten(2)[0].t()[chosen],
                similarity,
                of_own_class(similarity, of_pixel).argmax(dim=1),
                of_own_class(mirrored[chosen].float(), of_pixel).argmax(dim=1),
                torch.full_like(of_pixel, 2 * place < len(images), dtype=torch.bool),
            )
        )
    return _Pixels(*(torch.cat(column) for column in zip(*rows, strict=True)))


def make_copy(image: Image.Image) -> Image.Image:
    """Mirror an RGB image, and make its colours paler by 0.7 and brighter by 1.2."""
    return ImageEnhance.Brightness(ImageEnhance.Color(ImageOps.mirror(image)).enhance(0.7)).enhance(1.2)


def _probe_gain(pixels: _Pixels, temperature: float, num_labels: int) -> float | None:
    """Gain of a linear classifier by the distributions; None if only one image has pixels."""
    first, second = pixels.is_early, ~pixels.is_early
    if not (first.any() and second.any()):
        return None

    def score(similarity: Tensor) -> float:
        inputs = divide_probabilities(pixels.probabilities, similarity, temperature)
        return probe((inputs[first], pixels.labels[first]), (inputs[second], pixels.labels[second]), num_labels)

    # The comparison has as many inputs of the same size: with fewer, its training alone would differ.
    return score(pixels.similarity) - score(torch.zeros_like(pixels.similarity))


def _permutation_effect(
    network: Callable[[Image.Image, str], Any], model: nn.Module, images: Sequence[LabelledImage], num_labels: int
) -> float | None:
    config = cast(Any, model.config)
    if config.voting != "posterior":
        return None
    M = config.num_distributions
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(M, generator=generator) for _ in range(num_labels)])
    before = _mean_iou(network, _with_progress(images, "Scoring"), num_labels)
    with _permuted_votes(model, order):
        return _mean_iou(network, _with_progress(images, "Scoring permuted votes"), num_labels) - before


@contextmanager
def _permuted_votes(model: nn.Module, order: Tensor) -> Iterator[None]:
    """Let the distributions (K, M) of each class vote in another order."""

    def permute(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        similarity = args[3]
        return (*args[:3], similarity.gather(2, order.to(similarity.device)[None].expand_as(similarity)))

    handle = cast(Any, model).semantic_aggregation.register_forward_pre_hook(permute)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _mean_iou(network: Callable[[Image.Image, str], Any], images: Iterable[LabelledImage], num_labels: int) -> float:
    """Mean IoU on the feature grid."""
    joint = torch.zeros(num_labels, num_labels, dtype=torch.int64)
    for name, image, labels_on in images:
        logits = network(image, name).logits
        labels = labels_on(logits.shape[-2:]).to(logits.device)
        is_used = (labels >= 0) & (labels < num_labels)
        slots = labels[is_used] * num_labels + logits[0].flatten(1).argmax(dim=0)[is_used]
        joint += slots.bincount(minlength=num_labels**2).view(num_labels, num_labels).cpu()
    hits, unions = joint.diagonal(), joint.sum(dim=0) + joint.sum(dim=1) - joint.diagonal()
    return (hits[unions > 0] / unions[unions > 0]).mean().item()


def _with_progress(images: Sequence[LabelledImage], description: str) -> Iterable[LabelledImage]:
    return progress_bar(images, desc=description, unit="image", leave=False)
