"""Progress of a run: rows of metrics, curves, trackers, and one readable line."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from ..extras import install_command, list_extras
from ..files import append_text, write_text
from ..json_files import read_json_lines, without_nan
from .curves import draw_curves
from .trackers import Trackers

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"


class TrainingLog:
    """Writes the rows of a run to `metrics.jsonl`, to a picture of curves, and to accelerate's trackers.

    Only the main process writes.

    Attributes:
        trackers ([`Trackers`]): The trackers, which also take pictures and the IoU of every class.

    Args:
        folder (`Path`): Folder of the run.
        accelerator (`Accelerator`): Accelerator of the run.
        step (`int`): Step from which the run starts or continues. Rows of later steps are deleted.
        settings (`Mapping`): The recipe, which trackers show.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, step: int, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.accelerator = accelerator
        if accelerator.is_main_process:
            kept = [row for row in read_json_lines(folder / METRICS_FILE) if row["step"] <= step]
            write_text(folder / METRICS_FILE, "".join(f"{json.dumps(row)}\n" for row in kept))
        self.trackers = Trackers(accelerator, folder, step, settings)

    def write(self, row: Mapping[str, float]) -> None:
        """Add a row of metrics at the step `row["step"]`."""
        if self.accelerator.is_main_process:
            append_text(self.folder / METRICS_FILE, json.dumps(without_nan(row)) + "\n")
        self.trackers.log(row, int(row["step"]))

    def is_evaluated(self, step: int) -> bool:
        """Return whether there is an evaluation row for a step. Evaluation rows have no loss."""
        return any(row["step"] == step and "loss" not in row for row in read_json_lines(self.folder / METRICS_FILE))

    def draw(self) -> None:
        """Draw all rows so far."""
        if self.accelerator.is_main_process:
            draw_curves(read_json_lines(self.folder / METRICS_FILE), self.folder / CURVES_FILE)

    def close(self) -> None:
        """Finish all trackers."""
        self.trackers.finish()


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that accelerate would silently ignore."""
    known = [tracker.value for tracker in LoggerType if tracker != LoggerType.ALL]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"report_to: there is no tracker {unknown[0]!r}; the trackers are {', '.join(known)}")
    available = [tracker.value for tracker in get_available_trackers()]
    if missing := [name for name in names if name not in available]:
        command = install_command(missing[0]) if missing[0] in list_extras() else f"pip install {missing[0]}"
        raise ImportError(f"report_to: {missing[0]} is not installed; install it with {command}")


def describe(row: Mapping[str, float]) -> str:
    """Format a row of training as one line: losses by name, learning rate, speed, memory."""
    parts = [
        f"{name.removesuffix('_loss').replace('_', ' ')} {value:.3f}"
        for name, value in row.items()
        if name.endswith("_loss") or name == "class_margin_reference"
    ]
    return (
        f"loss {row['loss']:.3f} ({', '.join(parts)}), lr {row['learning_rate']:.2g}, "
        f"{row['images_per_second']:.1f} images/s, {row['memory_gib']:.1f} GiB"
    )


def memory_in_use() -> float:
    """Return memory in GiB: peak use of the accelerator, or on a CPU the present use of the process."""
    if torch.accelerator.is_available() and PartialState().device.type != "cpu":
        return torch.accelerator.max_memory_allocated() / 2**30
    return psutil.Process().memory_info().rss / 2**30
