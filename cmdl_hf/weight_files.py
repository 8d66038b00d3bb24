"""Names of weight files: one file, or shards with an index. Of two shapes in a place the stale one may be loaded."""

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_SHARD = r"-\d{5,}-of-\d{5,}"
_WEIGHTS = re.compile(rf"model({_SHARD})?\.safetensors|pytorch_model({_SHARD})?\.bin")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = "model.safetensors"


def find_superseded(present: Iterable[str], new: Iterable[str]) -> list[str]:
    """List the weight files that others replace, although they have other names.

    Args:
        present (`Iterable[str]`): Paths of the files in a folder or a repository, with `/`.
        new (`Iterable[str]`): Paths of the files that are written there.

    Returns:
        `list[str]`: paths of `present` with weights, in places for which `new` has weights, that `new` does not have.
    """
    new = set(new)
    places = {PurePosixPath(path).parent for path in new if _is_weights(PurePosixPath(path).name)}
    return sorted(
        path
        for path in set(present) - new
        if _is_weights(PurePosixPath(path).name) and PurePosixPath(path).parent in places
    )


def check_weights(folder: Path) -> None:
    """Refuse a folder of a model without weights, with a part of them, or with weights of two shapes.

    Raises:
        FileNotFoundError: if there are none, or shards are missing.
        ValueError: if there are shards beside a whole file, or shards without an index.
    """
    check_one_shape(folder)
    names = {path.name for path in folder.iterdir()}
    shards = _shards_in(names)
    index = folder / _INDICES[0]
    if index.is_file():
        if missing := sorted(_indexed(index) - names):
            raise FileNotFoundError(
                f"{folder} lacks {len(missing)} of its files of weights, such as {missing[0]}; save the model again"
            )
    elif shards:
        raise ValueError(f"{folder} has {min(shards)} but no {index.name}; save the model again")
    elif not any(name.endswith(".safetensors") for name in names):
        raise FileNotFoundError(
            f"{folder} contains no weights: it has no {_SINGLE}; save the model there with save_pretrained, or name "
            "the output folder of a run"
        )


def check_one_shape(folder: Path) -> None:
    """Refuse a folder of a model with a whole file of weights beside shards of others, which may be of another model.

    Raises:
        ValueError: if there are both. The message names a file of each.
    """
    names = {path.name for path in folder.iterdir()}
    others = _shards_in(names) | ({_INDICES[0]} & names)
    if _SINGLE in names and others:
        raise ValueError(
            f"{folder} holds weights of two shapes, {_SINGLE} and {min(others)}, and the former would be loaded; "
            "remove those that are not of this model, or save it into a new folder"
        )


def _shards_in(names: set[str]) -> set[str]:
    return {name for name in names if _is_weights(name) and name.endswith(".safetensors")} - {_SINGLE}


def _is_weights(name: str) -> bool:
    return name in _INDICES or _WEIGHTS.fullmatch(name) is not None


def _indexed(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} cannot be read ({error}); save the model again") from error
