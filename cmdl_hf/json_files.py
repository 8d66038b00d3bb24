"""JSON files that hold names and values: reading them, and what stands for nan in them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import read_utf8

RESTORE = "restore the file, or move it away"
"""The cure for a damaged file of a model's folder."""


def read_json(path: Path, cure: str = RESTORE) -> dict[str, Any]:
    """Read a JSON file of names and values, such as `run.json`. A missing file is empty.

    Args:
        path (`Path`): The file.
        cure (`str`): What to do if it is damaged, for the message. By default, the general cure.

    Raises:
        OSError, NotRegularError: as of `open_regular`.
        ValueError: if it is not JSON in UTF-8, or holds no names.
    """
    try:
        text = read_utf8(path)
    except FileNotFoundError:
        return {}
    return _parse(text, str(path), cure)


def read_json_lines(path: Path, cure: str = RESTORE) -> list[dict[str, Any]]:
    """Read a file of names and values on each line, such as `metrics.jsonl`. A missing file is empty.

    What stands after the last line break is left out, because an interruption cut it off.

    Args:
        path (`Path`): The file.
        cure (`str`): What to do if it is damaged, for the message. By default, the general cure.

    Raises:
        OSError, NotRegularError: as of `open_regular`.
        ValueError: if a line is not JSON in UTF-8, or holds no names.
    """
    try:
        *lines, _ = read_utf8(path).split("\n")
    except FileNotFoundError:
        return []
    return [_parse(line, f"{path}, line {number},", cure) for number, line in enumerate(lines, start=1)]


def _parse(text: str, place: str, cure: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} cannot be read as JSON ({error}); {cure}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{place} must contain names and values, found {type(content).__name__}; {cure}")
    return content


def without_nan(value: Any) -> Any:
    """Put None, which JSON has, for nan, which it has not."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
