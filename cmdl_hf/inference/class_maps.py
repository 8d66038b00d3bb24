"""Class maps at image size from scores on the feature grid. The scores never exist at image size as a whole.

Scores of 150 classes for an image of 100 megapixels take 60 GB, the class map 0.1 GB. So the scores are enlarged, and
reduced to classes, in pieces of rows.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_PIECE = {"cpu": 2**20}  # values: 4 MiB stay in a CPU's cache
_LARGE_PIECE = 2**26  # 256 MiB, so that an accelerator has few kernels to start


class _Rows(NamedTuple):
    """For every row of an enlarged image: the two rows that it lies between, and the weight of the second."""

    above: Tensor
    below: Tensor
    weight: Tensor


@torch.no_grad()
def class_map(logits: Tensor, size: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
    """Enlarge scores to an image's size and take the class with the largest score, in pieces.

    The result is that of transformers' `post_process_semantic_segmentation`: bilinear, align_corners=False.

    Args:
        logits (`Tensor` of shape (B, K, h, w)): Scores on the feature grid, or already at the image's size.
        size (`Sequence[int]`): Height and width of the class map.
        dtype (`torch.dtype`): Of the class map, such as `ids_dtype(K)`.

    Returns:
        `Tensor` of shape (B, *size).
    """
    ids = torch.empty((logits.shape[0], *size), dtype=dtype, device=logits.device)
    for start, end, scores in _enlarge_in_pieces(logits, size):
        ids[:, start:end] = _largest(scores)
    return ids


@torch.no_grad()
def class_map_with_confidence(
    scores: Tensor, size: Sequence[int], is_probability: bool = False, dtype: torch.dtype = torch.int64
) -> tuple[Tensor, Tensor]:
    """Enlarge scores to an image's size, and take the class with the largest score and its probability, in pieces.

    Args:
        scores (`Tensor` of shape (B, K, h, w)): Logits or probabilities, on the feature grid or at the image's size.
        size (`Sequence[int]`): Height and width of the maps.
        is_probability (`bool`): Whether the scores are probabilities already. Otherwise the softmax is taken after
            the enlargement.
        dtype (`torch.dtype`): Of the class map.

    Returns:
        The class map of [`class_map`], (B, *size), and the probabilities of its classes, (B, *size), float32, in
        [0, 1].
    """
    ids = torch.empty((scores.shape[0], *size), dtype=dtype, device=scores.device)
    confidence = torch.empty(ids.shape, device=scores.device)
    for start, end, piece in _enlarge_in_pieces(scores, size):
        confidence[:, start:end], ids[:, start:end] = (
            piece.max(dim=1) if is_probability else largest_probability(piece)
        )
    return ids, confidence


def largest_probability(scores: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Return the softmax of the largest score along a dimension, and its index."""
    best, ids = scores.max(dim=dim, keepdim=True)
    return 1 / (scores - best).exp_().sum(dim=dim), ids.squeeze(dim)


def ids_dtype(num_labels: int) -> torch.dtype:
    """Return a small dtype that holds the ids of K classes."""
    return torch.uint8 if num_labels <= 256 else torch.int32


