"""Turns docstrings into Markdown: those of this package are Markdown with Google's sections."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Shape|Note|Example):")
_ENTRY = re.compile(r"(?P<name>[\w*]+(?:(?:, | or )[\w*]+)*)(?: \((?P<type>.+?)\))?:(?P<text>.*)")
_RAISED = re.compile(r"(?P<name>[\w. ]+):(?P<text>.*)")
_LINK = re.compile(r"\[`(?P<name>[\w.]+)`\](?!\()")
_TITLES = {"Args": "Arguments", "Note": "Note", "Shape": "Shape"}


def to_markdown(docstring: str, find: Callable[[str], str | None]) -> str:
    """Turn a docstring into Markdown.

    Args:
        docstring (`str`): The docstring, as it stands in the code.
        find (`Callable`): Gives the full name of a public object, for the links [`name`], or `None`.
    """
    parts = [_format(title, body) for title, body in _split(inspect.cleandoc(docstring))]
    return _LINK.sub(lambda match: _link(match["name"], find), "\n\n".join(part for part in parts if part))


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Give the sections of a docstring with their titles; what stands before the first has the title ""."""
    title, lines = "", list[str]()
    for line in text.splitlines():
        if match := _SECTION.fullmatch(line):
            yield title, inspect.cleandoc("\n".join(lines))
            title, lines = match[1], []
        elif title and line and not line.startswith(" "):
            yield title, inspect.cleandoc("\n".join(lines))
            title, lines = "", [line]
        else:
            lines.append(line)
    yield title, inspect.cleandoc("\n".join(lines))


def _format(title: str, body: str) -> str:
    """Give one section as Markdown."""
    if not title or not body:
        return body
    if title in ("Args", "Attributes"):
        body = "\n".join(_list(body, _ENTRY))
    elif title == "Raises":
        body = "\n".join(_list(body, _RAISED))
    elif title == "Example" and body.startswith(">>>"):
        body = f"```pycon\n{body}\n```"
    return f"**{_TITLES.get(title, title)}**\n\n{body}"


def _list(body: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Give the entries of a section as the items of a list."""
    for line in body.splitlines():
        match = None if line.startswith(" ") else pattern.fullmatch(line)
        if match is None:
            yield line if line.startswith(" ") else f"  {line}"
            continue
        names = ", ".join(f"`{name}`" for name in re.split(r", | or ", match["name"]))
        kind = f" ({match['type']})" if match.groupdict().get("type") else ""
        yield f"- {names}{kind}:{match['text']}"


def _link(name: str, find: Callable[[str], str | None]) -> str:
    """Link a public object, and show any other name as code."""
    full_name = find(name)
    return f"`{name}`" if full_name is None else f"{{py:obj}}`{name} <{full_name}>`"


def read_constants(source: str) -> dict[str, str]:
    """Find the strings below the assignments of a module, which describe its constants."""
    found = {}
    body = ast.parse(source).body
    for node, below in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[target.id] = inspect.cleandoc(str(below.value.value))
    return found
