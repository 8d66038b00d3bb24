"""Make the folder of a Space: the app of `examples/space`, and a model with its code beside it.

    python examples/make_space.py build/space

The second argument is the folder of another model; by default it is the small model of street scenes. The Space needs
no cmdl_hf. Its README says how to upload it.
"""

import shutil
import sys
from pathlib import Path

from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

import cmdl_hf  # noqa: F401 (registers CMDL with the auto classes)

ROOT = Path(__file__).resolve().parents[1]


def make_space(folder: Path, model: Path = ROOT / "model_cards" / "camvid") -> None:
    """Copy the app, and save the model in a folder beside it, which the app serves by default.

    Args:
        folder (`Path`): Folder to make. It must be new or empty.
        model (`Path`): Folder of the model.

    Raises:
        FileExistsError: if there are files in the folder.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    network = AutoModelForSemanticSegmentation.from_pretrained(model, dtype="auto")
    shutil.copytree(
        ROOT / "examples" / "space", folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    saved = folder / model.resolve().name
    network.save_pretrained(saved)
    AutoImageProcessor.from_pretrained(model).save_pretrained(saved)
    for name in ("README.md", "model.safetensors"):  # with the terms of the data; the weights as small as they were
        if (model / name).is_file():
            shutil.copy(model / name, saved)


if __name__ == "__main__":
    make_space(*map(Path, sys.argv[1:3]))
    print(f"Made {sys.argv[1]}")
