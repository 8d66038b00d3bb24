"""Download a visitor's model from the Hub and try it: `fetching.py NAME FOLDER`.

This is a separate process, so that the app can end it. The last line of its output is JSON. Its key `refused` holds
the reason for the visitor, or null.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError
from models import RefusedError
from PIL import Image
from segmenter import MAX_WORK_PIXELS, segment
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

MAX_BYTES = 2_000_000_000
"""Larger models are rejected before they are downloaded."""

MAX_MEMORY = 16_000_000_000
"""Limit of the memory that this process may use, in bytes."""

_MAX_FILES = 40
_FILES = re.compile(
    r"(?:pre)?processor_config\.json|config\.json|model[\w.-]*\.safetensors(?:\.index\.json)?", re.ASCII
)
_LOADERS = (
    "auto_map",
    "use_pretrained_backbone",
    "pretrained",
    "pretrained_cfg",
    "quantization_config",
    "use_kernels",
)
_NAMES = ("backbone", "architecture", "attn_implementation", "_attn_implementation", "model_type")


def fetch(name: str, folder: Path) -> None:
    """Download a model into a folder and segment an empty image with it.

    Raises:
        RefusedError: if the model breaks a rule.
    """
    try:
        info = HfApi(token=False).model_info(name, files_metadata=True, timeout=20)
        files = {file.rfilename: file.size for file in info.siblings or () if _FILES.fullmatch(file.rfilename)}
        check_files(files)
        snapshot_download(
            name, revision=info.sha, allow_patterns=list(files), local_dir=folder, token=False, max_workers=2
        )
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise RefusedError("The model must be public on the Hub, and no such model is; correct its name.") from error
    except (OSError, HTTPError) as error:
        logging.exception("%s cannot be fetched", name)
        raise RefusedError(
            "The Hub cannot be reached now, or does not hand this model out; try again later."
        ) from error
    constants.HF_HUB_OFFLINE = True  # the configuration cannot download anything else
    try:
        for file in folder.glob("*.json"):
            check_config(json.loads(file.read_text(encoding="utf-8")))
        try_out(folder)
    except RefusedError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise RefusedError(
                "A model must fit the memory of this server, this one does not; choose a smaller one."
            ) from error
        logging.exception("%s cannot be tried", name)
        raise RefusedError(
            "The model must be a semantic segmenter that transformers has, with its image processor; this one cannot "
            "be loaded as one, choose another."
        ) from error


def check_files(files: dict[str, int | None]) -> None:
    """Reject weights that are too large or not safetensors."""
    if not {"config.json", "preprocessor_config.json"} <= files.keys():
        raise RefusedError("A model must come with config.json and preprocessor_config.json; choose one that does.")
    if not files.keys() & {"model.safetensors", "model.safetensors.index.json"}:
        raise RefusedError("The weights of a model must be safetensors, and this one has none; choose one that has.")
    if len(files) > _MAX_FILES or None in files.values():
        raise RefusedError(f"A model may have up to {_MAX_FILES} files of known size; choose another.")
    if (size := sum(size or 0 for size in files.values())) > MAX_BYTES:
        raise RefusedError(
            f"A model may have up to {MAX_BYTES / 1e9:g} GB, this one has {size / 1e9:.1f} GB; choose a smaller one."
        )


def check_config(config: Any) -> None:
    """Reject a configuration that would run code or load files of other places."""
    for key, value in _items(config):
        if key in _LOADERS and value:
            cause = "brings code of its own" if key == "auto_map" else f"has {key}, which loads other files"
            raise RefusedError(f"A model must consist of its own weights alone, this one {cause}; choose another.")
        if key in _NAMES and isinstance(value, str) and not re.fullmatch(r"[\w.+-]{1,80}", value):
            raise RefusedError(
                f"A model must consist of its own weights alone, this one names others in {key}; choose another."
            )


def try_out(folder: Path) -> None:
    """Load a model and segment an image of the maximum size."""
    options = {"trust_remote_code": False, "token": False, "local_files_only": True}
    processor = AutoImageProcessor.from_pretrained(folder, **options)
    model = AutoModelForSemanticSegmentation.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, **options
    )
    width = int(MAX_WORK_PIXELS**0.5)
    segment(model.eval(), processor, Image.new("RGB", (width, MAX_WORK_PIXELS // width)))


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys of nested JSON, with their values."""
    if isinstance(value, dict):
        yield from value.items()
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _items(item)


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))


if __name__ == "__main__":
    _limit_memory()
    refused = None
    try:
        fetch(sys.argv[1], Path(sys.argv[2]))
    except RefusedError as error:
        refused = str(error)
    print(json.dumps({"refused": refused}))
