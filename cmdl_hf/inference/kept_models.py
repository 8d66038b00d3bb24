"""Loaded models, kept between calls: a few of them, each loaded once for all threads."""

import os
import stat
import threading
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from ..image_processing import make_image_processor
from .loading import choose_device, load_folded, load_processor

MAX_KEPT = 2
"""Number of models that are kept. The one that was not used for the longest time is let go."""

_Key: TypeAlias = tuple[Any, ...]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_kept: OrderedDict[_Key, Future[tuple[PreTrainedModel, Any]]] = OrderedDict()
_looking = threading.Lock()
_processors: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # of loaded models, each read once


def take_model(
    model: str | Path | nn.Module,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Return a model in eval mode and its image processor: those kept from an earlier call, or loaded now.

    A folder whose files have changed is loaded anew. A name on the Hub is not asked for again.

    Args:
        model (`str`, `Path` or `nn.Module`): Folder, Hub name, or a loaded semantic segmenter of transformers.
        processor (*optional*): Image processor to use. By default the model's. For a loaded model, that is the one in
            the folder or repository that it comes from, and for a CMDL model from none, `make_image_processor()`.
        device (`str` or `torch.device`, *optional*): By default the accelerator, or the CPU if there is none. A loaded
            model stays where it is.
        dtype (`str` or `torch.dtype`, *optional*): float32 (default), bfloat16 or float16. A loaded model keeps its.
        trust_remote_code (`bool`): Whether to run Python files that come with the model.

    Raises:
        FileNotFoundError: if there is no model or no image processor.
        TypeError: if the model is of another kind.
        ValueError: if the model is no semantic segmenter, is in training mode, or an option does not fit.
    """
    if isinstance(model, nn.Module):
        if device is not None or dtype is not None:
            raise ValueError("a loaded model stays as it is; leave out device and dtype, and use model.to(...)")
        return _check_loaded(model), processor if processor is not None else _find_processor(model)
    if not isinstance(model, str | Path):
        raise TypeError(f"model must be a folder, a Hub name or a loaded model, found {type(model).__name__}")
    place, precision = find_device_and_dtype(device, dtype)
    network, own = _keep(model, place, precision, trust_remote_code)
    return network, own if processor is None else processor


def find_device_and_dtype(
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Choose the device and precision of a model that is to be loaded; see [`take_model`].

    Raises:
        ValueError: if there is no such device or precision.
    """
    try:
        place = choose_device() if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device must be one of this machine, found {device}; use cpu, or leave it out to have it chosen"
        ) from error
    precision = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype or torch.float32
    if precision not in _DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, found {dtype}")
    assert isinstance(precision, torch.dtype)
    return place, precision


def _keep(
    model: str | Path, device: torch.device, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[PreTrainedModel, Any]:
    name, files = _identify(model)
    key = (name, files, device, dtype, trust_remote_code)
    with _looking:
        loading = _kept.get(key)
        is_mine = loading is None
        if loading is None:
            loading = _kept[key] = Future()
            for other in [other for other in _kept if other[0] == name and other[1] != files]:
                del _kept[other]  # the files of these are no more
        _kept.move_to_end(key)
        while len(_kept) > MAX_KEPT:
            _kept.popitem(last=False)
    if not is_mine:
        return loading.result()
    try:
        loaded = load_folded(model, device, dtype, trust_remote_code)
    except BaseException as error:
        _forget(key)
        loading.set_exception(error)
        raise
    if _identify(model)[1] != files:  # written to meanwhile: good for this call, and loaded anew for the next
        _forget(key)
    loading.set_result(loaded)
    return loaded


def _forget(key: _Key) -> None:
    with _looking:
        _kept.pop(key, None)


def _identify(model: str | Path) -> tuple[str, tuple[Any, ...]]:
    """Return the place of a model and, of a folder, what tells its files from those of another time."""
    folder = Path(model)
    if not folder.is_dir():
        return str(model), ()
    files = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere, or gone by now
            continue
        if stat.S_ISREG(status.st_mode):
            files.append((entry.name, status.st_ino, status.st_size, status.st_mtime_ns))
    return os.path.realpath(folder), tuple(files)


def _check_loaded(model: nn.Module) -> nn.Module:
    config = getattr(model, "config", None)
    if not getattr(config, "id2label", None):
        raise TypeError(
            f"a loaded model must be a semantic segmenter of transformers, whose config has id2label, found "
            f"{type(model).__name__}"
        )
    if model.training:
        raise ValueError("the model is in training mode, in which it would learn from the image; call model.eval()")
    return model


def _find_processor(model: nn.Module) -> Any:
    """Find the image processor that belongs to a loaded model."""
    config: Any = model.config
    source = getattr(model, "name_or_path", "") or getattr(config, "name_or_path", "")
    if source:
        if model not in _processors:
            _processors[model] = load_processor(source)
        return _processors[model]
    if getattr(config, "model_type", "") == "cmdl":
        return make_image_processor()
    raise ValueError(
        "the model comes from no folder and no repository with an image processor; pass the one that it was trained "
        "with: processor=..."
    )
