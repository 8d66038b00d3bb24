"""Finished runs, read from their folders, and groups of runs that differ only in the seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation import COUNTS_FILE, ImageCounts, read_counts
from ..json_files import read_json, read_json_lines
from ..training import CMDLTrainingArguments, describe_start, find_differences, flatten, format_value

_RESTORE = "restore the file, or leave the run out"
_ORDER = ("validation", "test")


@dataclass(frozen=True)
class ScoredRun:
    """A finished run.

    Args:
        name (`str`): Name of its folder.
        recipe (`dict`): Its recipe, and what else makes its training another: the weights and the training images.
        classes (`tuple` of K strings): Names of the classes.
        scores (`dict`): Scores of the best model, by the name of the split, as `evaluate` returns them.
        counts (`dict`): Pixel counts of every image, by the name of the split.
        training_loss (`float`): Segmentation loss over the last quarter of the training.
        seconds (`float`): Time of the training, without scoring.
        memory_gib (`float`): Highest memory in use during the training.
    """

    name: str
    recipe: dict[str, Any]
    classes: tuple[str, ...]
    scores: dict[str, dict[str, Any]]
    counts: dict[str, ImageCounts]
    training_loss: float
    seconds: float
    memory_gib: float

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.recipe["seed"])

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that all seeds of a recipe share."""
        return {name: value for name, value in self.recipe.items() if name != "seed"}


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ only in the seed.

    Args:
        name (`str`): What the recipe has that the other groups' recipes have not: `learning_rate=0.01`.
        runs (`tuple` of [`ScoredRun`]): The runs, by seed.
    """

    name: str
    runs: tuple[ScoredRun, ...]


def read_run(folder: str | Path) -> ScoredRun:
    """Read a finished run of `cmdl train`.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if the run is unfinished, was scored before there were counts, or a file cannot be read.
    """
    folder = Path(folder)
    facts = read_json(folder / "run.json", _RESTORE)
    if "recipe" not in facts:
        what = "has no run.json" if folder.is_dir() else "is no folder"
        raise FileNotFoundError(f"{folder} {what}: it is no run; name output folders of cmdl train")
    if not facts.get("is_finished"):
        raise ValueError(
            f"{folder} holds an unfinished run (step {facts.get('steps', 0)} of {facts.get('max_steps', '?')}); "
            "repeat the command that started it, or leave it out"
        )
    counts = read_counts(folder / COUNTS_FILE)
    if not counts:
        raise ValueError(
            f"{folder} has no {COUNTS_FILE}, the pixel counts of every image; score it with "
            f"cmdl evaluate {folder} --benchmark {facts['recipe'].get('benchmark')} --update-card"
        )
    scores = read_json(folder / "scores.json", _RESTORE)
    if not scores:
        raise ValueError(f"{folder} has no scores in scores.json; {_RESTORE}")
    names = [name for name in (*_ORDER, *counts) if name in counts and name in scores]
    data = facts.get("data", {})
    digests = data.get("contents") or data.get("splits") or {}  # of an earlier version those of the names
    extra = {"weights": facts.get("weights"), "training_images": digests.get("train")}
    extra |= {"model": describe_start(facts.get("model"))}
    return ScoredRun(
        folder.resolve().name,
        CMDLTrainingArguments().to_recipe() | facts["recipe"] | extra,
        tuple(map(str, data.get("classes", ()))),
        {name: _with_nan(scores[name]) for name in dict.fromkeys(names)},
        {name: counts[name] for name in dict.fromkeys(names)},
        average_training_loss(folder),
        float(facts.get("seconds", math.nan)),
        max((row["memory_gib"] for row in _read_rows(folder) if "memory_gib" in row), default=math.nan),
    )


def average_training_loss(folder: str | Path) -> float:
    """Average the segmentation loss over the last quarter of a run's training; nan if there are no rows."""
    rows = [row for row in _read_rows(Path(folder)) if row.get("segmentation_loss") is not None]
    late = [row["segmentation_loss"] for row in rows if row["step"] > 0.75 * rows[-1]["step"]]
    return statistics.fmean(late) if late else math.nan


def group_runs(runs: Sequence[ScoredRun]) -> list[Group]:
    """Group runs that differ only in the seed, in the order in which the groups are first met.

    Raises:
        ValueError: if two runs have one recipe and one seed: they would make the spread over seeds too small.
    """
    groups: list[list[ScoredRun]] = []
    for run in runs:
        own = next((each for each in groups if not find_differences(run.settings, each[0].settings)), None)
        if own is None:
            groups.append([run])
            continue
        if twin := next((each for each in own if each.seed == run.seed), None):
            raise ValueError(f"{twin.name} and {run.name} are one recipe with one seed, {run.seed}; leave one out")
        own.append(run)
    names = _name([group[0] for group in groups])
    return [
        Group(name, tuple(sorted(group, key=lambda run: run.seed))) for name, group in zip(names, groups, strict=True)
    ]


def _name(firsts: Sequence[ScoredRun]) -> list[str]:
    """Name each group after the settings that are not the same in all groups."""
    differing: dict[str, None] = {}
    for run in firsts[1:]:
        differing |= dict.fromkeys(find_differences(run.settings, firsts[0].settings))
    if not differing:
        return [run.name.removesuffix(f"-seed{run.seed}") for run in firsts]
    settings = [flatten(run.settings) for run in firsts]
    return [
        ", ".join(f"{name.rpartition('.')[2]}={format_value(each.get(name, 'default'))}" for name in differing)
        for each in settings
    ]


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    return read_json_lines(folder / "metrics.jsonl", _RESTORE)


def _with_nan(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Put nan, which JSON has not, for null."""

    def convert(value: Any) -> Any:
        return [convert(each) for each in value] if isinstance(value, list) else math.nan if value is None else value

    return {name: convert(value) for name, value in scores.items()}
