"""A sheet of training images as the transforms of a recipe leave them."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..data import IMAGENET_MEAN, IMAGENET_STD, TrainingStream, check_benchmark, check_transform, draw_contact_sheet
from ..files import write_image
from ..plugins import import_plugins
from .arguments import CMDLTrainingArguments
from .running import load_training_data
from .transform import make_transform

NUM_IMAGES = 8


def draw_augmented(
    args: CMDLTrainingArguments,
    path: str | Path,
    data_dir: str | Path | None = None,
    id2label: str | Path | None = None,
) -> list[str]:
    """Draw the first eight images that a run of this recipe trains on, each beside its labels.

    The crops are those that the run with this seed reads: cropped, scaled, mirrored, rotated and coloured.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        path (`str` or `Path`): PNG file to write.
        data_dir (`str` or `Path`, *optional*): See `load_data`.
        id2label (`str` or `Path`, *optional*): See `load_data`.

    Returns:
        Ids of the images.

    Raises:
        FileNotFoundError: if there is no data.
        ValueError: if a name in the recipe is unknown, or there are no training images.
    """
    import_plugins(args.plugin)
    check_benchmark(args.benchmark)
    check_transform(args.transform)
    dataset = load_training_data(args, data_dir, id2label)
    stream = TrainingStream(dataset["train"].with_transform(make_transform(args, dataset)), args.seed)
    ids = [stream.sample_id(place) for place in range(NUM_IMAGES)]
    samples = []
    for place, id_ in enumerate(ids):
        sample = stream[place]
        label = Image.fromarray(sample["labels"].to(torch.uint8 if dataset.num_labels < 256 else torch.int32).numpy())
        samples.append((id_, _restore(sample["pixel_values"]), label))
    write_image(Path(path), draw_contact_sheet(samples, dataset.id2label, dataset.palette))
    return ids


def _restore(pixel_values: Tensor) -> Image.Image:
    """Make a picture of normalised pixel values (3, H, W)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (255 * (pixel_values * std + mean)).round().clamp(0, 255)
    return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
