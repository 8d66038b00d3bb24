"""Checks of a recipe before anything is read or written."""

from dataclasses import replace
from pathlib import Path

from ..data import BENCHMARKS, check_benchmark, check_transform
from ..models import find_context_module
from ..plugins import import_plugins
from .arguments import CMDLTrainingArguments
from .log import check_trackers
from .network import check_weights, make_config


def check_names(args: CMDLTrainingArguments, weights: str | Path | None) -> None:
    """Import the plug-ins, and refuse unknown names in a recipe.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        weights (`str` or `Path`, *optional*): See `make_model`.

    Raises:
        FileNotFoundError: if there is no such file of weights.
        ImportError: if a tracker is not installed.
        ValueError: if a data set, transform, framework or tracker is unknown.
    """
    import_plugins(args.plugin)
    check_benchmark(args.benchmark)
    check_transform(args.transform)
    find_context_module(args.framework)
    check_trackers(args.report_to)
    check_weights(weights)


def check_recipe(args: CMDLTrainingArguments, weights: str | Path | None = None) -> None:
    """Refuse a recipe with unknown names, or whose network cannot be built.

    The arguments and the errors are those of `check_names`; a ValueError or a StrictDataclassError also tells of the
    network.
    """
    check_names(args, weights)
    make_config(replace(args, class_weights=None), BENCHMARKS["camvid"])  # any classes will do
