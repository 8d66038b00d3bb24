"""Scores of a trained network, and what its distributions are good for."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmdl_hf.data import IMAGENET_MEAN, IMAGENET_STD
from cmdl_hf.diagnostics import (
    chance_agreement,
    cosine_within_class,
    divide_probabilities,
    effective_number,
    of_own_class,
    posterior_entropy,
    probe,
)
from cmdl_hf.models import CMDLForSemanticSegmentation, labels_on_grid

VOID = 255
PIXELS_PER_IMAGE = 300


def iterate(split: Any, device: str, batch_size: int = 16) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield indices, pixels in 0..1 and labels of images that have the same size."""
    for size in torch.unique(split.sizes, dim=0).tolist():
        (ids,) = (split.sizes == torch.tensor(size)).all(dim=1).nonzero(as_tuple=True)
        for part in ids.split(batch_size):
            pixels = split.images[part, :, : size[0], : size[1]].to(device).float() / 255
            yield part, pixels, split.labels[part, : size[0], : size[1]].to(device).long()


def normalise(pixels: Tensor) -> Tensor:
    """Normalise colours in 0..1 as the backbone's weights expect."""
    return (pixels - pixels.new_tensor(IMAGENET_MEAN)[:, None, None]) / pixels.new_tensor(IMAGENET_STD)[:, None, None]


@torch.no_grad()
def score(model: CMDLForSemanticSegmentation, split: Any, device: str) -> np.ndarray:
    """Count intersections and unions of every image and class at image size; returns (images, 2, K)."""
    K = model.config.num_labels
    counts = torch.zeros(len(split.images), 2, K, dtype=torch.int64)
    for ids, pixels, labels in iterate(split, device):
        logits = model(pixel_values=normalise(pixels)).logits
        predicted = F.interpolate(logits, labels.shape[-2:], mode="bilinear").argmax(dim=1)
        for i, prediction, label in zip(ids, predicted, labels, strict=True):
            is_used = label != VOID
            joint = torch.bincount(label[is_used] * K + prediction[is_used], minlength=K * K).view(K, K)
            hits = joint.diagonal()
            counts[i] = torch.stack([hits, joint.sum(dim=0) + joint.sum(dim=1) - hits]).cpu()
    return counts.numpy()


def mean_iou(counts: np.ndarray) -> float:
    """Compute the mean IoU of counts (images, 2, K) over the classes that occur."""
    intersections, unions = counts.sum(axis=0)
    return float(np.mean(intersections[unions > 0] / unions[unions > 0]))


@torch.no_grad()
def sample_pixels(model: CMDLForSemanticSegmentation, split: Any, device: str) -> dict[str, Tensor]:
    """Draw grid pixels that have a label: labels, class probabilities, cosines, and the nearest own distribution.

    The latter also in the mirrored and recoloured copy of the image.
    """
    generator = torch.Generator().manual_seed(0)
    parts: dict[str, list[Tensor]] = {"labels": [], "probabilities": [], "similarity": [], "ids": [], "copy_ids": []}
    for _, pixels, labels in iterate(split, device):
        output = model(pixel_values=normalise(pixels), output_distributions=True)
        grid = output.logits.shape[-2:]
        grid_labels = labels_on_grid(labels, grid)
        grey = pixels.mean(dim=1, keepdim=True)
        copies = (1.2 * (grey + 0.7 * (pixels - grey))).clamp(0, 1).flip(-1)
        copied = model(pixel_values=normalise(copies), output_distributions=True).similarity
        copied = copied.unflatten(0, (len(pixels), *grid)).flip(2).flatten(0, 2)
        flat = grid_labels.flatten()
        (used,) = (flat != VOID).nonzero(as_tuple=True)
        order = torch.randperm(len(used), generator=generator)[: PIXELS_PER_IMAGE * len(pixels)].to(device)
        used = used[order]
        probabilities = output.coarse_logits.softmax(dim=1).permute(0, 2, 3, 1).flatten(0, 2)
        own = of_own_class(output.similarity[used], flat[used])
        parts["labels"].append(flat[used])
        parts["probabilities"].append(probabilities[used])
        parts["similarity"].append(output.similarity[used])
        parts["ids"].append(own.argmax(dim=1))
        parts["copy_ids"].append(of_own_class(copied[used], flat[used]).argmax(dim=1))
    return {name: torch.cat(values) for name, values in parts.items()}


def _with_similarity(model: CMDLForSemanticSegmentation, change: Any, splits: list[Any], device: str) -> float:
    """Mean IoU with changed similarities in the votes."""
    handle = model.semantic_aggregation.register_forward_pre_hook(
        lambda _, args: (*args[:3], None if args[3] is None else change(args[3]))
    )
    try:
        return mean_iou(np.concatenate([score(model, split, device) for split in splits]))
    finally:
        handle.remove()


def diagnose(model: CMDLForSemanticSegmentation, splits: dict[str, Any], device: str) -> dict[str, float]:
    """Compute the diagnostics of a network with distributions, on validation and test together."""
    config, prototypes = model.config, model.memory_bank.prototypes
    K, M = config.num_labels, config.num_distributions
    held_out = [splits["val"], splits["test"]]
    if M == 1:
        return {}
    row: dict[str, float] = {}
    samples = [sample_pixels(model, split, device) for split in held_out]
    seen = {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}
    usage = torch.bincount(seen["labels"] * M + seen["ids"], minlength=K * M).view(K, M)
    is_present = usage.sum(dim=1) > 0
    number = effective_number(prototypes, usage)[is_present]
    own = of_own_class(seen["similarity"], seen["labels"])
    row["cosine"] = cosine_within_class(prototypes).mean().item()
    row["effective_number"], row["effective_number_max"] = number.mean().item(), number.max().item()
    row["entropy"] = posterior_entropy(own, config.voting_temperature).item()
    row["agreement"] = (seen["ids"] == seen["copy_ids"]).float().mean().item()
    row["chance_agreement"] = chance_agreement(usage).item()
    training = sample_pixels(model, splits["train"], device)

    def shares(pixels: dict[str, Tensor]) -> Tensor:
        return divide_probabilities(pixels["probabilities"], pixels["similarity"], config.voting_temperature)

    classes = probe((training["probabilities"], training["labels"]), (seen["probabilities"], seen["labels"]), K)
    both = probe((shares(training), training["labels"]), (shares(seen), seen["labels"]), K)
    row["probe_gain"] = both - classes
    if config.voting == "posterior":
        own_iou = mean_iou(np.concatenate([score(model, split, device) for split in held_out]))
        order = torch.stack([torch.randperm(M, generator=torch.Generator().manual_seed(c)) for c in range(K)])
        order = order.to(device)
        permuted = _with_similarity(model, lambda s: s.gather(2, order[None].expand_as(s)), held_out, device)
        uniform = _with_similarity(model, torch.zeros_like, held_out, device)
        row["permuted"], row["uniform"] = permuted - own_iou, uniform - own_iou
    return row
