"""Checks of a recipe before anything is read or written."""

from dataclasses import replace
from pathlib import Path

from ..data import BENCHMARKS, check_benchmark, check_transform
from ..models import find_context_module
from ..plugins import import_plugins
from .arguments import CMDLTrainingArguments
from .fully_sharded import check_launcher
from .log import check_trackers
from .network import check_weights, make_config
from .start_model import StartModel


def check_names(
    args: CMDLTrainingArguments, weights: str | Path | None, model: str | Path | StartModel | None = None
) -> None:
    """Import the plug-ins, and refuse unknown names in a recipe, and launchers that are not supported.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        weights (`str` or `Path`, *optional*): See `make_model`.
        model (`str`, `Path` or `StartModel`, *optional*): The trained model to start from.

    Raises:
        FileNotFoundError: if there is no such file of weights.
        ImportError: if a tracker is not installed.
        ValueError: if a data set, transform, framework or tracker is unknown, or there are weights beside a model, or
            see `check_launcher`.
    """
    check_launcher()
    import_plugins(args.plugin)
    check_benchmark(args.benchmark)
    check_transform(args.transform)
    find_context_module(args.framework)
    check_trackers(args.report_to)
    check_weights(weights)
    if weights is not None and model is not None:
        raise ValueError(
            f"--weights are those of a backbone, and a model brings all its own: leave out --weights {weights}, "
            "or --model"
        )


def check_recipe(
    args: CMDLTrainingArguments, weights: str | Path | None = None, start: StartModel | None = None
) -> None:
    """Refuse a recipe with unknown names, or whose network cannot be built.

    The arguments and the errors are those of `check_names`; a ValueError or a StrictDataclassError also tells of the
    network. With a trained model to start from, the recipe is one that `StartModel.fit` returned.
    """
    check_names(args, weights, start)
    make = make_config if start is None else start.make_config
    make(replace(args, class_weights=None), BENCHMARKS["camvid"])  # any classes will do
