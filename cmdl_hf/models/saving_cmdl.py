"""What a folder must be for a model to be saved in it, and what an earlier save may not leave there."""

import json
import os
from pathlib import Path


def refuse_links(folder: str | os.PathLike) -> None:
    """Refuse to save into a folder that is a link or holds one: the files that links lead to would be overwritten.

    Args:
        folder (`str` or `PathLike`): Where a model is to be saved; it need not exist.

    Raises:
        OSError: if it is a link, or there is one in it.
    """
    folder = Path(folder)
    for path in (folder, *(sorted(folder.iterdir()) if folder.is_dir() else ())):
        if path.is_symlink():
            raise OSError(
                f"{path} is a link to {os.readlink(path)}, and a model is not saved through links; name another "
                "folder, or remove the link"
            )


def remove_superseded(folder: str | os.PathLike) -> None:
    """Remove what an earlier save left of another shape: a whole file beside new shards, or an index without shards.

    transformers removes shards that it does not replace, but neither of these. It would load the whole file.

    Args:
        folder (`str` or `PathLike`): Folder that a model has just been saved in.
    """
    whole, index = Path(folder) / "model.safetensors", Path(folder) / "model.safetensors.index.json"
    if whole.is_file() and index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        is_sharded = all((Path(folder) / shard).is_file() for shard in shards)
        (whole if is_sharded else index).unlink()
