"""The settings of a sweep: from the text of `--set` and `--seeds` to the flags of every combination."""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ..training import CMDLTrainingArguments
from ..yaml_files import parse_yaml

_OPTIONS = ("model_options", "backbone_kwargs")


def parse_settings(texts: Sequence[str]) -> dict[str, list[str]]:
    """Parse settings such as `learning_rate=0.01,0.02` or `crop_size=[96,128],[64,64]`.

    Args:
        texts (`Sequence` of strings): Key of a recipe, `=`, and values with commas between. `model_options.NAME` and
            `backbone_kwargs.NAME` are keys, too.

    Returns:
        `dict`: the texts of the values of each key.

    Raises:
        ValueError: if a key is unknown or given twice, or there are no values, or one is given twice.
    """
    settings: dict[str, list[str]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {text} must be KEY=VALUE,VALUE, such as --set learning_rate=0.01,0.02")
        head, dot, option = name.partition(".")
        name = f"{head.replace('-', '_')}{dot}{option}"
        _check_key(name)
        values = split_values(rest)
        if name in settings:
            raise ValueError(f"--set {name} is given twice; put all its values into one, with commas between")
        if not all(values):
            raise ValueError(f"--set {text} has an empty value; write {name}=VALUE,VALUE without spaces")
        if len(set(values)) < len(values):
            raise ValueError(f"--set {text} has a value twice; leave one out")
        settings[name] = values
    return settings


def parse_seeds(text: str) -> list[int]:
    """Parse seeds such as `0,1,2`.

    Raises:
        ValueError: if one is no whole number, or is given twice.
    """
    seeds = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if -1 in seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds must be different whole numbers with commas between, such as 0,1,2, found {text}")
    return seeds


def split_values(text: str) -> list[str]:
    """Split a text at its commas, but not at those within brackets or quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (not quote) * ((letter in "[{") - (letter in "]}"))
        if letter == "," and depth == 0 and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def combine(settings: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> list[list[str]]:
    """Make the flags of `cmdl train` for every combination of settings and seeds; the seeds change fastest.

    Args:
        settings (`Mapping`): Texts of the values of each key, as `parse_settings` returns them.
        seeds (`Sequence` of integers): The seeds.
    """
    choices = [[make_flags(name, value) for value in values] for name, values in settings.items()]
    choices.append([[f"--seed={seed}"] for seed in seeds])
    return [[word for flags in combination for word in flags] for combination in itertools.product(*choices)]


def make_flags(name: str, text: str) -> list[str]:
    """Write a setting as flags of `cmdl train`.

    Raises:
        ValueError: if a list is not YAML.
    """
    head, dot, option = name.partition(".")
    flag = f"--{head.replace('_', '-')}{dot}{option}"
    if dot or not text.startswith("["):
        return [f"{flag}={text}"]  # the options of a dictionary are read as YAML later
    try:
        values = _flatten(parse_yaml(text))
    except ValueError as error:
        raise ValueError(f"--set {name}: {text} cannot be read ({error}); write a list such as [96,128]") from error
    return [flag, *map(str, values)]


def _flatten(values: Any) -> list[Any]:
    return [item for value in values for item in _flatten(value)] if isinstance(values, list) else [values]


def _check_key(name: str) -> None:
    """Refuse what is no key of a recipe."""
    head, dot, option = name.partition(".")
    known = CMDLTrainingArguments().to_recipe()
    if name == "seed":
        raise ValueError("--set seed: give the seeds with --seeds, such as --seeds 0,1,2")
    if head in _OPTIONS and not option:
        raise ValueError(f"--set {name}: name one of its options, such as --set model_options.num_distributions=1,9")
    if head not in known or (dot and head not in _OPTIONS):
        nearest = difflib.get_close_matches(head.removeprefix("use_"), known, n=1)
        cure = f"did you mean {nearest[0]}?" if nearest else "cmdl train --help lists them"
        raise ValueError(f"--set {name}: a recipe has no key {name}; {cure}")
