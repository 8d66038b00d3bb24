"""Prints the lowest versions that pyproject.toml allows, as constraints for pip: what `make test-floors` installs."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [
    *project["dependencies"],
    *(each for name in extras if name not in ("dev", "docs") for each in extras[name]),
]:
    if match := re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", requirement):
        print(f"{match[1]}=={match[2]}")
