"""The commands `cmdl train` and `cmdl demo`."""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict
from cyclopts.exceptions import CycloptsError

from .. import training
from ..plugins import import_plugins
from ..training import CMDLTrainingArguments, find_recipe, run_name
from ..yaml_files import read_yaml
from .options import INTERRUPTED, logging_to_terminal
from .usage import refuse_fractions

if TYPE_CHECKING:
    from ..training import StartModel

_DEFAULTS = CMDLTrainingArguments()
_NOTHING_TO_TRAIN_ON = (
    "a recipe or a data set is missing; type cmdl train synthetic (generated scenes, minutes on a CPU), cmdl train "
    "own_small --data-dir FOLDER --id2label FILE (your own data) or another recipe of cmdl train --list, or add "
    f"--benchmark NAME for the default settings, {_DEFAULTS.max_steps:,} steps"
)
_NO_FIELDS = ("output_dir", "data_dir", "id2label", "weights", "model", "push_to_hub", "private", "list")


def train(
    recipe: str | None = None,
    /,
    *,
    output_dir: Path | None = None,
    data_dir: Path | None = None,
    id2label: Path | None = None,
    weights: Path | None = None,
    model: str | None = None,
    push_to_hub: str | None = None,
    private: bool | None = None,
    list_recipes: Annotated[bool, Parameter(name="--list", negative=())] = False,
    args: Annotated[CMDLTrainingArguments, Parameter(name="*")] = _DEFAULTS,
) -> None:
    """Train a model from a recipe, and save the best model as a folder that from_pretrained loads.

    An interrupted run exits with status 130. Repeat the same command to continue it. To use several processes, replace
    cmdl train with accelerate launch -m cmdl_hf.training.

    Args:
        recipe: Name of a recipe of this package, such as camvid, or a YAML file. A YAML file can set any of the
            options below, for example crop_size: [512, 512]. Flags override the recipe.
        output_dir: Folder for models, metrics, curves, scores and checkpoints. It must be new, empty, or the folder
            of the same run after an interruption. Default: a folder in outputs/, named after the data set, the
            framework, the backbone, the flags that differ from the recipe, and the seed.
        data_dir: Folder of the data set. For own data, a folder of images and masks in a usual shape, such as images/
            and masks/, or a file that lists image and mask pairs.
        id2label: File with the class names of your own data: .txt, .json or .csv.
        weights: safetensors file with timm's weights of the backbone, or "timm" to download them. Without it, the
            backbone starts from scratch.
        model: Folder or Hub name of a trained CMDL model to start from. Its network and its size of images are kept.
            Its classifiers and its memory bank are kept if your data have the same classes, and begin anew otherwise.
        push_to_hub: ORG/NAME on the Hub. The best and the last model are pushed there with a model card, after each
            evaluation and at the end.
        private: Whether the repository that --push-to-hub creates is private. Default: the setting of ORG.
        list_recipes: List the recipes of this package and exit.
    """
    if list_recipes:
        print(_format_recipes())
        return
    if recipe is not None:
        args = find_plugins(args, recipe)
    base = None if recipe is None else parse_recipe([recipe])
    with logging_to_terminal():
        start = None if model is None else load_start(model, args)
        if start is not None:
            args, base = start.fit(args), start.overwrite(base or CMDLTrainingArguments())
        output_dir = output_dir or Path("outputs") / run_name(args, base, None if start is None else start.name)
        scores = training.run(args, output_dir, data_dir, id2label, weights, push_to_hub, private, model=start)
    _end(scores, output_dir)


def _end(scores: Mapping[str, Any] | None, output_dir: Path) -> None:
    """Print the results of a run, and exit if a signal ended it."""
    from accelerate import PartialState

    processes = PartialState()
    if scores is not None and processes.is_main_process:
        print(training.format_results(output_dir, scores))
        print(f"run: {output_dir}")
    processes.destroy_process_group()
    if scores is None:
        sys.exit(INTERRUPTED)


def load_start(model: str, args: CMDLTrainingArguments) -> "StartModel":
    """Load the trained model that a training starts from, after the plug-ins that it may need."""
    from ..training import load_start_model

    import_plugins(args.plugin)
    return load_start_model(model)


