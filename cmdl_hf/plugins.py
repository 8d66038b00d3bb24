"""Plug-ins: Python files and modules of users that register benchmarks, context modules and transforms."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

_imported: list[str] = []


def import_plugins(plugins: Iterable[str | Path]) -> None:
    """Import plug-ins, each once. Afterwards the names that they register are known.

    A file is imported as a module with the file's name. Its folder is added to the import path, so that the plug-in
    can import files beside it, and so that processes which this one starts can import the plug-in.

    Args:
        plugins (`Iterable`): Python files, such as `my_plugin.py`, or names of modules.

    Raises:
        FileNotFoundError: if a file does not exist.
        ImportError: if a plug-in cannot be imported. The message has the reason.
        ValueError: if a file has the name of another module.
    """
    for plugin in map(str, plugins):
        if plugin.endswith(".py"):
            plugin = str(Path(plugin).resolve())
        if plugin not in _imported:
            _import(plugin)
            _imported.append(plugin)


def imported_plugins() -> tuple[str, ...]:
    """Return the plug-ins that this process has imported, for processes that it starts."""
    return tuple(_imported)


def _import(plugin: str) -> None:
    is_file = plugin.endswith(".py")
    path = Path(plugin)
    if is_file:
        if not path.is_file():
            raise FileNotFoundError(f"there is no plug-in {plugin}; name a Python file or an installed module")
        if not path.stem.isidentifier():
            raise ValueError(f"plug-in {plugin}: {path.stem!r} is no valid module name; rename the file")
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
    try:
        module = importlib.import_module(path.stem if is_file else plugin)
    except Exception as error:  # the plug-in's own code can raise anything
        raise ImportError(f"plug-in {plugin} cannot be imported: {type(error).__name__}: {error}") from error
    if is_file and Path(module.__file__ or "").resolve() != path:
        raise ValueError(f"plug-in {plugin} has the same name as another module, {module.__file__}; rename it")
