"""Plug-ins: Python files and modules of others that register benchmarks, context modules and transforms."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

_imported: list[str] = []


def import_plugins(plugins: Iterable[str | Path]) -> None:
    """Import plug-ins, each once; what they register is known from then on.

    A file is imported as the module of its name, with its folder on the import path, so that it finds files beside it,
    and so that processes which this one starts find it.

    Args:
        plugins (`Iterable`): Python files, such as `my_plugin.py`, or names of modules.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if one cannot be imported; the message has the reason.
        ValueError: if a file has the name of another module.
    """
    for plugin in map(str, plugins):
        if plugin.endswith(".py"):
            plugin = str(Path(plugin).resolve())
        if plugin not in _imported:
            _import(plugin)
            _imported.append(plugin)


def imported_plugins() -> tuple[str, ...]:
    """The plug-ins that this process has imported, for processes that it starts."""
    return tuple(_imported)


def _import(plugin: str) -> None:
    is_file = plugin.endswith(".py")
    path = Path(plugin)
    if is_file:
        if not path.is_file():
            raise FileNotFoundError(f"there is no plug-in {plugin}; name a Python file, or a module that is installed")
        if not path.stem.isidentifier():
            raise ValueError(f"plug-in {plugin}: {path.stem!r} is no name of a Python module; rename the file")
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
    try:
        module = importlib.import_module(path.stem if is_file else plugin)
    except Exception as error:  # whatever the plug-in's own code raises
        raise ImportError(f"plug-in {plugin} cannot be imported: {type(error).__name__}: {error}") from error
    if is_file and Path(module.__file__ or "").resolve() != path:
        raise ValueError(f"plug-in {plugin} has the name of another module, {module.__file__}; rename it")
