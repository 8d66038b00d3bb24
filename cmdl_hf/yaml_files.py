"""Safe reading of YAML files from other people: names and values, without aliases and tags, of limited size."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from .files import read_utf8

_LARGEST = 2**20  # bytes; a recipe has about two thousand


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without repeated names and without aliases, which can make few bytes expand to billions."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"found the alias *{event.anchor}", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [name for name, count in counts.items() if count > 1]:
            problem = f"every name must occur once, found {repeated[0]!r} several times"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of names and values. An empty file gives an empty `dict`.

    Args:
        path (`Path`): The file.

    Raises:
        ValueError: if it is larger than one MiB, has aliases or tags, is not YAML, or a name is no text.
    """
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than {_LARGEST:,}: it is not a recipe")
    text = read_utf8(path)
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read: {error}; it must be YAML, with lines such as seed: 0: correct it"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must contain names and values, found {type(content).__name__}; write lines such as seed: 0"
        )
    _check_names(path, content)
    return content


def _check_names(path: Path, value: Any) -> None:
    """Refuse names that YAML reads as numbers, dates or nothing."""
    if isinstance(value, dict):
        if wrong := [name for name in value if not isinstance(name, str)]:
            raise ValueError(f"{path}: a name must be a text, found {wrong[0]!r}; correct it, or write it in quotes")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_names(path, item)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text without aliases and tags.

    Raises:
        ValueError: if it has any, or is not YAML.
    """
    try:
        return yaml.load(text, _PlainLoader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
