"""Fills the marks of a page: a room's public names, the commands, and files that lie beside `docs`.

A mark is a line of its own: `% room: cmdl_hf.data`, `% commands` or `% include: [FILE](../FILE)`. The last is a link
for those who read the page in the repository.
"""

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docstrings import read_constants, to_markdown

DOCS = Path(__file__).parent
ROOT = DOCS.parent
MARK = re.compile(
    r"^% (?P<kind>room|commands|include)(?:: \[?(?P<name>[\w./-]+)(?:\]\([\w./-]+\))?)?$", flags=re.MULTILINE
)
_FILE_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_COMMAND_ROOM = "cmdl_hf.cli"  # docs/commands.md shows it
_MOST_DEFAULT = 40  # characters of a default value in a signature


def fill(text: str, page: str) -> str:
    """Replace every mark of a page, and lead links to files that have a page of their own there."""
    fills = {"room": _describe_room, "commands": _describe_commands, "include": lambda name: _include(name, page)}
    return MARK.sub(lambda match: fills[match["kind"]](match["name"]), text)


@cache
def find_marks() -> dict[tuple[str, str], str]:
    """Find the marks of all pages: the page, without suffix, for each kind and name."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        for match in MARK.finditer(path.read_text(encoding="utf-8")):
            found[match["kind"], match["name"] or ""] = path.relative_to(DOCS).with_suffix("").as_posix()
    return found


def check_rooms() -> None:
    """Check that every package with public names has a page.

    Raises:
        ValueError: if one has none.
    """
    rooms = ["cmdl_hf", *(f"cmdl_hf.{path.parent.name}" for path in sorted(ROOT.glob("cmdl_hf/*/__init__.py")))]
    public = {room for room in rooms if getattr(importlib.import_module(room), "__all__", None)}
    if missing := sorted(public - {*list_rooms(), _COMMAND_ROOM}):
        raise ValueError(f"no page in docs/api describes {', '.join(missing)}: write one with the mark % room: NAME")


def list_rooms() -> list[str]:
    """The modules whose public names the pages describe."""
    return sorted(name for kind, name in find_marks() if kind == "room")


def public_names(room: str) -> dict[str, Any]:
    """The public names of a module with what they stand for: those of `__all__`, or else what it defines itself."""
    module = importlib.import_module(room)
    defined = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == room]
    names = getattr(module, "__all__", None) or [name for name in defined if name[0] != "_"]
    return {name: getattr(module, name) for name in names}


@cache
def find_homes() -> dict[int, str]:
    """The full name under which each public object is described; the shortest if it has several."""
    homes: dict[int, str] = {}
    for room in sorted(list_rooms(), key=len):
        for name, value in public_names(room).items():
            if is_described(value):
                homes.setdefault(id(value), f"{room}.{name}")
    return homes


def find_full_name(name: str) -> str | None:
    """Find the full name of a public object, or of a method of one, by its short name."""
    first, *rest = name.split(".")
    for full_name in find_homes().values():
        if full_name.rsplit(".", 1)[-1] == first:
            return ".".join([full_name, *rest])
    return None


@cache
def constants(room: str) -> dict[str, str]:
    """The descriptions of a room's constants: the strings below their assignments."""
    path = ROOT.joinpath(*room.split("."))
    sources = sorted(path.rglob("*.py")) if path.is_dir() and room != "cmdl_hf" else []
    return {name: text for source in sources for name, text in read_constants(source.read_text("utf-8")).items()}


def is_described(value: Any) -> bool:
    """Whether an object has a docstring of its own: classes and functions."""
    return inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))


