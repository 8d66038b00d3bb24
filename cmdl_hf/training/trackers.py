"""Trackers of a run: groups of curves, IoU of every class, two pictures, and one name for the run in all of them."""

import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker

from ..escaping import MAX_NAME, one_line
from ..files import write_text

PROJECT = "cmdl_hf"
_WITH_PICTURES = {"tensorboard", "wandb", "trackio"}
_GROUPS = {
    "validation_": "validation",
    "dead_": "distributions",
    "duplicate_": "distributions",
    "distinct_": "distributions",
    "cosine_within_": "distributions",
    "posterior_entropy": "distributions",
    "agreement": "distributions",
    "chance_agreement": "distributions",
    "class_margin_": "loss",
}


class Trackers:
    """The trackers of accelerate that a recipe names. Every process must make them; only the first one logs.

    In all of them, the run has the name of its folder, also after an interruption.

    Args:
        accelerator (`Accelerator`): Accelerator of the run.
        folder (`Path`): Folder of the run.
        step (`int`): Step from which the run starts or continues.
        settings (`Mapping`): The recipe.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, step: int, settings: Mapping[str, Any]) -> None:
        self._accelerator = accelerator
        name = folder.resolve().name
        options: dict[str, dict[str, Any]] = {}
        names = [str(each) for each in accelerator.log_with]
        if "wandb" in names and accelerator.is_main_process:
            place = Path(accelerator.logging_dir)
            options["wandb"] = {"name": name, "id": _read_id(place), "resume": "allow", "dir": str(place)}
        options["trackio"] = {"name": name, "resume": "allow"}
        # accelerate would name TensorBoard's run after the project. TensorBoard itself names it after its folder, so
        # that `tensorboard --logdir outputs` shows NAME/runs. What is purged, an interrupted run has logged.
        purge = {"purge_step": step + 1} if step else {}
        accelerator.log_with = [
            TensorBoardTracker(".", accelerator.logging_dir, **purge) if str(each) == "tensorboard" else each
            for each in accelerator.log_with
        ]
        accelerator.init_trackers(PROJECT, init_kwargs=options)
        self._log_settings({key: _plain(value) for key, value in settings.items()})

    @property
    def take_pictures(self) -> bool:
        """Whether a tracker of this process shows pictures."""
        return self._accelerator.is_main_process and any(each.name in _WITH_PICTURES for each in self._each())

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Log a row of metrics, each in its group: `loss/segmentation`, `validation/mean_iou`."""
        values = {group_name(name): value for name, value in row.items() if name != "step" and not math.isnan(value)}
        self._accelerator.log(values, step=step)

    def log_classes(self, ious: Mapping[str, float], step: int) -> None:
        """Log the IoU of every class that occurs, in the group `validation_iou`."""
        names = {name: one_line(name, MAX_NAME).replace("/", "-") for name in ious}
        values = {f"validation_iou/{names[name]}": iou for name, iou in ious.items() if not math.isnan(iou)}
        self._accelerator.log(values, step=step)

    def log_pictures(self, pictures: Sequence[np.ndarray], step: int) -> None:
        """Show pictures (height, width, 3) in the trackers that can."""
        for tracker in self._each():
            for index, picture in enumerate(pictures, start=1):
                name = f"validation_pictures/{index}"
                if tracker.name == "tensorboard":
                    tracker.log_images({name: picture[None]}, step=step, dataformats="NHWC")
                elif tracker.name == "wandb":
                    tracker.log_images({name: [picture]}, step=step)
                elif tracker.name == "trackio":
                    import trackio

                    tracker.log({name: trackio.Image(picture)}, step=step)

    def finish(self) -> None:
        """Finish all trackers."""
        for tracker in self._each():
            tracker.finish()

    def _each(self) -> list[GeneralTracker]:
        return list(self._accelerator.trackers)

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        for tracker in self._each():
            if tracker.name != "tensorboard":
                tracker.store_init_configuration(dict(settings))
            elif self._accelerator.is_main_process:
                # accelerate would make another run of the settings, named after the time.
                tracker.writer.add_hparams(dict(settings), {}, run_name=".")


def group_name(name: str) -> str:
    """Name a column of `metrics.jsonl` for trackers, which group curves by what stands before the slash."""
    if name == "loss":
        return "loss/total"
    if name.endswith("_loss"):
        return f"loss/{name.removesuffix('_loss')}"
    prefix = next((each for each in _GROUPS if name.startswith(each)), None)
    if prefix is None:
        return f"training/{name}"
    return f"{_GROUPS[prefix]}/{name.removeprefix('validation_').removesuffix('_distributions')}"


def _read_id(folder: Path) -> str:
    """Read the id by which wandb knows the run, or make one."""
    file = folder / "wandb_id.txt"
    if not file.is_file():
        write_text(file, secrets.token_hex(4))
    return file.read_text().strip()


def _plain(value: Any) -> bool | int | float | str:
    """Convert a setting to a type that every tracker accepts."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