def distribution_map(nearest: Tensor, ids: Tensor) -> Tensor:
    """Look up the distribution of every pixel of a class map, in the cell of the grid in which the pixel lies.

    Args:
        nearest (`Tensor` of shape (h, w, K), integer): In each cell, the distribution of every class that is nearest:
            the arg-max over M of the similarity (h, w, K, M).
        ids (`Tensor` of shape (H, W), integer): The class map.

    Returns:
        `Tensor` of shape (H, W), of the dtype of `nearest`.
    """
    rows, columns = (
        nearest_cells(*lengths).to(ids.device) for lengths in zip(nearest.shape[:2], ids.shape, strict=True)
    )
    found = torch.empty(ids.shape, dtype=nearest.dtype, device=ids.device)
    at_once = max(1, piece_size(ids.device) // ids.shape[1])
    for start in range(0, ids.shape[0], at_once):
        piece = slice(start, start + at_once)
        found[piece] = nearest[rows[piece, None], columns, ids[piece].long()]
    return found


def nearest_cells(length: int, size: int) -> Tensor:
    """For each of `size` pixels, return the cell, of `length`, in which its centre lies; integer arithmetic."""
    return (2 * torch.arange(size) + 1) * length // (2 * size)


class GrowingClassMap:
    """A class map whose scores arrive in rows, from top to bottom, and are resized on the way.

    Args:
        source_size (`Sequence[int]`): Height and width of the scores.
        size (`Sequence[int]`): Height and width of the class map.
    """

    def __init__(self, source_size: Sequence[int], size: Sequence[int]) -> None:
        self._is_resized = tuple(source_size) != tuple(size)
        self._rows = _interpolate_rows(source_size[0], size[0])
        self._size = size
        self._source_height = source_size[0]
        self._done = 0  # rows of the class map
        self._ids: list[Tensor] = []
        self._first = 0  # row of the scores with which the held ones begin
        self._held: Tensor | None = None

    @torch.no_grad()
    def add(self, scores: Tensor) -> None:
        """Add the next rows of the scores, (B, K, rows, W)."""
        if not self._is_resized:
            self._ids.append(_largest(scores))
            return
        held = scores if self._held is None else torch.cat([self._held, scores], dim=2)
        end = self._first + held.shape[2]
        ready = int((self._rows.below < end).sum())
        if end == self._source_height:
            ready = self._size[0]
        at_once = max(1, piece_size(held.device) // (held.shape[0] * held.shape[1] * self._size[1]))
        for start in range(self._done, ready, at_once):
            stop = min(start + at_once, ready)
            scores = _scores_between(held, self._rows, start, stop, self._size[1], self._first)
            self._ids.append(_largest(scores))
        self._done = ready
        needed = int(self._rows.above[ready]) if ready < self._size[0] else end
        needed = min(max(needed, self._first), end)
        self._held = held[:, :, needed - self._first :].clone()  # a view would keep all rows
        self._first = needed

    def finish(self) -> Tensor:
        """Return the class map, (B, *size)."""
        return torch.cat(self._ids, dim=1)


def piece_size(device: torch.device) -> int:
    """Return how many values a piece may have on a device."""
    return _PIECE.get(device.type, _LARGE_PIECE)


def _enlarge_in_pieces(logits: Tensor, size: Sequence[int]) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the enlarged scores in pieces: their first row, the row after their last one, (B, K, rows, width)."""
    B, K, h, _ = logits.shape
    height, width = size
    rows_at_once = max(1, piece_size(logits.device) // (B * K * width))
    if rows_at_once >= height:
        yield 0, height, _resize(logits.float(), (height, width))
        return
    rows = _interpolate_rows(h, height)
    for start in range(0, height, rows_at_once):
        end = min(start + rows_at_once, height)
        yield start, end, _scores_between(logits, rows, start, end, width)


def _scores_between(logits: Tensor, rows: _Rows, start: int, end: int, width: int, first: int = 0) -> Tensor:
    """Return the scores (B, K, end - start, width) of some rows; `first` is the row with which the logits begin."""
    above, below, weight = (part[start:end] for part in rows)
    low, high = int(above[0]), int(below[-1]) + 1
    widened = _resize(logits[:, :, low - first : high - first].float(), (high - low, width))
    above, below, weight = (part.to(logits.device) for part in (above - low, below - low, weight[:, None]))
    return torch.lerp(widened[:, :, above], widened[:, :, below], weight)


def _interpolate_rows(length: int, size: int) -> _Rows:
    """Return the rows that `F.interpolate` mixes, and how, when it resizes `length` rows to `size`."""
    places = ((torch.arange(size, dtype=torch.float32) + 0.5) * (length / size) - 0.5).clamp(min=0)
    above = places.long().clamp(max=length - 1)
    return _Rows(above, (above + 1).clamp(max=length - 1), places - above)


def _resize(scores: Tensor, size: tuple[int, int]) -> Tensor:
    if scores.shape[-2:] == size:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def _largest(scores: Tensor) -> Tensor:
    """Return the arg-max over the classes. `max` finds it on a CPU up to four times as fast as `argmax`."""
    return scores.max(dim=1).indices
