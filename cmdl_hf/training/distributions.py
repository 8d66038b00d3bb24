"""What an evaluation logs of the distributions: how different they are, and how surely a pixel belongs to one."""

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..data import EvalTransform, SegmentationDataset, read_row, spread_indices
from ..diagnostics import cosine_within_class, effective_number
from ..explore import labels_on, measure_agreement
from ..models import CMDLMemoryBank
from .arguments import CMDLTrainingArguments

_NUM_COMPARED = 8  # images


def describe_bank(bank: CMDLMemoryBank) -> dict[str, float]:
    """Count dead and duplicate distributions, and measure how different those of a class are: means over the classes.

    Args:
        bank (`CMDLMemoryBank`): The memory bank.

    Returns:
        `dict`: `dead_distributions`, `duplicate_distributions`, `distinct_distributions` and `cosine_within_class`, as
        `cmdl_hf.diagnostics` has them.
    """
    return {
        "dead_distributions": int(bank.find_dead().sum()),
        "duplicate_distributions": int(bank.find_duplicates().sum()),
        "distinct_distributions": float(effective_number(bank.prototypes).mean()),
        "cosine_within_class": float(cosine_within_class(bank.prototypes).mean()),
    }


def compare_validation(
    model: nn.Module, dataset: SegmentationDataset, args: CMDLTrainingArguments
) -> dict[str, float]:
    """Compare a few validation images with mirrored and recoloured copies, see [`measure_agreement`].

    Args:
        model (`nn.Module`): The model, in any mode.
        dataset (`SegmentationDataset`): The data set of the run, with labels in its validation split.
        args (`CMDLTrainingArguments`): The recipe.

    Returns:
        `dict`: `posterior_entropy`, `agreement` and `chance_agreement`. Nothing if a class has one distribution, or no
        pixel of the images is labelled.
    """
    config: Any = model.config
    if config.num_distributions == 1:
        return {}
    rows, transform, device = dataset["validation"], EvalTransform(args.resize), next(model.parameters()).device

    @torch.no_grad()
    def segment(image: Image.Image, _: str) -> Any:
        (pixel_values,) = transform({"image": [image], "label": [None]})["pixel_values"]
        return model(pixel_values[None].to(device), output_distributions=True)

    def read(place: int) -> tuple[str, Image.Image, Any]:
        row = read_row(rows, place)
        return row["id"], row["image"].convert("RGB"), partial(labels_on, np.array(row["label"]))

    places = spread_indices(len(rows), _NUM_COMPARED)
    was_training = model.training
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):  # a translation for eight images would take longer than they do
            found = measure_agreement(segment, [read(place) for place in places], config.voting_temperature)
    finally:
        model.train(was_training)
    return {name: value for name, value in found.items() if value is not None}
