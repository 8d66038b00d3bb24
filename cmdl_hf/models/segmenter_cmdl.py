"""Finds the classifier of any segmenter, and describes how to rebuild the segmenter."""

import copy
import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .allowed_cmdl import SEGMENTERS, NotAllowedError, check_plain, check_transformers_config

_PROBE_SIZES = (64, 224, 512)
_NEEDS_CONVOLUTION = "its final layer must be a Conv2d; a Linear can be replaced by a 1×1 convolution"
_MASK_CLASSIFICATION = ("ForUniversalSegmentation", "ForInstanceSegmentation")


def check_segmenter(segmenter: nn.Module) -> None:
    """Refuse models that score masks instead of pixels.

    Raises:
        TypeError: if the segmenter is not a module.
        ValueError: if the segmenter classifies masks.
    """
    if not isinstance(segmenter, nn.Module):
        raise TypeError(f"segmenter must be a torch.nn.Module, got {type(segmenter).__name__}")
    classes = {type(module).__name__ for module in segmenter.modules()}
    if name := next((name for name in classes if name.endswith(_MASK_CLASSIFICATION)), None):
        raise ValueError(
            _refusal(
                name,
                "it classifies masks of queries instead of single pixels",
                "take a segmenter with per-pixel logits",
            )
        )


@torch.enable_grad()
def find_classifier(segmenter: nn.Module, num_labels: int | None = None) -> str:
    """Find the convolution that computes a segmenter's logits, by running a copy of it on an empty image.

    Args:
        segmenter (`nn.Module`): Model that takes images (B, channels, H, W).
        num_labels (`int`, *optional*): Required number of classes K.

    Returns:
        The name of the module: the last convolution with K outputs that leads to the logits.

    Raises:
        ValueError: if the copy cannot be run on an empty image, or there is no such convolution.
    """
    convolutions = {name: module for name, module in segmenter.named_modules() if isinstance(module, nn.Conv2d)}
    kind = type(segmenter).__name__
    if not convolutions:
        raise ValueError(_refusal(kind, "it has no convolutions", _NEEDS_CONVOLUTION))
    names = [name for name, module in convolutions.items() if num_labels in (None, module.out_channels)]
    cure = f"name it with classifier=..., such as one of {', '.join(names[-5:])}" if names else "name it"
    try:
        output, outputs = _run_copy(segmenter, convolutions)
    except Exception as error:  # an unknown model may raise any type
        raise ValueError(
            f"{kind} could not be run on an empty image to find its classifier ({error}); {cure}"
        ) from error
    try:
        logits = find_logits(output)
    except ValueError as error:
        is_tensor = isinstance(output, Tensor)
        raise ValueError(
            _refusal(kind, str(error), "take a segmenter with per-pixel logits" if is_tensor else cure)
        ) from error
    found = logits.shape[1]
    if num_labels is not None and found != num_labels:
        raise ValueError(f"num_labels={num_labels}, but {kind} gives scores of {found} classes")
    candidates = {name: output for name, output in outputs.items() if convolutions[name].out_channels == found}
    gradients: tuple[Tensor | None, ...] = ()
    if candidates and logits.requires_grad:
        total = logits.float().sum()
        gradients = torch.autograd.grad(total, list(candidates.values()), retain_graph=True, allow_unused=True)
    on_the_way = [name for name, gradient in zip(candidates, gradients, strict=False) if gradient is not None]
    if not on_the_way:
        reason = f"no convolution with {found} outputs leads to its scores"
        raise ValueError(_refusal(kind, reason, _NEEDS_CONVOLUTION))
    earlier = [outputs[name] for name in on_the_way[:-1]]
    final = outputs[on_the_way[-1]].float().sum()
    leads_to_final = torch.autograd.grad(final, earlier, allow_unused=True) if earlier else ()
    if beside := [name for name, gradient in zip(on_the_way, leads_to_final, strict=False) if gradient is None]:
        raise ValueError(
            f"the scores of {kind} are computed from several classifiers, "
            f"{', '.join([*beside, on_the_way[-1]])}, so none gives the coarse logits; take a segmenter with one "
            "classifier"
        )
    return on_the_way[-1]


