"""The endless stream of training samples, a function of the seed and the place in it alone."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class TrainingStream(Dataset):
    """Training samples in an endless stream: epoch after epoch, each in an order of its own.

    What lies at a place depends on the seed and the place only, order and augmentation both. So a run may stop
    anywhere and go on, and workers and processes may be of any number, without a sample changing.

    Args:
        dataset (`datasets.Dataset`): Samples with their training transform set.
        seed (`int`): Of the orders and the transforms; the transform's randomness must be torch's.
    """

    def __init__(self, dataset: datasets.Dataset, seed: int = 0) -> None:
        self.dataset = dataset
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def index(self, place: int) -> int:
        """Which sample of the data set lies at a place."""
        epoch, offset = divmod(place, len(self.dataset))
        return int(self._order(epoch)[offset])

    def sample_id(self, place: int) -> str:
        """Name the sample at a place: its `id`, or its number."""
        index = self.index(place)
        if "id" not in self.dataset.column_names:
            return str(index)
        return str(self.dataset.with_format(None).select_columns("id")[index]["id"])

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Transform the sample at a place with the randomness of that place; the process's own stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed_of(1, place))
            return self.dataset[self.index(place)]

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
    """The places in a stream that one process reads, a list for each of its passes, without end.

    A step takes `images_per_pass * num_processes * num_passes` places in a row.

    Args:
        first_step (`int`): Optimiser steps that lie behind.
        images_per_pass (`int`): Samples that a process takes at once.
        num_passes (`int`): Passes of a process in a step.
        process_index (`int`): This process, below `num_processes`.
        num_processes (`int`): Processes that share the stream.
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
