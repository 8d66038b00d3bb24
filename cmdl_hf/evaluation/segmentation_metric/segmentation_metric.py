"""`SegmentationMetrics` with the interface of `evaluate`, without a cache of predictions.

The folder also loads by path, offline: `evaluate.load("cmdl_hf/evaluation/segmentation_metric", num_labels=19)`.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor

from cmdl_hf.metrics import SegmentationMetrics

_DESCRIPTION = "IoU, accuracy and Dice of semantic segmentation, over one streamed confusion matrix."

_INPUTS = """
Args:
    predictions: integer class ids of a batch of images: an array, a tensor, or a list of arrays, tensors or PIL
        images. The images of a list may differ in size.
    references: class ids of the same shapes, with `ignore_index` for void pixels.
"""


class SegmentationMetric(evaluate.Metric):
    """Scores of semantic segmentation as an `evaluate.Metric`.

    Args:
        num_labels (`int`): Number of classes K.
        ignore_index (`int`): Label of void pixels, which are not counted.
        **kwargs: Passed on to `evaluate.Metric`.

    Note:
        `evaluate` stores all predictions in an Arrow file: 1.4 GB of memory for 30 Cityscapes images. This class only
        counts pixels and stores no predictions. `torch.distributed` sums the counts of all processes.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metrics = SegmentationMetrics(num_labels, ignore_index)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def add(self, *, prediction: Any = None, reference: Any = None) -> None:
        """Count the pixels of one image."""
        self.metrics.update(_to_tensor(prediction), _to_tensor(reference))

    def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
        """Count the pixels of a batch, image by image."""
        if predictions is None or references is None or len(predictions) != len(references):
            found = [None if batch is None else len(batch) for batch in (predictions, references)]
            raise ValueError(f"predictions and references must come in pairs, found {found[0]} and {found[1]} of them")
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, float | list[float]]:
        """Score everything that was added, and the pairs given here, then reset the counts."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        scores = self.metrics.compute()
        self.metrics.reset()
        return scores


def _to_tensor(class_ids: Any) -> Tensor:
    """Convert an image of class ids to a tensor. Tensors stay on their device."""
    return class_ids if isinstance(class_ids, Tensor) else torch.from_numpy(np.array(class_ids))
