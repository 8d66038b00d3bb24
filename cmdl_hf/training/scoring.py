"""Scores of a run's model on the splits of its data set, with the pixel counts of every image."""

from typing import Any

from accelerate import Accelerator
from torch import nn

from ..data import EvalTransform, SegmentationDataset
from ..evaluation import ImageCounter, ImageCounts, Protocol, describe_protocol, evaluate
from .arguments import CMDLTrainingArguments


def has_labels(dataset: SegmentationDataset, split: str) -> bool:
    """Return whether a data set has a split, and its labels are public."""
    return split in dataset and dataset[split][0]["label"] is not None


def score(
    model: nn.Module, dataset: SegmentationDataset, split: str, args: CMDLTrainingArguments, accelerator: Accelerator
) -> tuple[dict[str, Any], ImageCounts]:
    """Score a model on a split: whole images in the recipe's size, in the precision of the training.

    Args:
        model (`nn.Module`): The segmenter.
        dataset (`SegmentationDataset`): The data set of the run.
        split (`str`): `"validation"` or `"test"`.
        args (`CMDLTrainingArguments`): The recipe.
        accelerator (`Accelerator`): Accelerator of the run. Every process must call this function.

    Returns:
        The scores, as `evaluate` returns them, and the pixel counts of every image.
    """
    counter = ImageCounter(dataset.num_labels)
    with accelerator.autocast():
        scores = evaluate(
            model,
            dataset[split],
            EvalTransform(args.resize),
            dataset.num_labels,
            num_workers=args.num_workers,
            description=f"Scoring {split}",
            on_prediction=counter,
        )
    protocol = Protocol("whole", args.resize)
    return scores, counter.collect(describe_protocol(protocol, accelerator.mixed_precision))
