"""Processes of a launcher, and data-loading workers that do not stop before their process does."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from multiprocessing.sharedctypes import RawValue
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch.utils.data import Dataset, default_collate

from .plugins import import_plugins, imported_plugins


def start_processes() -> PartialState:
    """Join the processes that a launcher started. Without an accelerator, they use the CPU."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


@cache
def stop_flag() -> Any:
    """Return the flag whose `value` is set from a signal to stop until the end of this process."""
    return RawValue("b", False)  # without a lock, because a signal handler could wait for it forever


class ReportingDataset(Dataset):
    """Returns the error of a sample in its place: raised in a worker, its message would be the worker's traceback.

    Args:
        dataset (`Any`): Has `__getitem__` and, unless samples are drawn by a sampler, `__len__`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return a sample, or the error with which it cannot be read."""
        try:
            return self.dataset[index]
        except (ValueError, OSError) as error:
            return error


def collate_reported(samples: list[Any]) -> Any:
    """Make a batch of samples of `ReportingDataset`, or return the first error among them."""
    return next((sample for sample in samples if isinstance(sample, Exception)), None) or default_collate(samples)


def raise_reported(batch: Any) -> Any:
    """Return a sample or a batch of `ReportingDataset`, or raise the error that it is."""
    if isinstance(batch, Exception):
        raise batch
    return batch


def worker_init() -> Callable[[int], None]:
    """Make the `worker_init_fn` of a `DataLoader`.

    Launchers send signals to whole groups of processes. If a worker stopped at once, its process could not finish the
    current step and write a checkpoint. A worker also imports the plug-ins of its process.
    """
    return partial(_start, stop_flag(), imported_plugins())


def _start(flag: Any, plugins: Sequence[str], _: int) -> None:
    import_plugins(plugins)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, partial(_on_termination, flag))


def _on_termination(flag: Any, *_: object) -> None:
    for _attempt in range(20):  # the process may receive the signal a moment later
        if flag.value:
            return
        time.sleep(0.1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the process has ended without this flag, so the worker ends, too
    os.kill(os.getpid(), signal.SIGTERM)
