"""What of a folder may leave the machine: names from a list, and regular files alone."""

import ast
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .. import models
from ..files import NotRegularError, open_regular, refuse_irregular

MODEL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model*.safetensors",
    "model*.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
)
"""What `save_pretrained` leaves, beside Python files, in a folder of a model and in `last/`."""

RUN_FILES = (
    "README.md",
    "LICENSE",
    "recipe.yaml",
    "run.json",
    "scores.json",
    "metrics.jsonl",
    "curves.png",
    "predictions.png",
    "id2label.json",
    "label_table.csv",
    "merged_classes.csv",
)
"""What a run and `write_card` leave beside it, and files of classes."""

DATASET_FILES = ("README.md", "id2label.json", "label_table.csv")
"""What `cmdl prepare` leaves, beside `data/*.parquet`."""

LAST = "last"

_REMARKS = {
    "README.md": " (the model card)",
    "predictions.png": " (a picture: it shows images of the validation data)",
}
_CODE = Path(models.__file__).parent

_SNAPSHOTS = ".push-"
_PARSING = threading.Lock()  # Python 3.11 fails where two threads build syntax trees at once


def list_files(folder: str | Path) -> list[Path]:
    """List what of a model's folder goes to the Hub: `MODEL_FILES`, `RUN_FILES` and the model in `last`.

    Of Python files go those that `config.json` and `preprocessor_config.json` name in `auto_map`, and the files beside
    them that these import, such as that of a plug-in's context module. Everything else stays.

    Args:
        folder (`str` or `Path`): The folder.

    Returns:
        `list[Path]`: paths relative to it.

    Raises:
        ValueError: if the folder, `last` or something in them that is not hidden is a link, a pipe or the like; if
            the Python files cannot be known.
    """
    folder = Path(folder)
    files = _list(folder, MODEL_FILES + RUN_FILES, has_sources=True)
    if (folder / LAST).is_symlink() or (folder / LAST).is_dir():
        files += [Path(LAST) / path for path in _list(folder / LAST, MODEL_FILES, has_sources=True)]
    return files


def list_dataset_files(folder: str | Path) -> list[Path]:
    """List what of a data set's folder goes to the Hub: `DATASET_FILES` and `data/*.parquet`; see `list_files`."""
    folder = Path(folder)
    files = _list(folder, DATASET_FILES)
    return [*files, *(Path("data") / path for path in _list(folder / "data", ("*.parquet",)))]


def describe_files(folder: str | Path, files: list[Path]) -> str:
    """Lay out names and sizes of files, one a line; the Python files of this package, many and known, share a line."""
    sizes = {path: (Path(folder) / path).stat().st_size for path in files}
    entries = [(sizes[path], path.as_posix() + _REMARKS.get(path.name, "")) for path in files if not _is_ours(path)]
    for parent in sorted({path.parent for path in files}):
        code = [sizes[path] for path in files if path.parent == parent and _is_ours(path)]
        where = "" if parent == Path() else f", in {parent.as_posix()}"
        entries += [(sum(code), f"{len(code)} Python files of cmdl_hf, the model's code{where}")] if code else []
    width = max((len(f"{size:,}") for size, _ in entries), default=0)
    return "\n".join(f"  {size:>{width},} bytes  {name}" for size, name in entries)


def _is_ours(path: Path) -> bool:
    """Whether a file has the name of a Python file of this package that travels with a model."""
    return path.suffix == ".py" and (_CODE / path.name).is_file()


def list_left(folder: str | Path, files: list[Path]) -> list[str]:
    """Name the files of a folder, other than hidden ones, that are not among those that go."""
    sent = {path.name for path in files if path.parent == Path()}
    return sorted(
        path.name
        for path in Path(folder).iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name not in sent
    )


