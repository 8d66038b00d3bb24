"""Scores of a model on a data set, the way papers measure them."""

from typing import Any

import datasets
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from .data.transforms import EvalTransform
from .inference import whole_image_logits
from .metrics import SegmentationMetrics
from .progress import progress_bar


def evaluate(
    model: nn.Module,
    dataset: datasets.Dataset,
    transform: EvalTransform,
    num_labels: int,
    ignore_index: int = 255,
    num_workers: int = 0,
    description: str = "Evaluating",
) -> dict[str, Any]:
    """Score a semantic segmenter at the original size of the labels, image by image.

    In a process group each process scores its share of the images, all count once, and every process must call this.

    Args:
        model (`nn.Module`): The segmenter; it is put into eval mode, and back as it was.
        dataset (`datasets.Dataset`): With the columns `image` and `label`.
        transform (`EvalTransform`): How images become pixel values.
        num_labels (`int`): Number of classes K.
        ignore_index (`int`): Label of void pixels.
        num_workers (`int`): Processes that read images.
        description (`str`): Text before the progress bar.

    Returns:
        `dict`: what `SegmentationMetrics.compute` returns, in [0, 1].
    """
    metrics = SegmentationMetrics(num_labels, ignore_index)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    if dist.is_available() and dist.is_initialized():
        dataset = dataset.select(range(dist.get_rank(), len(dataset), dist.get_world_size()))
    loader = DataLoader(
        dataset.with_transform(transform),
        batch_size=1,
        num_workers=num_workers,
        generator=torch.Generator(),  # scoring in the middle of a training draws no number of the training's
    )
    for batch in progress_bar(loader, desc=description, unit="image", leave=False):
        labels = batch["labels"].to(device)
        logits = whole_image_logits(model, batch["pixel_values"].to(device), labels.shape[-2:])
        metrics.update(logits.argmax(dim=1), labels)
    model.train(was_training)
    return metrics.compute()
