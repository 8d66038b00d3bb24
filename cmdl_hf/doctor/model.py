"""What a model consists of, and whether it loads and segments."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from ..inference import MODEL_ERRORS, load_segmenter
from ..weight_files import check_weights
from .findings import Finding, format_size

_TOPIC = "Model"
_SIZE = (192, 128)  # width and height of the picture that is tried
_SHOWN = 8  # class names


def examine_model(model: str, trust_remote_code: bool = False) -> Iterator[Finding]:
    """Yield what a model's folder holds, and what becomes of it when it is loaded and segments a small picture.

    Args:
        model (`str`): Folder or Hub name.
        trust_remote_code (`bool`): Whether to run Python files that come with the model.
    """
    folder = Path(model)
    yield Finding(_TOPIC, "model", str(folder.resolve()) if folder.is_dir() else model)
    if folder.is_dir():
        yield from _files(folder)
    try:
        start = time.perf_counter()
        segmenter, processor = load_segmenter(model, trust_remote_code)
    except (OSError, ValueError) as error:
        yield Finding(_TOPIC, "loading", str(error), is_broken=True)
        return
    yield Finding(_TOPIC, "loading", f"{type(segmenter).__name__}, {time.perf_counter() - start:.1f} s")
    yield from _describe(segmenter)
    yield _try(segmenter, processor)


def _files(folder: Path) -> Iterator[Finding]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    code = [path for path in files if path.suffix == ".py"]
    shown = [f"{path.name} {format_size(path.stat().st_size)}" for path in files if path not in code]
    code_size = format_size(sum(path.stat().st_size for path in code))
    yield Finding(_TOPIC, "files", ", ".join(shown + ([f"{len(code)} Python files {code_size}"] if code else [])))
    try:
        check_weights(folder)
        tensors = [item for path in files if path.suffix == ".safetensors" for item in _read_types(path)]
    except (OSError, ValueError, SafetensorError) as error:
        yield Finding(_TOPIC, "weights", str(error), is_broken=True)
        return
    types = ", ".join(f"{count} of {dtype}" for dtype, count in Counter(tensors).most_common())
    yield Finding(_TOPIC, "weights", f"{len(tensors)} tensors: {types}")


def _read_types(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118


def _describe(segmenter: Any) -> Iterator[Finding]:
    names = [segmenter.config.id2label[i] for i in range(segmenter.config.num_labels)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    yield Finding(_TOPIC, "classes", f"{len(names)}: {', '.join(map(str, names[:_SHOWN]))}{more}")
    count = sum(parameter.numel() for parameter in segmenter.parameters())
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in segmenter.parameters()})
    yield Finding(_TOPIC, "parameters", f"{count:,}, loaded as {', '.join(dtypes)}")


def _try(segmenter: Any, processor: Any) -> Finding:
    """Segment a picture of noise."""
    width, height = _SIZE
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    try:
        start = time.perf_counter()
        inputs = processor(Image.fromarray(picture), return_tensors="pt")
        with torch.no_grad():
            logits = segmenter(pixel_values=inputs["pixel_values"]).logits
    except MODEL_ERRORS as error:
        return Finding(_TOPIC, "segmenting", f"{_SIZE[0]}×{_SIZE[1]} fails: {_first_line(error)}", is_broken=True)
    seconds = time.perf_counter() - start
    if not logits.isfinite().all():
        return Finding(_TOPIC, "segmenting", "the logits are not finite: the weights are damaged", is_broken=True)
    shape = json.dumps(list(logits.shape))
    return Finding(_TOPIC, "segmenting", f"{width}×{height} on the CPU: logits {shape}, {seconds:.2f} s")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
