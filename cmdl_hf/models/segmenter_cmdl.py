"""What has to be known of a segmenter that is not ours: where its classifier is, and how to build it again."""

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
_NEEDS_CONVOLUTION = "its final layer must be a Conv2d, as a Linear can be written: a 1×1 convolution"
_MASK_CLASSIFICATION = ("ForUniversalSegmentation", "ForInstanceSegmentation")


def check_segmenter(segmenter: nn.Module) -> None:
    """Refuse models that score masks instead of pixels.

    Raises:
        TypeError: if it is no module.
        ValueError: if it classifies masks.
    """
    if not isinstance(segmenter, nn.Module):
        raise TypeError(f"segmenter must be a torch.nn.Module, got {type(segmenter).__name__}")
    classes = {type(module).__name__ for module in segmenter.modules()}
    if name := next((name for name in classes if name.endswith(_MASK_CLASSIFICATION)), None):
        raise ValueError(
            _refusal(
                name,
                "it gives classes to queries and masks to those, and no features are classified pixel by pixel",
                "take a segmenter with per-pixel logits",
            )
        )


@torch.enable_grad()
def find_classifier(segmenter: nn.Module, num_labels: int | None = None) -> str:
    """Find the convolution that a segmenter's logits come from, by running a copy of it on an empty image.

    Args:
        segmenter (`nn.Module`): Takes images (B, channels, H, W).
        num_labels (`int`, *optional*): Number of classes K that it must have.

    Returns:
        The name of the module: of the convolutions with K outputs on the way to the logits, the last to run.

    Raises:
        ValueError: if it cannot be run so, or has no such convolution.
    """
    convolutions = {name: module for name, module in segmenter.named_modules() if isinstance(module, nn.Conv2d)}
    kind = type(segmenter).__name__
    if not convolutions:
        raise ValueError(_refusal(kind, "it has no convolutions", _NEEDS_CONVOLUTION))
    names = [name for name, module in convolutions.items() if num_labels in (None, module.out_channels)]
    cure = f"name it with classifier=..., such as one of {', '.join(names[-5:])}" if names else "name it"
    try:
        output, outputs = _run_copy(segmenter, convolutions)
    except Exception as error:  # whatever a foreign model says
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
            f"the scores of {kind} are made of those of several classifiers, "
            f"{', '.join([*beside, on_the_way[-1]])}, so that none has the coarse logits; take a segmenter with one"
        )
    return on_the_way[-1]


def _run_copy(segmenter: nn.Module, convolutions: dict[str, nn.Conv2d]) -> tuple[Any, dict[str, Tensor]]:
    """Run a copy in eval mode; returns its output, and those of its convolutions in the order they ran in.

    A copy, because a first run may leave its marks: transformers' models then keep hooks of their own.
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
        except Exception:  # pooled to nothing, or of a fixed size: the next may do
            outputs.clear()
    return copied(probes[-1]), outputs


def get_classifier(segmenter: nn.Module, classifier: str, num_labels: int | None = None) -> nn.Conv2d:
    """Look a classifier up by its name.

    Raises:
        ValueError: if it is no `Conv2d`, or not for that many classes.
    """
    modules = dict(segmenter.named_modules())
    final = modules.get(classifier)
    if not isinstance(final, nn.Conv2d):
        convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
        names = [name for name, module in convolutions.items() if num_labels in (None, module.out_channels)]
        found = "no module of that name" if final is None else f"a {type(final).__name__}"
        raise ValueError(
            f"classifier must name a Conv2d of {type(segmenter).__name__}, found {found} at {classifier!r}; it has "
            f"{', '.join(names[-8:]) or 'none with that many classes'}, or leave classifier out to have it found"
        )
    if num_labels is not None and final.out_channels != num_labels:
        raise ValueError(
            f"num_labels={num_labels}, but {classifier!r} gives scores of {final.out_channels} classes; a saved "
            "adapter is for the classes it was saved with, a new one for those of its segmenter: leave num_labels out"
        )
    if final.out_channels == 1:
        raise ValueError(f"{classifier!r} gives one score; let it score two classes, background and object")
    return final


def find_auxiliary_classifiers(segmenter: nn.Module, num_labels: int) -> list[str]:
    """Name the convolutions with K outputs in parts that are called auxiliary, as torchvision and transformers do."""
    return [
        name
        for name, module in segmenter.named_modules()
        if "aux" in name and isinstance(module, nn.Conv2d) and module.out_channels == num_labels
    ]


def find_logits(output: Any) -> Tensor:
    """Take the scores of the pixels out of what a segmenter returns: a tensor, a mapping or a tuple.

    Returns:
        `Tensor` of shape (B, K, h, w).

    Raises:
        ValueError: if there are none.
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
    """Put down how a segmenter is built, as far as it tells: its class, and what its library needs to make it."""
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
    """Build a segmenter from what `describe_segmenter` put down; its weights are random.

    Raises:
        ValueError: if it does not tell enough.
        ImportError: if its library is not installed.
    """
    library, name, config = spec.get("library"), spec.get("name", ""), spec.get("config", {})
    if library not in ("transformers", "segmentation_models_pytorch"):  # and nothing else that a file may name
        raise ValueError(
            f"the adapter was saved from a {spec.get('class')}, which does not tell how to build it again, or was "
            "changed after it was built; build one yourself and pass it: "
            "CMDLAdapter.from_pretrained(folder, segmenter=...)"
        )
    if not re.fullmatch(r"[A-Za-z0-9]+", name):
        raise NotAllowedError(f"segmenter: {name[:80]!r} is no name of a class")
    kind: Any = getattr(importlib.import_module(library), name, None)
    if not _is_module_class(kind):
        raise ValueError(f"the adapter was saved from a {name} of {library}, which the installed version has not")
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
    """Whether a recipe makes this segmenter: not if layers were replaced or added, or came as objects."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            again = build_segmenter(recipe)
    except NotAllowedError:
        return False
    except Exception:  # some cannot be built without memory; then the weights tell when they are loaded
        return True
    return _structure(again) == _structure(segmenter)


def _structure(segmenter: nn.Module) -> tuple[dict[str, type], dict[str, torch.Size]]:
    """Classes of the modules and shapes of their tensors; batch norms may have become synchronised ones."""
    kinds = {
        name: _BatchNorm if isinstance(module, _BatchNorm) else type(module)
        for name, module in segmenter.named_modules()
    }
    return kinds, {name: tensor.shape for name, tensor in segmenter.state_dict().items()}


def _is_module_class(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, nn.Module)


def _without_weights(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out the weights that an encoder was downloaded with: the saved ones take their place."""
    return {name: None if name == "encoder_weights" else value for name, value in config.items() if name[0] != "_"}


def _make_probes(segmenter: nn.Module, weight: Tensor) -> list[Tensor]:
    """Make empty images: of the size that the configuration names, or of usual ones."""
    config = getattr(segmenter, "config", None)
    size = getattr(config, "image_size", None)
    channels = getattr(config, "num_channels", None) or weight.shape[1]
    sizes = [(each, each) if isinstance(each, int) else tuple(each) for each in ([size] if size else _PROBE_SIZES)]
    # As leaves of the graph, so that there is one where all parameters are frozen.
    return [
        torch.zeros(1, channels, *each, device=weight.device, dtype=weight.dtype, requires_grad=True) for each in sizes
    ]


def _refusal(name: str, reason: str, cure: str) -> str:
    return f"CMDL cannot be added to {name}: {reason}; {cure}"
