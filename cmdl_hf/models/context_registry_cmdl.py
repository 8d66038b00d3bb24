"""Registry of context modules by name: those of this package, and those of plug-ins.

The folder of a saved model has a copy of this file. If the context module comes from a plug-in, two lines are added to
the end of the copy. They import the module from its own file in the folder, and register it.
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
"""Function that takes a `CMDLConfig` and the channels of the backbone's feature maps, finest first."""

_ALLOWED_IMPORTS = {*sys.stdlib_module_names, "torch", "timm", "transformers"}


@dataclass(frozen=True)
class ContextModule:
    """A registered context module. For the other fields see [`register_context_module`].

    Args:
        plugin (`str`, *optional*): File of the plug-in that registered it; `None` for this package.
    """

    name: str
    make: MakeContextModule
    title: str
    num_feature_maps: int = 1
    min_hidden_size: int = 1
    plugin: str | None = None

    @property
    def framework(self) -> str:
        """Name of a network with this module in recipes and on the command line."""
        return self.title.lower().replace(" ", "-")


CONTEXT_MODULES: dict[str, ContextModule] = {}
"""All registered context modules by name."""


def register_context_module(
    name: str, make: MakeContextModule, title: str, num_feature_maps: int = 1, min_hidden_size: int = 1
) -> None:
    """Register a context module, for `context_module=name` in `CMDLConfig` and for `--framework` in commands.

    The file of `make` is copied into the folder of every saved model, so that the model loads without this package and
    without the plug-in. This file must therefore hold only the module, and may import only torch, timm, transformers
    and Python's standard library. Call this function in another file.

    Args:
        name (`str`): Value of `CMDLConfig.context_module`.
        make (`Callable`): A class or function at the top level of its file. It takes the `CMDLConfig` and the list of
            the feature maps' channels, finest first, and returns an `nn.Module`. The module's `forward` takes the
            feature maps, a sequence of (B, channels, h, w), finest first, and returns (B, C, h', w') with
            C = `config.hidden_size`. Set `pools_globally = True` on a module that batch-normalises a 1×1 grid.
        title (`str`): Name of the network with this module, such as `"PSPNet"`. Its lower case is the name of the
            framework.
        num_feature_maps (`int`): Number of feature maps that the module needs, counted from the last.
        min_hidden_size (`int`): Smallest `hidden_size` that the module supports.

    Raises:
        ValueError: if the name or the framework is already registered, or the file of `make` cannot be copied.

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
    """Look up a context module.

    Args:
        name (`str`): Name of the module or of its framework.
        plugin (`str`, *optional*): File of its plug-in, for the error message.

    Raises:
        ValueError: if the name is not registered.
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
    """Return the names of all frameworks, one for each context module."""
    return [known.framework for known in CONTEXT_MODULES.values()]


def carry_context_module(name: str, folder: str | PathLike) -> None:
    """Copy the file of a plug-in's context module into the folder of a saved model, and register it there.

    Args:
        name (`str`): The context module.
        folder (`str` or `PathLike`): Folder of the saved configuration or model.
    """
    entry = find_context_module(name)
    registry = Path(folder) / Path(__file__).name
    if entry.make.__module__.rpartition(".")[0] == __package__ or not registry.is_file():
        return  # the module is from this package, or no sources were saved
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
    """Find the file of a context module, and refuse a file that cannot be saved with a model."""
    try:
        source = Path(inspect.getfile(make))
    except (TypeError, OSError):
        source = Path()
    qualified_name = getattr(make, "__qualname__", "")
    if source.suffix != ".py" or getattr(sys.modules[make.__module__], qualified_name, None) is not make:
        raise ValueError(
            f"context module {name!r}: its file is saved with the model, so {qualified_name or make} must be a class "
            "or function at the top level of a Python file; move it into such a file, and import it from there"
        )
    if not source.stem.isidentifier() or (Path(__file__).parent / source.name).is_file():
        raise ValueError(
            f"context module {name!r}: {source.name} is the name of another file of a model, or no valid module name; "
            "rename it"
        )
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if imported := _imported_packages(node) - _ALLOWED_IMPORTS:
            raise ValueError(
                f"context module {name!r}: {source}, line {getattr(node, 'lineno', 1)} imports {imported.pop()!r}. "
                "The file must work with only torch, timm and transformers: register the module in another file, and "
                "remove this import"
            )
    return source


def _imported_packages(node: ast.AST) -> set[str]:
    """Return the packages that a statement imports. `.` means the file's own package."""
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
