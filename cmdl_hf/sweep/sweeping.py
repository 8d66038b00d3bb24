"""Train the runs of a sweep, each in a process of its own, several at a time if wanted.

A run has a process of its own even if it is alone: what one run leaves behind, such as memory, plug-ins or a broken
GPU context, must not reach the next, and its time and memory are to be its own.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ..escaping import one_line
from ..files import make_folder, open_to_append
from .planning import PlannedRun

_INTERRUPTED = (130, -signal.SIGTERM)  # exit status of `cmdl train` after a signal, and before it listens to signals
_PAUSE = 0.1  # seconds between two looks at the processes


@dataclass
class Outcome:
    """What became of the runs of a sweep.

    Args:
        finished (`list` of [`PlannedRun`]): Runs that are finished, now or before, in the order of the plan.
        failed (`dict`): For each run that failed, by its name, the last line of its log.
        is_stopped (`bool`): Whether a signal ended the sweep.
    """

    finished: list[PlannedRun] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    is_stopped: bool = False


def sweep(
    runs: Sequence[PlannedRun],
    make_command: Callable[[PlannedRun], Sequence[str]],
    logs: Path,
    jobs: int = 1,
    tell: Callable[[str], object] = lambda _: None,
) -> Outcome:
    """Train the runs that are not finished. SIGTERM and SIGINT stop all of them; they save a checkpoint.

    Args:
        runs (`Sequence` of [`PlannedRun`]): The runs.
        make_command (`Callable`): Returns the command that trains a run, or continues it. Its standard input is a pipe
            that is open as long as the sweep goes on.
        logs (`Path`): Folder for a log of each run.
        jobs (`int`): Runs at a time. They divide the CPU's threads, and share a GPU.
        tell (`Callable`): Takes a line of text whenever a run starts or ends.
    """
    waiting = [run for run in runs if run.state != "finished"]
    if len(waiting) < len(runs):
        tell(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    make_folder(logs)
    running: dict[subprocess.Popen[bytes], tuple[PlannedRun, float]] = {}
    outcome = Outcome()
    with _StopSignals(running) as signals:
        while running or (waiting and not signals.is_stopping):
            while waiting and len(running) < jobs and not signals.is_stopping:
                run = waiting.pop(0)
                tell(f"{'started' if run.state == 'new' else 'continued'} {run.name}, log: {_log_of(run, logs)}")
                running[_start(make_command(run), _log_of(run, logs), jobs)] = run, time.monotonic()
            time.sleep(_PAUSE)
            for process in [each for each in running if each.poll() is not None]:
                run, start = running.pop(process)
                if process.stdin is not None:
                    process.stdin.close()
                seconds = round(time.monotonic() - start)
                is_finished = process.returncode == 0 and run.state == "finished"
                if not is_finished and not (signals.is_stopping and process.returncode in _INTERRUPTED):
                    outcome.failed[run.name] = _last_line(_log_of(run, logs)) or f"exit status {process.returncode}"
                tell(f"{'finished' if is_finished else 'ended'} {run.name} after {seconds // 60}:{seconds % 60:02}")
    outcome.finished = [run for run in runs if run.state == "finished"]
    outcome.is_stopped = signals.is_stopping
    return outcome


def divide_threads(jobs: int) -> int:
    """Return the threads of the CPU for each of several runs at a time."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal():
        return max(1, int(given) // jobs)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // jobs)


def _start(words: Sequence[str], log: Path, jobs: int) -> "subprocess.Popen[bytes]":
    environment = os.environ | ({"OMP_NUM_THREADS": str(divide_threads(jobs))} if jobs > 1 else {})
    with open_to_append(log) as file:
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment)


def _log_of(run: PlannedRun, logs: Path) -> Path:
    return logs / f"{run.name}.log"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((one_line(line, 300) for line in reversed(lines) if line.strip()), "")


class _StopSignals:
    """Context manager that hands SIGTERM and SIGINT on to the runs, and records them. A second SIGINT ends all."""

    is_stopping = False

    def __init__(self, running: "dict[subprocess.Popen[bytes], tuple[PlannedRun, float]]") -> None:
        self._running = running

    def __enter__(self) -> "_StopSignals":
        self._handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is not None:
            for process in self._running:
                process.kill()

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.is_stopping = True
        for process in list(self._running):
            process.terminate()
        if number == signal.SIGINT:
            signal.signal(number, self._handlers[signal.SIGINT])