def _describe_room(room: str) -> str:
    """Describe the public names of a room: classes with their methods, functions, constants."""
    module = importlib.import_module(room)
    parts = [to_markdown(module.__doc__ or "", find_full_name)]
    for name, value in public_names(room).items():
        full_name = f"{room}.{name}"
        docstring = value.__doc__ if is_described(value) else constants(room).get(name)
        if name == "__version__":
            continue
        if not docstring:
            raise ValueError(f"{full_name} has no docstring; that of a constant is a string below its assignment")
        if not is_described(value):
            parts.append(_directive("data", full_name, to_markdown(docstring, find_full_name)))
        elif find_homes()[id(value)] == full_name:
            kind = "class" if inspect.isclass(value) else "function"
            parts.append(_directive(kind, full_name + _signature(value), _describe(value, full_name)))
        else:
            parts.append(f"`{name}`: see {{py:obj}}`{find_homes()[id(value)]}`.")
    return "\n\n".join(parts)


def _describe(value: Any, full_name: str) -> str:
    parts = [to_markdown(value.__doc__ or "", find_full_name)]
    if inspect.isclass(value):
        for name, kind, member, docstring in _members(value):
            signature = "" if kind == "property" else _signature(member, is_method=kind != "staticmethod")
            option = ":classmethod:\n\n" if kind == "classmethod" else ""
            directive = "property" if kind == "property" else "method"
            text = option + to_markdown(docstring, find_full_name)
            parts.append(_directive(directive, f"{full_name}.{name}{signature}", text, fence="`" * 5))
    return "\n\n".join(parts)


def _members(value: type) -> Iterator[tuple[str, str, Any, str]]:
    """Give the public methods and properties that a class itself defines."""
    for name, member in vars(value).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield name, "property", member, member.fget.__doc__ or ""
        elif isinstance(member, classmethod | staticmethod):
            yield name, type(member).__name__, member.__func__, member.__func__.__doc__ or ""
        elif inspect.isfunction(member):
            yield name, "method", member, member.__doc__ or ""


def _signature(value: Any, is_method: bool = False) -> str:
    """Give the parameters with their defaults, without types: these stand with the arguments."""
    parameters = list(inspect.signature(value).parameters.values())[is_method:]
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    short = [
        each.replace(default=_Shown("…"))
        if each.default is not each.empty and len(_shown(each.default)) > _MOST_DEFAULT
        else each.replace(default=_Shown(_shown(each.default)))
        if each.default is not each.empty
        else each
        for each in plain
    ]
    return str(inspect.Signature(short))


class _Shown(str):
    """A default value as it is shown."""

    def __repr__(self) -> str:
        return str(self)


def _shown(default: Any) -> str:
    text = repr(default)
    return "…" if " at 0x" in text or text.startswith("<") else text


def _directive(kind: str, argument: str, body: str, fence: str = "`" * 7) -> str:
    return f"{fence}{{py:{kind}}} {argument}\n{body}\n{fence}"


def _describe_commands(_: str | None) -> str:
    """Describe every command as its own help does."""
    from cmdl_hf.cli import app

    text = app.generate_docs(output_format="markdown")
    # cyclopts takes the module that `python -m` started, such as sphinx, for a part of the usage.
    text = re.sub(r"^(cmdl [\w-]+) -m \S+", r"\1", text, flags=re.MULTILINE)
    return text[text.index("\n## cmdl ") :].lstrip()


def _include(name: str, page: str) -> str:
    """Take a file from beside `docs`, without its title; its links are those of the page."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\A# [^\n]*\n", "", text)
    text = re.sub(r"<!--.*?-->\n?", "", text)
    return _FILE_LINK.sub(lambda match: f"{match[1]}{_move(match[2], name, page)}{match[3] or ''})", text)


def _move(target: str, name: str, page: str) -> str:
    """Say a link of a file as a link of the page that includes it."""
    path = (ROOT / name).parent.joinpath(target).resolve()
    if path.is_dir():
        path = path / "README.md" if (path / "README.md").is_file() else path
    included = find_marks().get(("include", path.relative_to(ROOT).as_posix()))
    goal = DOCS / f"{included}.md" if included else path
    return os.path.relpath(goal, (DOCS / page).parent)
