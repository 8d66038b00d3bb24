"""Predict and score the images of a data set, at the original size of the labels."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import datasets
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import EvalTransform, read_row
from ..inference import MODEL_ERRORS, SegmentImages, explain_failure, find_device, segment_whole_images
from ..metrics import SegmentationMetrics
from ..processes import ReportingDataset, raise_reported, worker_init
from ..progress import progress_bar

SegmentConfidently: TypeAlias = Callable[[nn.Module, Tensor, Sequence[int]], tuple[Tensor, Tensor | None]]
"""A function from a model, pixel values (B, channels, H, W) and a size to class ids and their probabilities."""


class Prediction(NamedTuple):
    """The prediction for one image of a data set. `labels` is `None` if they are not public.

    `confidence` holds the probabilities of the classes if the protocol gives them.
    """

    id: str | None
    class_ids: Tensor  # (H, W)
    labels: Tensor | None  # (H, W)
    confidence: Tensor | None = None  # (H, W)


def evaluate(
    model: nn.Module,
    dataset: datasets.Dataset,
    transform: EvalTransform,
    num_labels: int,
    ignore_index: int = 255,
    num_workers: int = 0,
    description: str = "Evaluating",
    segment_images: SegmentImages | SegmentConfidently = segment_whole_images,
    metrics: SegmentationMetrics | None = None,
    on_prediction: Callable[[Prediction], object] | None = None,
) -> dict[str, Any]:
    """Score a semantic segmenter at the original size of the labels, image by image.

    In a process group, each process scores a share of the images, and every image counts once. Every process must call
    this function.

    Args:
        model (`nn.Module`): The segmenter. It is set to eval mode during the call.
        dataset (`datasets.Dataset`): Data set with the columns `image` and `label`.
        transform (`EvalTransform`): Transform from images to pixel values.
        num_labels (`int`): Number of classes K.
        ignore_index (`int`): Label of void pixels.
        num_workers (`int`): Processes that read images.
        description (`str`): Text in front of the progress bar.
        segment_images (`Callable`): The protocol. By default, whole images. It may return class ids alone, or a pair
            of them and their probabilities.
        metrics (`SegmentationMetrics`, *optional*): Counter to use, if you also need the counts.
        on_prediction (`Callable`, *optional*): Called with every [`Prediction`] of this process.

    Returns:
        `dict`: result of `SegmentationMetrics.compute`, in [0, 1].

    Raises:
        ValueError: if labels are missing.
    """
    metrics = SegmentationMetrics(num_labels, ignore_index) if metrics is None else metrics
    for prediction in predict(model, dataset, transform, segment_images, num_workers, description):
        if prediction.labels is None:
            raise ValueError(
                f"labels are needed to score, found none in sample {prediction.id}; choose a split with public labels"
            )
        metrics.update(prediction.class_ids, prediction.labels)
        if on_prediction is not None:
            on_prediction(prediction)
    return metrics.compute()


def predict(
    model: nn.Module,
    dataset: datasets.Dataset,
    transform: EvalTransform,
    segment_images: SegmentImages | SegmentConfidently = segment_whole_images,
    num_workers: int = 0,
    description: str = "Segmenting",
) -> Iterator[Prediction]:
    """Segment the images of a data set at their original size. In a process group, each process takes a share.

    The arguments are those of [`evaluate`].

    Yields:
        [`Prediction`], on the device of the model.

    Raises:
        MemoryError: if an image does not fit into memory.
        ValueError: if the model does not accept an image of this size.
    """
    if dist.is_available() and dist.is_initialized():
        dataset = dataset.select(range(dist.get_rank(), len(dataset), dist.get_world_size()))
    device = find_device(model)
    was_training = model.training
    model.eval()
    loader = DataLoader(
        ReportingDataset(_Rows(dataset.with_transform(_TransformWithSize(transform)))),
        batch_size=None,
        num_workers=num_workers,
        worker_init_fn=worker_init(),
        generator=torch.Generator(),  # scoring must not use random numbers of a training
    )
    try:
        for sample in map(raise_reported, progress_bar(loader, desc=description, unit="image", leave=False)):
            try:
                found = segment_images(model, sample["pixel_values"][None].to(device), sample["size"])
            except MODEL_ERRORS as error:
                height, width = sample["pixel_values"].shape[-2:]
                image = f"image {sample['id']} of {height} × {width} pixels"
                cure = "resize images to a smaller size, or use windows (protocol slide)"
                raise explain_failure(error, image, "score", cure) from error
            class_ids, confidence = found if isinstance(found, tuple) else (found, None)
            sure = None if confidence is None else confidence[0]
            yield Prediction(sample["id"], class_ids[0], sample.get("labels"), sure)
    finally:
        model.train(was_training)


class _Rows:
    """The rows of a split; a file that cannot be decoded is named."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return read_row(self.rows, index)


class _TransformWithSize:
    """Adds the id and the original image size to the samples of a transform."""

    def __init__(self, transform: EvalTransform) -> None:
        self.transform = transform

    def __call__(self, samples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        images = samples["image"]
        ids = samples.get("id", [None] * len(images))
        sizes = [(image.height, image.width) for image in images]
        return self.transform(samples) | {"id": ids, "size": sizes}
