"""The optional packages of cmdl_hf, by the extra that installs them, and the command that does it from here."""

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

_NAME = "cmdl_hf"
_CHECKOUT = Path(__file__).resolve().parents[1]


def find_checkout() -> Path | None:
    """Return the folder of the source checkout that this package runs from; `None` if it was installed."""
    project = _CHECKOUT / "pyproject.toml"
    return _CHECKOUT if project.is_file() and f'name = "{_NAME}"' in project.read_text(encoding="utf-8") else None


def install_command(extra: str) -> str:
    """Return the command that installs an extra into the running environment.

    From a checkout, the checkout itself is installed, because no package index has it under this name.

    Args:
        extra (`str`): One of `list_extras`.
    """
    checkout = find_checkout()
    if checkout is None:
        return f"{_pip()} install {shlex.quote(f'{_NAME}[{extra}]')}"
    folder = "." if checkout == Path.cwd() else str(checkout)
    return f"{_pip()} install -e {shlex.quote(f'{folder}[{extra}]')}"


def list_extras() -> dict[str, list[str]]:
    """List the extras for users, and the packages that each installs."""
    checkout = find_checkout()
    if checkout is None:
        metadata = importlib.metadata.metadata(_NAME)
        requirements = importlib.metadata.requires(_NAME) or []
        extras = {
            extra: [text for text in requirements if re.search(rf"extra == ['\"]{extra}['\"]", text)]
            for extra in metadata.get_all("Provides-Extra") or []
        }
    else:
        extras = _read_project(checkout)["optional-dependencies"]
    packages = {extra: [re.split(r"[^\w.-]", text)[0] for text in texts] for extra, texts in extras.items()}
    return {extra: names for extra, names in packages.items() if extra not in ("all", "dev")}


def list_requirements() -> list[str]:
    """List the packages that are always needed, with their versions, as `pip` takes them."""
    checkout = find_checkout()
    if checkout is None:
        return [text for text in importlib.metadata.requires(_NAME) or [] if "extra ==" not in text]
    return _read_project(checkout)["dependencies"]


def _read_project(checkout: Path) -> dict[str, Any]:
    return tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _pip() -> str:
    """Return how to call the pip of this environment: it may not be the one that the shell finds."""
    found = shutil.which("pip")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "pip"
    python = sys.executable
    if Path(python).is_relative_to(Path.cwd()):
        python = os.path.relpath(python)
    return f"{shlex.quote(python)} -m pip"
