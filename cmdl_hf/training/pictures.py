"""Pictures of what a run's model predicts: one figure in its folder, and two small pictures for trackers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ..data import EvalTransform, SegmentationDataset
from ..inference import segment_whole_images
from ..models import CMDLForSemanticSegmentation
from ..visualization import draw_prediction, overlay
from .arguments import CMDLTrainingArguments
from .scoring import has_labels

_PANEL = (480, 360)  # largest width and height of an image in a tracker's picture, in pixels
_CAPTION = 18  # height of the line above an image, in pixels
_GAP = 6


@torch.no_grad()
def draw_example(
    model: CMDLForSemanticSegmentation, dataset: SegmentationDataset, args: CMDLTrainingArguments, path: Path
) -> None:
    """Draw the prediction and the distributions of the first image of the validation, test or train split.

    Args:
        model (`CMDLForSemanticSegmentation`): The model, in eval mode.
        dataset (`SegmentationDataset`): The data set of the run.
        args (`CMDLTrainingArguments`): The recipe.
        path (`Path`): PNG file to write.
    """
    split = next((name for name in ("validation", "test") if has_labels(dataset, name)), "train")
    sample = dataset[split][0]
    pixel_values, class_ids = _predict(model, sample, args)
    distribution_ids = None
    if args.use_distributions:
        distribution_ids = model(pixel_values, output_distributions=True).distribution_ids[0]
    draw_prediction(
        sample["image"].convert("RGB"),
        sample["label"],
        class_ids,
        distribution_ids,
        dataset.id2label,
        dataset.palette,
        path,
        num_distributions=model.config.num_distributions,
    )


@torch.no_grad()
def paint_validation(model: nn.Module, dataset: SegmentationDataset, args: CMDLTrainingArguments) -> list[np.ndarray]:
    """Paint the first and the middle image of the validation split, each beside its labels and its prediction.

    Args:
        model (`nn.Module`): The model, in any mode.
        dataset (`SegmentationDataset`): The data set of the run, with labels in its validation split.
        args (`CMDLTrainingArguments`): The recipe.

    Returns:
        Pictures (height, width, 3) of 8 bits; two, or one if the split has one image.
    """
    rows = dataset["validation"]
    was_training = model.training
    model.eval()
    try:
        pictures = [_paint(model, rows[index], dataset, args) for index in sorted({0, len(rows) // 2})]
    finally:
        model.train(was_training)
    return pictures


def _paint(
    model: nn.Module,
    sample: Mapping[str, Any],
    dataset: SegmentationDataset,
    args: CMDLTrainingArguments,
) -> np.ndarray:
    image = sample["image"].convert("RGB")
    _, class_ids = _predict(model, sample, args)
    panels = {
        "image": image,
        "labels": overlay(image, sample["label"], dataset.palette),
        "prediction": overlay(image, class_ids, dataset.palette),
    }
    scale = min(_PANEL[0] / image.width, _PANEL[1] / image.height, 1.0)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    picture = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, _CAPTION + height), "white")
    for place, (name, panel) in enumerate(panels.items()):
        left = place * (width + _GAP)
        ImageDraw.Draw(picture).text((left, 3), name, fill="black")
        picture.paste(panel.resize((width, height), Image.Resampling.BILINEAR), (left, _CAPTION))
    return np.asarray(picture)


def _predict(model: nn.Module, sample: Mapping[str, Any], args: CMDLTrainingArguments) -> tuple[Tensor, Tensor]:
    """Segment one image at its original size; return its pixel values (1, 3, H, W), too."""
    columns = {name: [value] for name, value in sample.items()}
    device = next(model.parameters()).device
    pixel_values = EvalTransform(args.resize)(columns)["pixel_values"][0][None].to(device)
    size = sample["image"].height, sample["image"].width
    return pixel_values, segment_whole_images(model, pixel_values, size)[0]
