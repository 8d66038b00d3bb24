"""Class maps of images far larger than a window: overlapping windows, blended by smooth weights, in little memory.

The scores of a window stay on the feature grid until they are needed. The blended scores exist for a few rows of
pixels at a time, and the scores of the windows for as many rows of windows as overlap.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .class_maps import ids_dtype, largest_probability, nearest_cells

_PIECE = {"cpu": 2**22}  # values of blended scores at a time: 16 MiB
_LARGE_PIECE = 2**26


class WindowScores(NamedTuple):
    """What a model finds in one window."""

    logits: Tensor  # (K, h, w), float32
    best_similarity: Tensor | None = None  # (h, w), float32: to any distribution
    nearest: Tensor | None = None  # (h, w, K), integer: the distribution of each class that is nearest

    def transposed(self) -> "WindowScores":
        """Swap rows and columns."""
        similarity, nearest = self.best_similarity, self.nearest
        return WindowScores(
            self.logits.mT,
            None if similarity is None else similarity.mT,
            None if nearest is None else nearest.transpose(0, 1),
        )


@dataclass(frozen=True)
class Maps:
    """What is known of every pixel of an image, on the CPU."""

    ids: np.ndarray  # (H, W), uint8, or uint16 for more than 256 classes
    confidence: np.ndarray | None = None  # (H, W), float32
    distribution_ids: np.ndarray | None = None  # (H, W), integer
    outliers: np.ndarray | None = None  # (H, W), float32


class Axis:
    """The windows along one edge of an image. They lie evenly, and overlap by half or more.

    A pixel's weight in a window falls as a squared sine from the centre to the edges. The weights of a pixel sum to 1.

    Args:
        length (`int`): Pixels of the edge.
        window (`int`): Pixels of a window; a shorter edge has one window of its own length.
    """

    def __init__(self, length: int, window: int) -> None:
        self.length, self.extent = length, min(window, length)
        last = length - self.extent
        steps = math.ceil(last / max(1, self.extent // 2))
        self.starts = [round(last * step / steps) for step in range(steps)] + [last]
        places = (torch.arange(self.extent, dtype=torch.float64) + 0.5) / self.extent
        shape = (math.pi * places).sin().square()
        weights = torch.zeros(length, dtype=torch.float64)
        largest = torch.zeros(length, dtype=torch.float64)
        owners = torch.zeros(length, dtype=torch.int64)
        for index, start in enumerate(self.starts):
            piece = slice(start, start + self.extent)
            weights[piece] += shape
            owners[piece] = torch.where(shape > largest[piece], index, owners[piece])
            largest[piece] = torch.maximum(shape, largest[piece])
        self._weights = [(shape / weights[start : start + self.extent]).float() for start in self.starts]
        bounds = torch.searchsorted(owners, torch.arange(len(self.starts) + 1)).tolist()
        self.owned = [slice(*pair) for pair in pairwise(bounds)]
        """The pixels that lie nearest to the centre of each window."""

    def spread(self, index: int, grid: int, part: slice = slice(None)) -> Tensor:
        """Make the matrix (pixels, grid) that enlarges scores on a grid to pixels of a window, times their weights.

        Args:
            index (`int`): The window.
            grid (`int`): Cells of its scores.
            part (`slice`): The pixels of the window.
        """
        weights = self._weights[index][part]
        places = (torch.arange(self.extent)[part] + 0.5) * (grid / self.extent) - 0.5
        places = places.clamp(0, grid - 1)
        above = places.long()
        share = places - above
        matrix = torch.zeros(len(places), grid)
        pixels = torch.arange(len(places))
        matrix[pixels, above] = weights * (1 - share)
        matrix[pixels, (above + 1).clamp(max=grid - 1)] += weights * share
        return matrix


class BlendedWindows:
    """Blends the scores of the windows of an image.

    Args:
        size (`Sequence[int]`): Height and width of the image.
        window (`Sequence[int]`): Height and width of a window.

    Note:
        Windows come row by row, or in a wide image column by column: what is held grows with the shorter edge alone.
    """

    def __init__(self, size: Sequence[int], window: Sequence[int]) -> None:
        self.size = (size[0], size[1])
        axes = [Axis(*lengths) for lengths in zip(size, window, strict=True)]
        self._is_wide = size[1] > size[0]
        self._along, self._across = reversed(axes) if self._is_wide else axes

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self._along.starts) * len(self._across.starts)

    def rows(self) -> Iterator[list[tuple[slice, slice]]]:
        """Yield the windows row by row: the pixels of each, down and across."""
        for start in self._along.starts:
            along = slice(start, start + self._along.extent)
            across = [slice(first, first + self._across.extent) for first in self._across.starts]
            yield [(other, along) if self._is_wide else (along, other) for other in across]

    @torch.no_grad()
    def blend(self, rows: Iterator[list[WindowScores]], with_confidence: bool) -> Maps:
        """Blend the scores of all windows.

        Args:
            rows (`Iterator`): The scores of the windows, row by row as `rows` yields them.
            with_confidence (`bool`): Whether to find the probability of each pixel's class.
        """
        held: dict[int, list[WindowScores]] = {}
        maps: _Unfinished | None = None
        done = 0
        for index, row in enumerate(rows):
            held[index] = [scores.transposed() for scores in row] if self._is_wide else row
            if maps is None:
                maps = _Unfinished(self.size, self._is_wide, row[0], with_confidence)
            is_last = index + 1 == len(self._along.starts)
            final = self._along.length if is_last else self._along.starts[index + 1]
            at_once = max(1, maps.piece // (maps.num_labels * self._across.length))
            for start in range(done, final, at_once):
                self._blend_between(start, min(start + at_once, final), held, maps)
            done = final
            for other in [other for other in held if self._along.starts[other] + self._along.extent <= done]:
                del held[other]
        assert maps is not None
        return maps.finish()

    def _blend_between(self, start: int, end: int, held: dict[int, list[WindowScores]], maps: "_Unfinished") -> None:
        """Find the maps of the rows from `start` to before `end`, to which the held windows contribute."""
        along, across = self._along, self._across
        sums = maps.zeros(end - start, across.length)
        for index, row in held.items():
            top = along.starts[index]
            first, last = max(start, top), min(end, top + along.extent)
            if first >= last:
                continue
            down = along.spread(index, row[0].logits.shape[1], slice(first - top, last - top)).to(sums.device)
            for other, (scores, left) in enumerate(zip(row, across.starts, strict=True)):
                values = scores.logits
                if scores.best_similarity is not None:
                    values = torch.cat([values, scores.best_similarity[None]])
                right = maps.spread_across(across, other)
                sums[:, first - start : last - start, left : left + across.extent] += down @ values @ right
        ids = maps.write(start, end, sums)
        if maps.distribution_ids is not None:
            self._look_up(start, end, held, ids, maps.distribution_ids)

    def _look_up(self, start: int, end: int, held: dict[int, list[WindowScores]], ids: Tensor, found: Tensor) -> None:
        """Find the distributions of some rows: each pixel's in the window whose centre is the nearest."""
        along, across = self._along, self._across
        for index, row in held.items():
            rows = slice(max(start, along.owned[index].start), min(end, along.owned[index].stop))
            if rows.start >= rows.stop:
                continue
            for scores, columns, left in zip(row, across.owned, across.starts, strict=True):
                nearest = scores.nearest
                assert nearest is not None
                down = nearest_cells(nearest.shape[0], along.extent).to(nearest.device)
                right = nearest_cells(nearest.shape[1], across.extent).to(nearest.device)
                top = along.starts[index]
                down, right = (
                    down[rows.start - top : rows.stop - top],
                    right[columns.start - left : columns.stop - left],
                )
                own = ids[rows.start - start : rows.stop - start, columns]
                found[rows, columns] = nearest[down[:, None], right, own].cpu()