def _run_copy(segmenter: nn.Module, convolutions: dict[str, nn.Conv2d]) -> tuple[Any, dict[str, Tensor]]:
    """Run a copy in eval mode; returns its output, and the outputs of its convolutions in the order of execution.

    A copy is used because a first run may change a model: transformers' models add hooks to themselves.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs.pop(name, None)  # the last run counts
            outputs[name] = output

        return hook

    copied = copy.deepcopy(segmenter).eval()
    for name in convolutions:
        copied.get_submodule(name).register_forward_hook(keep(name))
    probes = _make_probes(segmenter, next(iter(convolutions.values())).weight)
    for probe in probes[:-1]:
        try:
            return copied(probe), outputs
        except Exception:  # image too small, or not the model's fixed size: try the next
            outputs.clear()
    return copied(probes[-1]), outputs


def get_classifier(segmenter: nn.Module, classifier: str, num_labels: int | None = None) -> nn.Conv2d:
    """Look up a classifier by its name.

    Raises:
        ValueError: if it is not a `Conv2d`, or has another number of classes.
    """
    modules = dict(segmenter.named_modules())
    final = modules.get(classifier)
    if not isinstance(final, nn.Conv2d):
        convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
        names = [name for name, module in convolutions.items() if num_labels in (None, module.out_channels)]
        found = "no module of that name" if final is None else f"a {type(final).__name__}"
        raise ValueError(
            f"classifier must name a Conv2d of {type(segmenter).__name__}, found {found} at {classifier!r}; it has "
            f"{', '.join(names[-8:]) or 'none with that many classes'}, or leave classifier out to search for it"
        )
    if num_labels is not None and final.out_channels != num_labels:
        raise ValueError(
            f"num_labels={num_labels}, but {classifier!r} gives scores of {final.out_channels} classes; an adapter "
            "has the classes of its segmenter, and a saved adapter keeps them: leave num_labels out"
        )
    if final.out_channels == 1:
        raise ValueError(f"{classifier!r} gives one score; use two classes, background and object")
    return final


def find_auxiliary_classifiers(segmenter: nn.Module, num_labels: int) -> list[str]:
    """Return the names of convolutions with K outputs and `aux` in their name, as in torchvision and transformers."""
    return [
        name
        for name, module in segmenter.named_modules()
        if "aux" in name and isinstance(module, nn.Conv2d) and module.out_channels == num_labels
    ]


def find_logits(output: Any) -> Tensor:
    """Find the logits of the pixels in the output of a segmenter: a tensor, a mapping or a tuple.

    Returns:
        `Tensor` of shape (B, K, h, w).

    Raises:
        ValueError: if there are no logits.
    """
    logits = output
    if isinstance(output, Mapping):
        logits = next((output[name] for name in ("logits", "out") if name in output), None)
    elif isinstance(output, tuple | list):
        logits = output[0]
    if not isinstance(logits, Tensor) or logits.dim() != 4:
        there = ", ".join(output) if isinstance(output, Mapping) else type(output).__name__
        raise ValueError(f"it returns {there}, and no logits (batch, classes, height, width)")
    return logits


def describe_segmenter(segmenter: nn.Module) -> dict[str, Any]:
    """Describe how to rebuild a segmenter: its class and, if known, its library and configuration."""
    kind = type(segmenter)
    spec: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    config = getattr(segmenter, "config", None)
    if kind.__module__.startswith("transformers.") and hasattr(config, "to_dict"):
        recipe = {"library": "transformers", "name": kind.__name__, "config": config.to_dict()}
    elif kind.__module__.startswith("segmentation_models_pytorch.") and isinstance(config, dict):
        recipe = {"library": "segmentation_models_pytorch", "name": kind.__name__, "config": _without_weights(config)}
    else:
        return spec
    return spec | recipe if _is_complete(recipe, segmenter) else spec


def build_segmenter(spec: dict[str, Any]) -> nn.Module:
    """Build a segmenter with random weights from the result of `describe_segmenter`.

    Raises:
        ValueError: if the description has no library or is not allowed.
        ImportError: if its library is not installed.
    """
    library, name, config = spec.get("library"), spec.get("name", ""), spec.get("config", {})
    if library not in ("transformers", "segmentation_models_pytorch"):  # and nothing else that a file may name
        raise ValueError(
            f"the adapter was saved from a {spec.get('class')}, which cannot be rebuilt from its configuration, or "
            "was changed after it was built; build one yourself and pass it: "
            "CMDLAdapter.from_pretrained(folder, segmenter=...)"
        )
    if not re.fullmatch(r"[A-Za-z0-9]+", name):
        raise NotAllowedError(f"segmenter: {name[:80]!r} is no name of a class")
    kind: Any = getattr(importlib.import_module(library), name, None)
    if not _is_module_class(kind):
        raise ValueError(
            f"the adapter was saved from a {name} of {library}, which the installed version does not have"
        )
    if library == "transformers":
        return _build_of_transformers(kind, config)
    return _build_of_smp(kind, config)


def _build_of_transformers(kind: Any, config: dict[str, Any]) -> nn.Module:
    """Build a segmenter of transformers from its configuration."""
    model_type = getattr(getattr(kind, "config_class", None), "model_type", None)
    if model_type not in SEGMENTERS or not kind.__name__.endswith("ForSemanticSegmentation"):
        raise NotAllowedError(
            f"segmenter: {kind.__name__} is not allowed; build it yourself and pass it: "
            f"CMDLAdapter.from_pretrained(folder, segmenter=...). Known are the ForSemanticSegmentation classes of "
            f"{', '.join(sorted(SEGMENTERS))}"
        )
    check_transformers_config({"model_type": model_type} | config, {model_type}, "segmenter")
    return kind(kind.config_class.from_dict(config))


def _build_of_smp(kind: Any, config: dict[str, Any]) -> nn.Module:
    """Build a segmenter of segmentation_models_pytorch from its options; nothing is downloaded."""
    known = inspect.signature(kind.__init__).parameters
    if "encoder_weights" not in known:
        raise NotAllowedError(f"segmenter: {kind.__name__} is no segmenter of segmentation_models_pytorch")
    for name, value in config.items():
        if name == "encoder_weights" or name not in known or name in ("self", "kwargs"):
            if value is None:
                continue
            raise NotAllowedError(f"segmenter: {name[:80]!r} is not allowed for {kind.__name__}; remove it")
        check_plain(f"segmenter: {name}", value)
    return kind(**{name: value for name, value in config.items() if name in known} | {"encoder_weights": None})


def _is_complete(recipe: dict[str, Any], segmenter: nn.Module) -> bool:
    """Return whether a recipe rebuilds this segmenter. It does not if layers were replaced, added or passed in."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            again = build_segmenter(recipe)
    except NotAllowedError:
        return False
    except Exception:  # some cannot be built on the meta device; loading the weights checks them later
        return True
    return _structure(again) == _structure(segmenter)


