"""The context modules that a network can have, by name: ours, and those that others register.

The folder of a saved model has a copy of this file. Where its context module came with a plug-in, the copy ends with
two lines more, which import the module from its own file in the folder and register it.
"""

import ast
import inspect
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from .context_cmdl import (
    make_atrous_pyramid,
    make_criss_cross,
    make_feature_pyramid,
    make_pyramid_pooling,
    make_two_convolutions,
)

MakeContextModule = Callable[[Any, Sequence[int]], nn.Module | None]
"""Takes a `CMDLConfig` and the channels of the backbone's feature maps, finest first."""

_ALLOWED_IMPORTS = {*sys.stdlib_module_names, "torch", "timm", "transformers"}


@dataclass(frozen=True)
class ContextModule:
    """What is registered under a name; the fields are those of [`register_context_module`].

    Args:
        plugin (`str`, *optional*): File that registered it; `None` for ours.
    """

    name: str
    make: MakeContextModule
    title: str
    num_feature_maps: int = 1
    min_hidden_size: int = 1
    plugin: str | None = None

    @property
    def framework(self) -> str:
        """What recipes and the command line call a network with this module."""
        return self.title.lower().replace(" ", "-")


CONTEXT_MODULES: dict[str, ContextModule] = {}
"""What is registered, by name."""


def register_context_module(
    name: str, make: MakeContextModule, title: str, num_feature_maps: int = 1, min_hidden_size: int = 1
) -> None:
    """Let networks have a context module: `context_module=name` in `CMDLConfig`, `--framework name` in commands.

    A saved model takes the file of `make` along, so that it loads where neither this package nor the plug-in is. The
    file therefore holds the module alone and imports nothing but torch, timm, transformers and Python's own library;
    this function is called in another file.

    Args:
        name (`str`): What `CMDLConfig.context_module` is to say.
        make (`Callable`): A class or function at the top level of its file, called with the `CMDLConfig` and the list
            of the feature maps' channels, finest first. It returns an `nn.Module` whose `forward` takes the feature
            maps, a sequence of (B, channels, h, w), finest first, and returns (B, C, h', w') with
            C = `config.hidden_size`. Set `pools_globally = True` on a module that batch-normalises a 1×1 grid.
        title (`str`): Name of the network with this module, such as `"PSPNet"`; in lower case it is the framework.
        num_feature_maps (`int`): Feature maps that the module takes, counted from the last.
        min_hidden_size (`int`): Smallest `hidden_size` that it can be built with.

    Raises:
        ValueError: if the name or the framework is taken, or the file of `make` cannot be taken along.

    Example:
        ```python
        from cmdl_hf import register_context_module
        from strip_pooling import StripPooling

        register_context_module("strip", StripPooling, title="StripNet")
        ```
    """
    caller = sys._getframe(1).f_globals
    plugin = None
    if caller["__name__"] != __name__:
        _find_source(name, make)
        plugin = Path(caller.get("__file__") or caller["__name__"]).name
    added = ContextModule(name, make, title, num_feature_maps, min_hidden_size, plugin)
    for known in CONTEXT_MODULES.values():
        if taken := {added.name, added.framework} & {known.name, known.framework}:
            raise ValueError(f"there is a context module {taken.pop()!r} already ({known.title}); choose another name")
    CONTEXT_MODULES[name] = added


def find_context_module(name: str, plugin: str | None = None) -> ContextModule:
    """Look a context module up.

    Args:
        name (`str`): Of the module, or of the framework that it makes.
        plugin (`str`, *optional*): File that it came with, which the error names.

    Raises:
        ValueError: if there is none of that name.
    """
    for known in CONTEXT_MODULES.values():
        if name in (known.name, known.framework):
            return known
    names = ", ".join(f"{known.name} ({known.framework})" for known in CONTEXT_MODULES.values())
    cure = "Your own are known once their plug-in is imported: --plugin FILE"
    if plugin is not None:
        cure = f"It came with the plug-in {plugin}, which has to be imported first: --plugin {plugin}"
    raise ValueError(
        f"there is no context_module (framework) {name!r}; known are {names}. {cure}, or an import in Python"
    )


def list_frameworks() -> list[str]:
    """The frameworks there are, one for each context module."""
    return [known.framework for known in CONTEXT_MODULES.values()]


def carry_context_module(name: str, folder: str | PathLike) -> None:
    """Put the file of a plug-in's context module into a folder, beside the copy of this file, which imports it there.

    Args:
        name (`str`): The context module.
        folder (`str` or `PathLike`): Where a configuration or a model was just saved.
    """
    entry = find_context_module(name)
    registry = Path(folder) / Path(__file__).name
    if entry.make.__module__.rpartition(".")[0] == __package__ or not registry.is_file():
        return  # it lies beside this file, or no sources were saved
    source = _find_source(name, entry.make)
    shutil.copyfile(source, registry.with_name(source.name))
    made = entry.make.__name__
    options = f"{entry.title!r}, {entry.num_feature_maps}, {entry.min_hidden_size}"
    with registry.open("a", encoding="utf-8") as file:
        file.write(
            f"\n# What the plug-in {entry.plugin} registered when this model was saved.\n"
            f"from .{source.stem} import {made}\n\n"
            f"register_context_module({name!r}, {made}, {options})\n"
        )


def _find_source(name: str, make: MakeContextModule) -> Path:
    """Find the file of a context module, and refuse one that a saved model could not take along."""
    try:
        source = Path(inspect.getfile(make))
    except (TypeError, OSError):
        source = Path()
    qualified_name = getattr(make, "__qualname__", "")
    if source.suffix != ".py" or getattr(sys.modules[make.__module__], qualified_name, None) is not make:
        raise ValueError(
            f"context module {name!r}: a saved model takes its file along, so {qualified_name or make} must "
            "be a class or function at the top level of a Python file; move it into one, and import it from there"
        )
    if not source.stem.isidentifier() or (Path(__file__).parent / source.name).is_file():
        raise ValueError(f"context module {name!r}: {source.name} cannot lie beside the files of a model; rename it")
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if imported := _imported_packages(node) - _ALLOWED_IMPORTS:
            raise ValueError(
                f"context module {name!r}: {source}, line {getattr(node, 'lineno', 1)} imports {imported.pop()!r}. "
                "The file goes to where only torch, timm and transformers are: register the module in another file, "
                "and leave the import out here"
            )
    return source


def _imported_packages(node: ast.AST) -> set[str]:
    """The packages that a statement imports; `.` stands for the file's own."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {"." if node.level else (node.module or "").partition(".")[0]}
    return set()


register_context_module("none", make_two_convolutions, "FCN")
register_context_module("ppm", make_pyramid_pooling, "PSPNet")
register_context_module("aspp", make_atrous_pyramid, "DeepLabV3")
register_context_module("criss_cross", make_criss_cross, "CCNet", min_hidden_size=8)  # its queries have C/8 channels
register_context_module("upernet", make_feature_pyramid, "UPerNet", num_feature_maps=4)