class _Unfinished:
    """The maps of an image while their rows are found; in a wide image the rows are its columns."""

    def __init__(self, size: tuple[int, int], is_wide: bool, scores: WindowScores, with_confidence: bool) -> None:
        self._is_wide = is_wide
        self.num_labels = len(scores.logits)
        self._device, self._spreads = scores.logits.device, dict[int, Tensor]()
        self._grid = scores.logits.shape[1 if is_wide else 2]
        self.piece = _PIECE.get(scores.logits.device.type, _LARGE_PIECE)
        self._ids = self._empty(size, ids_dtype(self.num_labels))
        self._confidence = self._empty(size, torch.float32) if with_confidence else None
        self._outliers = None if scores.best_similarity is None else self._empty(size, torch.float32)
        self.distribution_ids = None if scores.nearest is None else self._empty(size, scores.nearest.dtype)

    def _empty(self, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return self._upright(torch.empty(size, dtype=dtype))

    def zeros(self, num_rows: int, length: int) -> Tensor:
        """Return zeros (K, rows, length) to sum scores in; the similarity is one class more."""
        return torch.zeros(self.num_labels + (self._outliers is not None), num_rows, length, device=self._device)

    def spread_across(self, axis: Axis, index: int) -> Tensor:
        """Return the matrix (grid, pixels) that enlarges the columns of a window."""
        if index not in self._spreads:
            self._spreads[index] = axis.spread(index, self._grid).T.to(self._device)
        return self._spreads[index]

    def write(self, start: int, end: int, sums: Tensor) -> Tensor:
        """Write the classes, their probabilities and the outliers of some rows; return the class ids, int64."""
        scores = sums[: self.num_labels]
        if self._confidence is None:
            ids = scores.max(dim=0).indices
        else:
            confidence, ids = largest_probability(scores, dim=0)
            self._confidence[start:end] = confidence.cpu()
        self._ids[start:end] = ids.cpu()
        if self._outliers is not None:
            self._outliers[start:end] = (1 - sums[-1]).cpu()
        return ids

    def finish(self) -> Maps:
        others = (self._confidence, self.distribution_ids, self._outliers)
        return to_arrays(self._upright(self._ids), *(None if each is None else self._upright(each) for each in others))

    def _upright(self, values: Tensor) -> Tensor:
        return values.mT if self._is_wide else values


def to_arrays(
    ids: Tensor,
    confidence: Tensor | None = None,
    distribution_ids: Tensor | None = None,
    outliers: Tensor | None = None,
) -> Maps:
    """Convert maps to arrays on the CPU; class ids are unsigned."""
    array = ids.cpu().numpy()
    array = array if array.dtype == np.uint8 else array.astype(np.uint16)
    others = (None if values is None else values.cpu().numpy() for values in (confidence, distribution_ids, outliers))
    return Maps(array, *others)
