"""The command `cmdl sweep`."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.exceptions import CycloptsError

from ..escaping import one_line
from ..training import CMDLTrainingArguments, find_recipe
from .compare import show
from .options import INTERRUPTED, Plugins
from .train import find_plugins, load_start, parse_recipe
from .usage import explain_usage

if TYPE_CHECKING:
    from ..sweep import Outcome, PlannedRun


def sweep(
    recipe: str,
    /,
    *,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", show_default=False)] = (),
    seeds: str = "0",
    jobs: int = 1,
    dry_run: bool = False,
    output_dir: Path | None = None,
    data_dir: Path | None = None,
    id2label: Path | None = None,
    weights: str | None = None,
    model: str | None = None,
    plugin: Plugins = (),
) -> None:
    """Train every combination of settings and seeds as a run of its own, and compare the runs.

    Repeat the same command to continue a sweep that was interrupted: finished runs are kept, and others continue from
    their newest checkpoint. Runs that fail do not stop the others; they are listed at the end, with exit status 1.
    Choose settings by their validation scores: --set test_split=false leaves the test split alone.

    Args:
        recipe: Name of a recipe of this package, such as camvid, or a YAML file.
        settings: A key of a recipe and its values, such as learning_rate=0.01,0.02 or
            model_options.num_distributions=1,9 or crop_size=[96,128],[64,64]. Repeat the option for several keys.
        seeds: Seeds with commas between, such as 0,1,2.
        jobs: Runs at a time. They share one GPU, or divide the threads of the CPU. Each needs its own memory.
        dry_run: List the runs, and how far each is, and train nothing.
        output_dir: Folder for the folders of the runs, their logs, comparison.md and comparison.png. Default: a folder
            in outputs/, named after the recipe.
        data_dir: Folder of the data set, as for cmdl train.
        id2label: File with the class names of your own data, as for cmdl train.
        weights: Weights of the backbone, as for cmdl train.
        model: Trained CMDL model that every run starts from, as for cmdl train.
    """
    from ..sweep import combine, parse_seeds, parse_settings, plan
    from ..sweep import sweep as train_all

    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, found {jobs}")
    folder = output_dir or Path("outputs") / f"{find_recipe(recipe).stem}-sweep"
    shared = [word for name in plugin for word in ("--plugin", name)]
    combinations = combine(parse_settings(settings), parse_seeds(seeds))
    parse = partial(_parse, recipe, shared)
    start = None if model is None else load_start(model, parse([]))
    runs = plan(combinations, parse, folder, weights, start)
    _check_finished(runs, parse, data_dir, id2label)
    if dry_run:
        print("\n".join(f"{run.state:<11}{run.name}" for run in runs))
        print(f"{len(runs)} runs in {folder}")
        return
    options = {"--data-dir": data_dir, "--id2label": id2label, "--weights": weights, "--model": model}
    shared += [word for flag, value in options.items() if value is not None for word in (flag, str(value))]

    def make_command(run: "PlannedRun") -> list[str]:
        train = [sys.executable, "-m", "cmdl_hf.sweep", "train", recipe]
        return [*train, *run.flags, "--output-dir", str(run.folder), *shared]

    outcome = train_all(runs, make_command, folder / "logs", jobs, lambda line: print(one_line(line), flush=True))
    _end(outcome, folder)


def _check_finished(
    runs: Sequence["PlannedRun"],
    parse: Callable[[Sequence[str]], CMDLTrainingArguments],
    data_dir: Path | None,
    id2label: Path | None,
) -> None:
    """Refuse to count runs as finished that used other data."""
    from ..sweep import check_finished

    if finished := [run for run in runs if run.state == "finished"]:
        print(f"checking that the data of {len(finished)} finished runs are the same", file=sys.stderr, flush=True)
        check_finished(finished, parse, data_dir, id2label)


def _end(outcome: "Outcome", folder: Path) -> None:
    """List the runs that failed, compare the others, and exit."""
    for name, reason in outcome.failed.items():
        print(one_line(f"failed: {name}: {reason}"), file=sys.stderr)
    if outcome.is_stopped:
        print("stopped by a signal; repeat the same command to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if outcome.finished:
        show([run.folder for run in outcome.finished], folder)
    sys.exit(1 if outcome.failed else 0)


def _parse(recipe: str, shared: Sequence[str], flags: Sequence[str]) -> CMDLTrainingArguments:
    """Read the recipe with the flags of a run."""
    try:
        return find_plugins(parse_recipe([recipe, *flags, *shared]), recipe)
    except CycloptsError as error:
        raise ValueError(explain_usage(error)) from error
