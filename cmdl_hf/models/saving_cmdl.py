"""What a folder must be for a model to be saved in it."""

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
