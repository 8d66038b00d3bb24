"""An endless stream of training samples. Every sample depends only on the seed and on its position."""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from .rows import read_row

if TYPE_CHECKING:
    import datasets


class TrainingStream(Dataset):
    """Training samples in an endless stream of epochs. Each epoch has its own random order.

    The sample at a position, with its augmentation, depends only on the seed and on the position. Samples therefore do
    not change if a run is interrupted and continued, or if the number of workers or processes changes.

    Args:
        dataset (`datasets.Dataset`): Data set with its training transform set. The transform must use only random
            numbers of torch.
        seed (`int`): Seed of the orders and of the augmentation.
    """

    def __init__(self, dataset: "datasets.Dataset", seed: int = 0) -> None:
        self.dataset = dataset
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def index(self, place: int) -> int:
        """Return the index in the data set of the sample at a position."""
        epoch, offset = divmod(place, len(self.dataset))
        return int(self._order(epoch)[offset])

    def sample_id(self, place: int) -> str:
        """Return the `id` of the sample at a position, or its index as text."""
        index = self.index(place)
        if "id" not in self.dataset.column_names:
            return str(index)
        return str(self.dataset.with_format(None).select_columns("id")[index]["id"])

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Transform the sample at a position with its own random seed. torch's global generator is not changed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed_of(1, place))
            return read_row(self.dataset, self.index(place))

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _draw_order(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self._seed_of(0, epoch))
        return torch.randperm(len(self.dataset), generator=generator)

    def _seed_of(self, *numbers: int) -> int:
        return int(np.random.SeedSequence([self.seed, *numbers]).generate_state(1, np.uint64)[0] >> 1)


class StreamSampler(Sampler[list[int]]):
    """Endless lists of the stream positions that one process reads, one list for each pass.

    An optimiser step uses `images_per_pass * num_processes * num_passes` consecutive positions.

    Args:
        first_step (`int`): Number of optimiser steps already done.
        images_per_pass (`int`): Samples in one pass of a process.
        num_passes (`int`): Passes of a process in one optimiser step.
        process_index (`int`): Index of this process, below `num_processes`.
        num_processes (`int`): Number of processes that share the stream.
    """

    def __init__(
        self,
        first_step: int,
        images_per_pass: int,
        num_passes: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.first_place = first_step * images_per_pass * num_passes * num_processes
        self.images_per_pass = images_per_pass
        self.process_index = process_index
        self.num_processes = num_processes

    def __iter__(self) -> Iterator[list[int]]:
        stride = self.images_per_pass * self.num_processes
        start = self.first_place + self.images_per_pass * self.process_index
        while True:
            yield list(range(start, start + self.images_per_pass))
            start += stride
