"""The runs of a sweep: which there are, and how far each is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError

from ..json_files import read_json
from ..training import (
    SHARING,
    CMDLTrainingArguments,
    StartModel,
    check_recipe,
    describe_start,
    describe_training_data,
    find_differences,
    format_value,
    had_validation,
    name_other_data,
    run_name,
)

_OF_DATA = ("benchmark", "use_validation", "validation_fraction", "merge_classes", "class_weights")
"""Settings that change which data a run trains on."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Args:
        name (`str`): Name of its folder.
        flags (`tuple` of strings): Flags of `cmdl train` after the recipe.
        folder (`Path`): Its folder.
    """

    name: str
    flags: tuple[str, ...]
    folder: Path

    @property
    def state(self) -> Literal["finished", "unfinished", "new"]:
        """How far the run is."""
        facts = _read_facts(self.folder)
        return "new" if not facts else "finished" if facts["is_finished"] else "unfinished"


def plan(
    combinations: Sequence[Sequence[str]],
    parse: Callable[[Sequence[str]], CMDLTrainingArguments],
    folder: Path,
    weights: str | Path | None = None,
    start: StartModel | None = None,
) -> list[PlannedRun]:
    """Plan the runs of a sweep, and check each before any is started.

    Args:
        combinations (`Sequence`): Flags of each run.
        parse (`Callable`): Takes flags and returns the settings of the recipe with these flags.
        folder (`Path`): Folder for the folders of the runs.
        weights (`str` or `Path`, *optional*): See `run`.
        start (`StartModel`, *optional*): Trained model that every run starts from.

    Raises:
        FileExistsError: if there is another run in the folder of one of them.
        ValueError: if a value is of the wrong type or out of range, or a network cannot be built.
    """
    base = parse([]) if start is None else start.overwrite(parse([]))
    runs: dict[str, PlannedRun] = {}
    checked: list[dict[str, Any]] = []
    for flags in combinations:
        try:
            args = parse(flags) if start is None else start.fit(parse(flags))
            recipe = args.to_recipe() | {"seed": 0}
            if recipe not in checked:
                check_recipe(args, weights, start)
                checked.append(recipe)
        except (ValueError, StrictDataclassError) as error:
            raise ValueError(f"{error} (in the run with {' '.join(flags)})") from error
        name = run_name(args, base, None if start is None else start.name)
        if name in runs:
            raise ValueError(
                f"--set: {' '.join(flags)} and {' '.join(runs[name].flags)} are the same settings; leave one out"
            )
        runs[name] = PlannedRun(name, tuple(flags), folder / name)
        _check_place(runs[name].folder, args, weights, start)
    return list(runs.values())


def check_finished(
    runs: Sequence[PlannedRun],
    parse: Callable[[Sequence[str]], CMDLTrainingArguments],
    data_dir: str | Path | None,
    id2label: str | Path | None,
) -> None:
    """Refuse to count runs as finished that used other data. Runs that are to be continued check it themselves.

    Args:
        runs (`Sequence` of [`PlannedRun`]): The runs of a sweep. Nothing is read if none of them is finished.
        parse (`Callable`): See `plan`.
        data_dir (`str` or `Path`, *optional*): See `run`.
        id2label (`str` or `Path`, *optional*): See `run`.

    Raises:
        FileExistsError: if a finished run used other images, masks, classes or class weights.
        ValueError, OSError: if the data cannot be read.
    """
    here: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        facts = _read_facts(run.folder)
        there = facts.get("data", {})
        if not there or run.state != "finished":
            continue
        args, has_split = parse(run.flags), had_validation(facts)
        key = (has_split, *(getattr(args, name) for name in _OF_DATA))
        if key not in here:
            here[key] = describe_training_data(args, data_dir, id2label, has_split)
        if what := name_other_data(there, here[key]):
            raise FileExistsError(
                f"{run.folder} holds a finished run on other data ({what}); use the same data, name another folder "
                "with --output-dir, or remove it to train it again"
            )


def _check_place(
    folder: Path, args: CMDLTrainingArguments, weights: str | Path | None, start: StartModel | None
) -> None:
    """Refuse a folder that holds another run, or other files."""
    facts = _read_facts(folder)
    if not facts:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} holds no run; remove it, or name another folder with --output-dir")
        return
    here = args.to_recipe() | {"weights": None if weights is None else Path(weights).name}
    here |= {"model": describe_start(None if start is None else start.facts)}
    # Fields that a later version added are not compared.
    there = here | facts["recipe"] | {"weights": facts.get("weights"), "model": describe_start(facts.get("model"))}
    differences = find_differences(here, there)
    if differences := {name: pair for name, pair in differences.items() if name not in SHARING}:
        changes = ", ".join(
            f"{name} was {format_value(was)} and is now {format_value(now)}"
            for name, (now, was) in differences.items()
        )
        raise FileExistsError(
            f"{folder} holds a run of another recipe ({changes}); name another folder with --output-dir, or remove it"
        )


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read `run.json` of a run; empty if there is none."""
    facts = read_json(folder / "run.json", f"remove {folder}")
    return facts if "recipe" in facts and "is_finished" in facts else {}
