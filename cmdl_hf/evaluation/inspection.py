"""What a person should look at after an evaluation: the worst images, and labels that may be wrong."""

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from .regions import find_regions
from .scoring import Prediction

LEAST_CONFIDENCE = 0.95
"""Probability from which a disagreement of the model with a label counts."""

LEAST_SHARE = 0.001
"""Share of an image's pixels that a region of such a disagreement has at least."""

_MOST_IMAGES = 8
_MOST_LABELS = 100


@dataclass(frozen=True)
class WorstImage:
    """An image with many wrong pixels.

    Args:
        id (`str`): Id of the image.
        accuracy (`float`): Share of its labelled pixels that are predicted correctly.
        labels (array (H, W)): True classes, or the label of void pixels.
        class_ids (array (H, W)): Predicted classes.
    """

    id: str
    accuracy: float
    labels: np.ndarray
    class_ids: np.ndarray


@dataclass(frozen=True)
class DoubtfulLabel:
    """A region in which the model is confident of another class than the label's.

    Args:
        id (`str`): Id of the image.
        box (`tuple[int, int, int, int]`): Left, top, right and bottom; right and bottom lie outside.
        label (`int`): Class in the label.
        predicted (`int`): Predicted class.
        area (`int`): Number of pixels.
        confidence (`float`): Mean probability of the predicted class.
        mask (array (bottom - top, right - left), bool): The pixels in the box.
    """

    id: str
    box: tuple[int, int, int, int]
    label: int
    predicted: int
    area: int
    confidence: float
    mask: np.ndarray

    @property
    def weight(self) -> float:
        """By which doubtful labels are ranked: area times confidence."""
        return self.area * self.confidence


@dataclass
class Findings:
    """What an evaluation found.

    Args:
        worst_images (`list`): The images with the smallest share of correct pixels, the worst first.
        doubtful_labels (`list`): The regions with the largest area times confidence, the largest first.
        num_doubtful (`int`): Number of all such regions.
        num_without_confidence (`int`): Number of images too large to find their confidence, and so doubtful labels.
    """

    worst_images: list[WorstImage] = field(default_factory=list)
    doubtful_labels: list[DoubtfulLabel] = field(default_factory=list)
    num_doubtful: int = 0
    num_without_confidence: int = 0


class Inspector:
    """Looks at every prediction that it is called with, and keeps only the worst ones.

    Args:
        num_labels (`int`): Number of classes K.
        ignore_index (`int`): Label of void pixels.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255) -> None:
        self._num_labels, self._ignore_index = num_labels, ignore_index
        self._images: list[tuple[float, int, WorstImage]] = []  # heaps, with the least interesting one on top
        self._labels: list[tuple[float, int, DoubtfulLabel]] = []
        self._count = itertools.count()
        self._num_doubtful = self._num_without_confidence = 0

    def __call__(self, prediction: Prediction) -> None:
        """Look at one image."""
        assert prediction.labels is not None
        small = np.uint8 if max(self._num_labels, self._ignore_index) < 256 else np.int32
        labels = prediction.labels.cpu().numpy().astype(small)
        class_ids = prediction.class_ids.cpu().numpy().astype(small)
        is_labelled = labels != self._ignore_index
        is_wrong = is_labelled & (labels != class_ids)
        if is_labelled.any():
            accuracy = 1 - float(is_wrong.sum() / is_labelled.sum())
            self._keep(
                self._images, -accuracy, WorstImage(str(prediction.id), accuracy, labels, class_ids), _MOST_IMAGES
            )
        if prediction.confidence is None:
            self._num_without_confidence += 1
            return
        for found in self._find_doubtful(str(prediction.id), labels, class_ids, is_wrong, prediction.confidence):
            self._num_doubtful += 1
            self._keep(self._labels, found.weight, found, _MOST_LABELS)

    def collect(self) -> Findings:
        """Return the findings of all processes. Every process must call this."""
        images, labels = _in_order(self._images), _in_order(self._labels)
        own = Findings(images, labels, self._num_doubtful, self._num_without_confidence)
        shares: list[Any] = [own]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            shares = [None] * dist.get_world_size()
            dist.all_gather_object(shares, own)
        worst = sorted((each for share in shares for each in share.worst_images), key=lambda each: each.accuracy)
        doubtful = sorted((each for share in shares for each in share.doubtful_labels), key=lambda each: -each.weight)
        num_doubtful = sum(share.num_doubtful for share in shares)
        num_left_out = sum(share.num_without_confidence for share in shares)
        return Findings(worst[:_MOST_IMAGES], doubtful[:_MOST_LABELS], num_doubtful, num_left_out)

    def _find_doubtful(
        self, id_: str, labels: np.ndarray, class_ids: np.ndarray, is_wrong: np.ndarray, confidence: torch.Tensor
    ) -> list[DoubtfulLabel]:
        sure = confidence.float().cpu().numpy()
        is_doubtful = is_wrong & (sure >= LEAST_CONFIDENCE)
        K = self._num_labels
        pairs = np.where(is_doubtful, labels.astype(np.int64) * K + class_ids, -1)
        return [
            DoubtfulLabel(id_, each.box, *divmod(each.value, K), each.area, each.weight / each.area, each.mask)
            for each in find_regions(pairs, sure, round(LEAST_SHARE * labels.size))
        ]

    def _keep(self, heap: list[Any], weight: float, found: Any, most: int) -> None:
        entry = (weight, -next(self._count), found)  # of equal ones the first is kept
        if len(heap) < most:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)


def _in_order(heap: list[Any]) -> list[Any]:
    """Return what a heap holds, the largest weight first; of equal ones, in the order of their arrival."""
    return [found for _, _, found in sorted(heap, key=lambda entry: entry[:2], reverse=True)]
