"""Scores of an earlier evaluation are replaced by the same evaluation alone."""

import json
from pathlib import Path
from typing import Any

from ..escaping import one_line

_IDENTITY = {
    "model": "model",
    "benchmark": "benchmark",
    "split": "split",
    "data_folder": "folder of the data",
    "image_ids": "images",
    "protocol": "protocol",
    "mixed_precision": "precision",
}
"""The facts that make two evaluations the same, and what a message calls them. Versions and processes do not."""


def check_earlier(out: str | Path | None, facts: dict[str, Any]) -> None:
    """Check that a file of scores, if it exists, is of the same evaluation, so that it may be replaced.

    Args:
        out (`str` or `Path`, *optional*): The JSON file that an evaluation writes.
        facts (`dict`): What is scored, and how.

    Raises:
        FileExistsError: if the file has the scores of another evaluation, or is no such file.
    """
    if out is None or not Path(out).is_file():
        return
    there = _read(Path(out))
    differing = [name for name in _IDENTITY if name in there and not _is_same(there[name], facts[name])]
    if differing:
        what = ", ".join(_IDENTITY[name] for name in differing)
        of = f"{one_line(there.get('model'))} on {one_line(there.get('benchmark'))}, {one_line(there.get('split'))}"
        raise FileExistsError(
            f"{out} has the scores of {of}, which differ in: {what}; they are kept. Name another file with --out, or "
            "remove that one"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or "scores" not in content:
        raise FileExistsError(f"{path} exists and is no file of scores; name another one with --out")
    return content


def _is_same(there: Any, here: Any) -> bool:
    """Whether two values are the same as JSON, where tuples are lists; folders may end with a slash."""
    if isinstance(there, str) and isinstance(here, str):
        return there.rstrip("/") == here.rstrip("/")
    return json.dumps(there, sort_keys=True) == json.dumps(here, sort_keys=True)
