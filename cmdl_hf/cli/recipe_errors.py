"""Which recipe an error is about: a message about a value of a recipe names the file, too."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..yaml_files import read_yaml

_SUFFIXES = (".yaml", ".yml")


def name_recipe(message: str, words: Sequence[str]) -> str:
    """Put the path of a recipe before a message that is about one of its values.

    A message is about a value if it has the key and the value as words of their own. In a value such as
    `model_options`, the names and values count, too.

    Args:
        message (`str`): Of an error.
        words (`Sequence` of strings): The command line. Its YAML files are the recipes.

    Returns:
        `str`: the message; unchanged if it names the file already, or is about something else.
    """
    for word in words:
        path = Path(word.rpartition("=")[2])
        if path.suffix not in _SUFFIXES or not path.is_file() or str(path) in message:
            continue
        try:
            recipe = read_yaml(path)
        except (OSError, ValueError):  # of which the message is then
            continue
        if any(_is_about(message, key.replace("-", "_"), value) for key, value in recipe.items()):
            return f"{path}: {message}"
    return message


def _is_about(message: str, key: str, value: Any) -> bool:
    if isinstance(value, dict) and any(_is_about(message, str(name), part) for name, part in value.items()):
        return True
    word = "plug-?in" if key == "plugin" else re.escape(key)
    return _has_word(message, word) and any(_has_word(message, re.escape(text)) for text in _list_texts(value))


def _has_word(message: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){word}(?!\w)", message) is not None


def _list_texts(value: Any) -> Iterator[str]:
    """List how messages write a value: as it is, or each of its parts."""
    if isinstance(value, dict):
        yield from map(str, value)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _list_texts(part)
    if isinstance(value, str):
        yield from (value, repr(value)) if value.strip() else (repr(value),)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
        with suppress(OverflowError):
            yield str(float(value))
    elif value is None or isinstance(value, bool):
        yield str(value)
