"""The free-form keys of a recipe, `model_options` and `backbone_kwargs`: their values, and which names exist."""

import dataclasses
import difflib
import re
from collections.abc import Container
from typing import Any

from ..models import CMDLConfig
from ..yaml_files import parse_yaml

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # numbers that YAML 1.1 reads as text


def check_options(options: dict[str, Any], taken: Container[str]) -> None:
    """Refuse names in `model_options` that are no fields of `CMDLConfig`, or that another key of a recipe sets.

    Args:
        options (`dict`): The options by name.
        taken (`Container`): Fields of `CMDLConfig` that other keys of the recipe set, or the data set.

    Raises:
        ValueError: naming the option.
    """
    known = {field.name for field in dataclasses.fields(CMDLConfig)}
    for name in options:
        if name in taken or name == "num_labels":
            raise ValueError(
                f"model_options: {name} is set by another key of the recipe, or by the data set; remove it from "
                "model_options"
            )
        if name not in known:
            nearest = difflib.get_close_matches(name, [each for each in known if each not in taken], n=1)
            cure = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(f"model_options: CMDLConfig has no field {name}{cure}")


def parse_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """Parse the values of a free-form dictionary. The command line and its YAML reader pass them as text."""
    return {name.replace("-", "_"): _parse_value(name, value) for name, value in (options or {}).items()}


def _parse_value(name: str, value: Any) -> Any:
    """Parse text in a value as YAML; numbers such as 1e-05 are also accepted.

    Raises:
        ValueError: if the text is not YAML. The message names the option.
    """
    if isinstance(value, dict):
        return {key: _parse_value(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_parse_value(name, item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return float(value) if _EXPONENT.fullmatch(value) else parse_yaml(value)
    except ValueError as error:
        raise ValueError(
            f"{name}: {value!r} cannot be read as YAML ({error}); put special characters in quotes"
        ) from error