def _structure(segmenter: nn.Module) -> tuple[dict[str, type], dict[str, torch.Size]]:
    """Return classes of the modules and shapes of their tensors. All kinds of batch norms are treated as equal."""
    kinds = {
        name: _BatchNorm if isinstance(module, _BatchNorm) else type(module)
        for name, module in segmenter.named_modules()
    }
    return kinds, {name: tensor.shape for name, tensor in segmenter.state_dict().items()}


def _is_module_class(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, nn.Module)


def _without_weights(config: dict[str, Any]) -> dict[str, Any]:
    """Remove the name of the encoder's downloaded weights, because the saved weights replace them."""
    return {name: None if name == "encoder_weights" else value for name, value in config.items() if name[0] != "_"}


def _make_probes(segmenter: nn.Module, weight: Tensor) -> list[Tensor]:
    """Make empty images: of the size in the configuration, or of usual sizes."""
    config = getattr(segmenter, "config", None)
    size = getattr(config, "image_size", None)
    channels = getattr(config, "num_channels", None) or weight.shape[1]
    sizes = [(each, each) if isinstance(each, int) else tuple(each) for each in ([size] if size else _PROBE_SIZES)]
    # The images require gradients, so that there is a graph even if all parameters are frozen.
    return [
        torch.zeros(1, channels, *each, device=weight.device, dtype=weight.dtype, requires_grad=True) for each in sizes
    ]


def _refusal(name: str, reason: str, cure: str) -> str:
    return f"CMDL cannot be added to {name}: {reason}; {cure}"