def parse_recipe(words: Sequence[str]) -> CMDLTrainingArguments:
    """Read a recipe and the flags after it, as `cmdl train` does, and train nothing.

    Args:
        words (`Sequence` of strings): The recipe's name or file, then flags for fields of the recipe.

    Raises:
        CycloptsError: if a field is unknown, or its value is of the wrong type.
        FileNotFoundError: if there is no such recipe.
        ValueError: if the recipe cannot be read, or a value is out of range.
    """
    command, bound, _ = _reader.parse_args(["train", *words], exit_on_error=False, print_error=False)
    return command(*bound.args, **bound.kwargs)


def read_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Read the recipe of `cmdl train` and use its values for all flags that are not given."""
    if commands != ("train",):
        return
    given = {argument.name: argument.tokens for argument in arguments if argument.tokens}
    if "RECIPE" in given:
        path = find_recipe(given["RECIPE"][0].value)
        recipe = read_yaml(path)
        _check_recipe(path, recipe, has_plugin_flag="--plugin" in given)
        Dict(recipe, source=str(path), use_commands_as_keys=False)(app, commands, arguments)
    elif not {"--benchmark", "--list"} & given.keys():
        raise CycloptsError(msg=_NOTHING_TO_TRAIN_ON, command_chain=commands)


def _read(
    recipe: str, /, *, args: Annotated[CMDLTrainingArguments, Parameter(name="*")] = _DEFAULTS
) -> CMDLTrainingArguments:
    """Return the settings of a recipe."""
    return args


_reader = App(name="cmdl", default_parameter=Parameter(negative_iterable=()), config=(read_recipe, refuse_fractions))
_reader.command(_read, name="train")


def _check_recipe(path: Path, recipe: Mapping[str, Any], has_plugin_flag: bool) -> None:
    """Refuse a recipe that says more than how to train: where to write, what to push, whose code to run."""
    for name in recipe:
        if str(name).replace("-", "_") in _NO_FIELDS:
            flag = f"--{str(name).replace('_', '-')}"
            raise ValueError(f"{path}: {name} is no field of a recipe; give it as a flag: {flag}")
    if recipe.get("plugin") and not has_plugin_flag and (path.parent / "config.json").is_file():
        raise ValueError(
            f"{path} came with a model and names plug-ins, which are Python code: {recipe['plugin']}. Read them "
            "first, then allow them with --plugin FILE"
        )


def find_plugins(args: CMDLTrainingArguments, recipe: str) -> CMDLTrainingArguments:
    """Find the plug-ins that a recipe names, in the working directory or beside the recipe."""
    folder = find_recipe(recipe).parent
    return replace(args, plugin=tuple(_find_plugin(plugin, folder) for plugin in args.plugin))


def _find_plugin(plugin: str, folder: Path) -> str:
    """Find a recipe's plug-in: a file in the working directory, or else a file in the recipe's folder."""
    beside = folder / plugin
    return str(beside) if not Path(plugin).exists() and beside.is_file() else plugin


def _format_recipes() -> str:
    """Format the recipes as a table of names and purposes."""
    recipes = training.list_recipes()
    width = max(map(len, recipes)) + 2
    return "\n".join(
        textwrap.fill(
            text, 110, initial_indent=name.ljust(width), subsequent_indent=" " * width, break_on_hyphens=False
        )
        for name, text in recipes.items()
    )


def demo(
    *,
    data_dir: Path | None = None,
    weights: Path | None = None,
    output_dir: Path = Path("outputs/demo"),
    max_steps: int | None = None,
) -> None:
    """Train a small network with and without CMDL, compare both, and draw a prediction. Takes minutes on a CPU.

    Args:
        data_dir: Folder of the CamVid data set. Without it, street scenes are generated.
        weights: safetensors file with timm's ImageNet weights of mobilenetv2_100 (for generated scenes: of resnet18).
            Without it, the backbone starts from scratch.
        output_dir: Folder for the model, the scores and the picture.
        max_steps: Optimiser steps of each training.
    """
    from ..demo import run_demo

    run_demo(output_dir, data_dir, weights, max_steps)
