"""The models that the app loads: those of its owner and, if the owner allows it, others of the Hub."""

import functools
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

_HERE = Path(__file__).resolve().parent
_CLONE = _HERE.parent.parent  # of the repository, if the app was started from there

if (_CLONE / "cmdl_hf" / "__init__.py").is_file():
    sys.path.append(str(_CLONE))
if importlib.util.find_spec("cmdl_hf"):
    import cmdl_hf  # noqa: F401 (registers CMDL with the auto classes)

logger = logging.getLogger("space")

_LOADING = threading.Lock()  # transformers switches the default dtype of the process while it loads


def find_own_models(listed: str) -> dict[str, str]:
    """Find the owner's models, with the name that the page shows for each. The name contains no path of this machine.

    Args:
        listed (`str`): Folders or Hub names, separated by commas.
    """
    models: dict[str, str] = {}
    for source in filter(None, map(str.strip, listed.split(","))):
        shown = source
        if (folder := Path(source)).is_dir():
            folder = folder.resolve()
            source, shown = str(folder), "/".join(folder.parts[-2:] if folder.name == "model" else folder.parts[-1:])
        number = sum(name.split(" (")[0] == shown for name in models)
        models[f"{shown} ({number + 1})" if number else shown] = source
    return models


def find_default_model() -> str:
    """Find the model beside the app, as in a Space by `make_space.py`, or the small one of the clone."""
    configs = [*sorted(_HERE.glob("*/config.json")), _CLONE / "model_cards" / "camvid" / "config.json"]
    return next((str(config.parent) for config in configs if config.is_file()), "")


OWN_MODELS = find_own_models(os.environ.get("CMDL_MODEL") or find_default_model())
"""Folders or Hub names of the owner's models, by the names that visitors see. No other model's code runs."""

ALLOW_ANY = os.environ.get("CMDL_ALLOW_ANY") == "1"
"""Whether visitors may enter other models of the Hub."""

EXAMPLE_MODELS = ["nvidia/segformer-b0-finetuned-ade-512-512", "openmmlab/upernet-convnext-tiny"]
"""Models that the page offers in addition if `ALLOW_ANY` is set."""

MAX_SECONDS = 300
"""Time limit to download and try a visitor's model."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class RefusedError(ValueError):
    """A request breaks a rule. The message is for the visitor: it names the rule and the cure, and no path."""


def list_models() -> list[str]:
    """List the models that the page offers; the first is chosen at the start."""
    models = [*OWN_MODELS, *(EXAMPLE_MODELS if ALLOW_ANY else ())]
    if not models:
        raise SystemExit(
            "CMDL_MODEL must name the models to serve, and is empty: set it to folders or Hub names, separated by "
            "commas, or set CMDL_ALLOW_ANY=1 to let visitors name models of the Hub. By default a model beside the "
            "app is served, or in a clone of cmdl_hf the small one, and there is neither"
        )
    return models


@functools.lru_cache(maxsize=2)
def load(name: str) -> tuple[Any, Any]:
    """Load model and image processor.

    Args:
        name (`str`): One of `OWN_MODELS`, compared exactly; with `ALLOW_ANY`, another name on the Hub.

    Raises:
        RefusedError: if the name is neither, or the model breaks a rule.
    """
    if name in OWN_MODELS:
        try:
            return _load(OWN_MODELS[name], trust_remote_code=True)
        except Exception as error:
            logger.exception("%s, from %s, cannot be loaded", name, OWN_MODELS[name])
            raise RefusedError(
                "This model cannot be loaded now; choose another one. The owner finds the reason in the log."
            ) from error
    if not ALLOW_ANY:
        raise RefusedError("The model must be one of the list; choose one there. This page takes no other names.")
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise RefusedError(
            "The model must be a name on the Hub, ORGANISATION/NAME; correct it. Folders are not taken."
        )
    return _load_visitors(name)


def _load_visitors(name: str) -> tuple[Any, Any]:
    """Download a model, try it in a separate process, and load it. Its files are always removed."""
    with tempfile.TemporaryDirectory(prefix="cmdl-model-") as home:
        folder = Path(home) / "model"
        command = [sys.executable, str(Path(__file__).with_name("fetching.py")), name, str(folder)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_TOKEN", "HUGGING"))}
        environment |= {"HF_HOME": home, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        try:
            done = subprocess.run(
                command, cwd=home, env=environment, stdout=subprocess.PIPE, timeout=MAX_SECONDS, text=True, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RefusedError(
                f"A model must be fetched and tried within {MAX_SECONDS} s, this one was not; choose a smaller one."
            ) from error
        if done.returncode:
            logger.warning("trying %s ended with status %d", name, done.returncode)
            raise RefusedError(
                "A model must be such that it can be tried, this one ends the trial; choose another one."
            )
        if reason := json.loads(done.stdout.splitlines()[-1])["refused"]:
            raise RefusedError(reason)
        return _load(str(folder), trust_remote_code=False)


def _load(source: str, trust_remote_code: bool) -> tuple[Any, Any]:
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not trust_remote_code:
        options |= {"token": False, "local_files_only": True}
    processor = AutoImageProcessor.from_pretrained(source, **options)
    if getattr(processor, "do_pad", False):
        raise RefusedError(
            "The model's image processor pads images, and this page would show the padding; choose another model."
        )
    options |= {"dtype": torch.float32, "use_safetensors": None if trust_remote_code else True}
    with _LOADING:
        model = AutoModelForSemanticSegmentation.from_pretrained(source, **options)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor
