"""Class maps at image size from scores on the feature grid. The scores never exist at image size as a whole.

Scores of 150 classes for an image of 100 megapixels take 60 GB, the class map 0.8 GB. So the scores are enlarged, and
reduced to classes, in pieces of rows.
"""

from collections.abc import Sequence
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
def class_map(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge scores to an image's size and take the class with the largest score, in pieces.

    The result is that of transformers' `post_process_semantic_segmentation`: bilinear, align_corners=False.

    Args:
        logits (`Tensor` of shape (B, K, h, w)): Scores on the feature grid, or already at the image's size.
        size (`Sequence[int]`): Height and width of the class map.

    Returns:
        `Tensor` of shape (B, *size), int64.
    """
    B, K, h, _ = logits.shape
    height, width = size
    rows_at_once = piece_size(logits.device) // (B * K * width)
    if rows_at_once >= height:
        return _largest(_resize(logits.float(), (height, width)))
    rows = _interpolate_rows(h, height)
    ids = torch.empty((B, height, width), dtype=torch.int64, device=logits.device)
    for start in range(0, height, max(rows_at_once, 1)):
        end = min(start + max(rows_at_once, 1), height)
        ids[:, start:end] = _classes_between(logits, rows, start, end, width)
    return ids


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
            self._ids.append(_classes_between(held, self._rows, start, stop, self._size[1], self._first))
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


def _classes_between(logits: Tensor, rows: _Rows, start: int, end: int, width: int, first: int = 0) -> Tensor:
    """Return the classes (B, end - start, width) of some rows; `first` is the row with which the logits begin."""
    above, below, weight = (part[start:end] for part in rows)
    low, high = int(above[0]), int(below[-1]) + 1
    widened = _resize(logits[:, :, low - first : high - first].float(), (high - low, width))
    above, below, weight = (part.to(logits.device) for part in (above - low, below - low, weight[:, None]))
    return _largest(torch.lerp(widened[:, :, above], widened[:, :, below], weight))


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
