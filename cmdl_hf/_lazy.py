"""Lazy imports: names of a package are imported on first use."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the `__getattr__` function of a package.

    Args:
        package (`str`): `__name__` of the package.
        module_of (`Mapping[str, str]`): For each public name, the sub-module that defines it.
    """

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{module_of[name]}", package), name)

    return get
