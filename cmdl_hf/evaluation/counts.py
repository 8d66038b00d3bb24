"""Counts of pixels in every scored image, in `scores.npz` beside the scores: what a comparison of models resamples."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from ..files import new_file, open_regular
from ..metrics import SegmentationMetrics
from .protocols import Protocol
from .scoring import Prediction

COUNTS_FILE = "scores.npz"
"""The file of the pixel counts, beside the scores of a run."""

_FIELDS = ("ids", "intersections", "unions", "label_pixels")


@dataclass(frozen=True)
class ImageCounts:
    """Pixel counts of every image of a split, and the protocol by which it was scored.

    Args:
        ids (array of N strings): Ids of the images.
        intersections (array (N, K)): Pixels of each class in labels and prediction.
        unions (array (N, K)): Pixels of each class in labels or prediction.
        label_pixels (array (N, K)): Pixels of each class in the labels.
        protocol (`str`): The protocol, as [`describe_protocol`] writes it.
        confusion (array (K, K), *optional*): Pixels of the whole split by label (row) and prediction (column). Files
            of an earlier version have none.
    """

    ids: np.ndarray
    intersections: np.ndarray
    unions: np.ndarray
    label_pixels: np.ndarray
    protocol: str
    confusion: np.ndarray | None = None

    @property
    def stacked(self) -> np.ndarray:
        """Intersections and unions in one array (N, 2, K)."""
        return np.stack([self.intersections, self.unions], axis=1)

    def find_difference(self, other: "ImageCounts") -> str | None:
        """Say why these counts cannot be compared with others, or return None if they can."""
        if self.protocol != other.protocol:
            return f"other protocols: {self.protocol} and {other.protocol}"
        if not np.array_equal(self.ids, other.ids):
            shared = len(set(self.ids.tolist()) & set(other.ids.tolist()))
            return f"other images: {len(self.ids)} and {len(other.ids)}, of which {shared} are the same"
        if not np.array_equal(self.label_pixels, other.label_pixels):
            return "the same images with other labels"
        return None


class ImageCounter:
    """Counts the pixels of every prediction that it is called with.

    Args:
        num_labels (`int`): Number of classes K.
        ignore_index (`int`): Label of void pixels, which are not counted.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255) -> None:
        self._metrics = SegmentationMetrics(num_labels, ignore_index)
        self._ids: list[str] = []
        self._matrices: list[np.ndarray] = []
        self._confusion = np.zeros((num_labels, num_labels), dtype=np.int64)

    def __call__(self, prediction: Prediction) -> None:
        """Count one image."""
        assert prediction.labels is not None
        self._metrics.reset()
        self._metrics.update(prediction.class_ids, prediction.labels)
        matrix = self._metrics.confusion_matrix
        self._confusion += matrix.cpu().numpy()
        sums = [matrix.diagonal(), matrix.sum(dim=0), matrix.sum(dim=1)]
        self._matrices.append(np.stack([each.cpu().numpy() for each in sums]))
        self._ids.append(str(prediction.id))

    def collect(self, protocol: str) -> ImageCounts:
        """Return the counts of all processes in the order of the split. Every process must call this.

        Args:
            protocol (`str`): The protocol, as [`describe_protocol`] writes it.
        """
        shares: list[Any] = [(self._ids, self._matrices, self._confusion)]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            shares = [None] * dist.get_world_size()
            dist.all_gather_object(shares, (self._ids, self._matrices, self._confusion))
        # `predict` deals the images out in turn: 0, 1, 2, ..., 0, 1, 2, ...
        total = sum(len(ids) for ids, *_ in shares)
        images = [(ids[i // len(shares)], counts[i // len(shares)]) for i, (ids, counts, _) in _deal(shares, total)]
        counts = np.array([each for _, each in images], dtype=np.int64).reshape(total, 3, -1)
        correct, in_predictions, in_labels = counts[:, 0], counts[:, 1], counts[:, 2]
        ids = np.array([id_ for id_, _ in images], dtype=np.str_)
        confusion = sum(each for *_, each in shares)
        return ImageCounts(ids, correct, in_predictions + in_labels - correct, in_labels, protocol, confusion)


def _deal(shares: list[Any], total: int) -> list[tuple[int, Any]]:
    return [(index, shares[index % len(shares)]) for index in range(total)]


def describe_protocol(protocol: Protocol, mixed_precision: str) -> str:
    """Describe a protocol for a comparison: equal texts are the same protocol."""
    return f"{protocol}{'' if mixed_precision == 'no' else f', {mixed_precision}'}"


def write_counts(path: Path, splits: Mapping[str, ImageCounts]) -> None:
    """Write the counts of each split, or of each name under which a split was scored, to one npz file."""
    arrays = {
        f"{index}/{field}": getattr(counts, field) for index, counts in enumerate(splits.values()) for field in _FIELDS
    }
    arrays |= {
        f"{index}/confusion": counts.confusion
        for index, counts in enumerate(splits.values())
        if counts.confusion is not None
    }
    header = json.dumps([{"name": name, "protocol": counts.protocol} for name, counts in splits.items()])
    with new_file(path) as unfinished:
        np.savez_compressed(unfinished, header=np.array(header), **arrays)


def read_counts(path: Path) -> dict[str, ImageCounts]:
    """Read what `write_counts` wrote. A missing file gives an empty `dict`.

    Raises:
        ValueError: if the file is damaged or of another kind.
    """
    if not path.is_file():
        return {}
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"]))
            splits = {}
            for index, entry in enumerate(header):
                ids, correct, unions, in_labels = (arrays[f"{index}/{field}"] for field in _FIELDS)
                confusion = arrays.get(f"{index}/confusion")
                counts = ImageCounts(ids, correct, unions, in_labels, str(entry["protocol"]), confusion)
                splits[str(entry["name"])] = _check(counts)
            return splits
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); score the model again with cmdl evaluate") from error


def _check(counts: ImageCounts) -> ImageCounts:
    """Refuse arrays whose shapes do not fit together."""
    shapes = {name: getattr(counts, name).shape for name in _FIELDS}
    K = counts.unions.shape[-1]
    if counts.confusion is not None and counts.confusion.shape != (K, K):
        raise ValueError(f"its confusion matrix has the shape {counts.confusion.shape}, for {K} classes")
    if len({shapes[name] for name in _FIELDS[1:]}) != 1 or shapes["unions"][:1] != shapes["ids"]:
        raise ValueError(f"its arrays have the shapes {shapes}")
    return counts


def add_counts(path: Path, name: str, counts: ImageCounts) -> None:
    """Add the counts of one split to those in a file, and replace those of the same name."""
    write_counts(path, read_counts(path) | {name: counts})
