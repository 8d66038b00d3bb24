"""Names of runs: what tells one run from another, from their recipes."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from .arguments import FREE_TO_CHANGE, CMDLTrainingArguments

_LONGEST = 80  # letters for what differs; a file name has at most 255 bytes
_IN_NAME = {"benchmark", "framework", "distributions", "backbone", "seed"}
_SHORT = {
    "crop_size": "crop",
    "head_learning_rate_factor": "head_lr_factor",
    "learning_rate": "lr",
    "max_steps": "steps",
    "min_learning_rate": "min_lr",
    "mixed_precision": "precision",
    "scale_range": "scale",
    "total_batch_size": "batch",
    "warmup_steps": "warmup",
    "weight_decay": "wd",
}


def run_name(args: CMDLTrainingArguments, base: CMDLTrainingArguments | None = None, start: str | None = None) -> str:
    """Name a run after its data, framework and backbone, what differs from its recipe, and its seed.

    Args:
        args (`CMDLTrainingArguments`): The settings of the run.
        base (`CMDLTrainingArguments`, *optional*): The recipe without the run's own settings. Default: the defaults.
        start (`str`, *optional*): Name of the trained model that the run starts from.

    Returns:
        `str`: a name for a folder, such as `camvid-cmdl-fcn-resnet50-lr_0.02-seed1`.
    """
    base = CMDLTrainingArguments() if base is None else base
    settings = find_differences(args.to_recipe(), base.to_recipe())
    changes = {name: value for name, (value, _) in settings.items() if name not in _IN_NAME}
    words = [f"{_SHORT.get(name, name.rpartition('.')[2])}_{format_value(value)}" for name, value in changes.items()]
    text = "-".join(words)
    safe = re.sub(r"[^\w.+-]+", ".", text, flags=re.ASCII)
    if safe != text or len(safe) > _LONGEST:  # other settings could have the same letters
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:8]
        safe = f"{safe[:_LONGEST]}-{digest}"
    origin = [] if start is None else [f"from_{re.sub(r'[^A-Za-z0-9_.+-]+', '.', start)[:_LONGEST]}"]
    return "-".join([args.name, *origin, *([safe] if safe else []), f"seed{args.seed}"])


def find_differences(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find the settings that two recipes have different values for, without those that change no training step.

    Args:
        recipe (`Mapping`): A recipe, as `to_recipe` returns it.
        base (`Mapping`): Another one.

    Returns:
        `dict`: both values of each setting. The options of a dictionary are settings of their own, such as
        `model_options.num_distributions`; an option that one recipe does not give has the value `"default"` there.
    """
    first, second = flatten(recipe), flatten(base)
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (first.get(name, "default"), second.get(name, "default")) for name in names}
    # The command line gives the options of a dictionary as text, Python as numbers.
    return {name: pair for name, pair in pairs.items() if format_value(pair[0]) != format_value(pair[1])}


def flatten(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Write the settings of a recipe that change the training in one `dict`; `model_options.assignment` is a key."""
    settings: dict[str, Any] = {}
    for name, value in recipe.items():
        if name in FREE_TO_CHANGE or name == "plugin":
            continue
        if name in ("model_options", "backbone_kwargs"):
            settings |= {f"{name}.{key}": item for key, item in (value or {}).items()}
        else:
            settings[name] = value
    return settings


def format_value(value: Any) -> str:
    """Write the value of a setting without brackets and quotes: 0.02, 96x128, none, true."""
    if isinstance(value, list | tuple):
        return "x".join(map(format_value, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
