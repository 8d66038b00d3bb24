"""Processes that a launcher started, and data loading workers that outlast a signal to stop."""

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

from .plugins import import_plugins, imported_plugins


def start_processes() -> PartialState:
    """Join the processes that a launcher started; on a machine without an accelerator they use the CPU."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


@cache
def stop_flag() -> Any:
    """Return the flag whose `value` is set while this process has been told to stop, and still has to finish."""
    return RawValue("b", False)  # without a lock, on which a signal handler could wait for ever


def worker_init() -> Callable[[int], None]:
    """Make the `worker_init_fn` of a `DataLoader`.

    Launchers send signals to whole groups of processes. A worker that obeyed at once would take from its process the
    step it is in, and the checkpoint it is about to write. It imports the plug-ins that its process has imported.
    """
    return partial(_start, stop_flag(), imported_plugins())


def _start(flag: Any, plugins: Sequence[str], _: int) -> None:
    import_plugins(plugins)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, partial(_on_termination, flag))


def _on_termination(flag: Any, *_: object) -> None:
    for _attempt in range(20):  # the process may hear of it a moment later
        if flag.value:
            return
        time.sleep(0.1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it does not stop, but has ended: so do its workers
    os.kill(os.getpid(), signal.SIGTERM)
