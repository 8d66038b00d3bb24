"""The model that commands take if none is named: the small segmenter of street scenes, `model_cards/camvid`."""

import os
from pathlib import Path

from .extras import find_checkout

DEFAULT_MODEL = Path("model_cards/camvid")
"""The model's folder in the repository."""


def find_default_model() -> Path:
    """Find the small model of street scenes, which lies in the repository and not in an installed package.

    Returns:
        `Path`: its folder, relative to the current folder if it lies below.

    Raises:
        FileNotFoundError: if this package does not run from a clone with the model.
    """
    checkout = find_checkout()
    if checkout is None:
        raise FileNotFoundError(
            f"no model is named, and the small model of street scenes, {DEFAULT_MODEL}, is a part of the repository, "
            "not of an installed package; name the folder or Hub name of a model, or install from a clone: pip "
            "install -e ."
        )
    folder = checkout / DEFAULT_MODEL
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"no model is named, and the small model of street scenes is not in {folder}; name the folder or Hub name "
            f"of a model, or restore it: git -C {checkout} checkout {DEFAULT_MODEL}"
        )
    return Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