def take_snapshot(folder: Path, files: list[Path]) -> Path:
    """Hold on to files as they are now: weights are replaced, never rewritten, so that a hard link is enough.

    What is uploaded lies in the snapshot, so that nobody can put a link in the place of a file on the way.

    Args:
        folder (`Path`): The folder.
        files (`list[Path]`): Paths relative to it.

    Returns:
        `Path`: a folder in `folder` of a name that nobody can foresee; the caller removes it.

    Raises:
        OSError, NotRegularError: if a file cannot be read, or is none.
    """
    snapshot = Path(tempfile.mkdtemp(prefix=_SNAPSHOTS, dir=folder))
    try:
        for path in files:
            copy = snapshot / path
            copy.parent.mkdir(exist_ok=True)
            _hold(folder / path, copy)
    except BaseException:
        shutil.rmtree(snapshot, ignore_errors=True)
        raise
    return snapshot


def held_files(snapshot: Path) -> list[Path]:
    """List the files of a snapshot, as paths relative to it."""
    return sorted(path.relative_to(snapshot) for path in snapshot.rglob("*") if path.is_file())


@contextmanager
def snapshot_of(folder: Path, files: list[Path]) -> Iterator[Path]:
    """Take a snapshot for a block, as `take_snapshot` does."""
    snapshot = take_snapshot(folder, files)
    try:
        yield snapshot
    finally:
        shutil.rmtree(snapshot, ignore_errors=True)


def remove_snapshots(folder: Path) -> None:
    """Remove what runs that were killed left."""
    for snapshot in folder.glob(f"{_SNAPSHOTS}*"):
        shutil.rmtree(snapshot, ignore_errors=True)


def _hold(source: Path, copy: Path) -> None:
    """Make a hard link to weights; copy the rest, and weights where the file system has no such links."""
    if source.suffix in (".safetensors", ".parquet"):
        try:
            os.link(source, copy, follow_symlinks=False)
        except OSError:
            pass
        else:
            refuse_irregular(source, copy.lstat().st_mode)
            return
    with open_regular(source, follow_links=False) as stream, copy.open("xb") as target:
        shutil.copyfileobj(stream, target)


def _list(folder: Path, patterns: tuple[str, ...], has_sources: bool = False) -> list[Path]:
    """List the files of one folder whose names are on a list, and refuse what is no file in it."""
    if folder.is_symlink():
        raise ValueError(
            f"{folder} is a link to {os.readlink(folder)}, and a push follows none; name the folder it leads to, or "
            "put the folder itself there"
        )
    found = []
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        if path.name.startswith(".") or (path.is_dir() and not path.is_symlink()):
            continue
        try:
            refuse_irregular(path, mode)
        except NotRegularError as error:
            raise ValueError(f"a push sends regular files alone: {error}") from None
        found.append(path)
    allowed = {path.name for path in found if any(fnmatchcase(path.name, pattern) for pattern in patterns)}
    if has_sources:
        allowed |= _sources(folder, {path.name for path in found})
    return [Path(path.name) for path in found if path.name in allowed]


def _sources(folder: Path, names: set[str]) -> set[str]:
    """The Python files that a saved model consists of: those in its `auto_map`, and what they import beside them."""
    waiting = set()
    for file in sorted({"config.json", "preprocessor_config.json"} & names):
        waiting |= _auto_modules(_read_json(folder / file).get("auto_map"))
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in names and name not in found:
            found.add(name)
            waiting |= _imports(folder / name)
    return found


def _auto_modules(auto_map: Any) -> set[str]:
    """The files of classes such as `modeling_cmdl.CMDLForSemanticSegmentation`; those of other repositories stay."""
    if isinstance(auto_map, str):
        return set() if "--" in auto_map else {f"{auto_map.partition('.')[0]}.py"}
    values = auto_map.values() if isinstance(auto_map, dict) else auto_map if isinstance(auto_map, list) else ()
    return {name for value in values for name in _auto_modules(value)}


def _imports(path: Path) -> set[str]:
    """The files beside a Python file that it imports."""
    with open_regular(path, follow_links=False) as stream:
        content = stream.read()
    try:
        with _PARSING:
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no Python file ({error}); save the model again") from error
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    modules = [node.module for node in imports if node.module]
    modules += [alias.name for node in imports if not node.module for alias in node.names]
    return {f"{module.partition('.')[0]}.py" for module in modules}


def _read_json(path: Path) -> dict[str, Any]:
    with open_regular(path, follow_links=False) as stream:
        content = stream.read()
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); save the model again") from error
    return value if isinstance(value, dict) else {}
