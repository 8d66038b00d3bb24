"""Trace the inference part of a segmenter with `torch.export`, for every image size if possible."""

import copy
import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..models import (
    CMDLForSemanticSegmentation,
    CMDLSemanticAggregation,
    collect_votes,
    divide_votes,
    scale_channels,
)

logger = logging.getLogger(__name__)

_EXAMPLE = (2, 224, 448)  # batch, height and width: multiples of all usual strides, patches and windows


class _Logits(nn.Module):
    """A segmenter as a function from pixels to logits.

    Args:
        model (`nn.Module`): A segmenter whose output has `logits`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits (B, K, h, w) of images (B, channels, H, W)."""
        return self.model(pixel_values=pixel_values).logits


class _LogitsAndClasses(nn.Module):
    """A segmenter as a function from pixels to logits and to the classes at the size of the pixels.

    Args:
        model (`nn.Module`): A segmenter whose output has `logits`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B, K, h, w) of images (B, channels, H, W), and the classes (B, H, W), int64."""
        logits = self.model(pixel_values=pixel_values).logits
        scores = F.interpolate(logits, size=pixel_values.shape[-2:], mode="bilinear", align_corners=False)
        return logits, scores.argmax(dim=1)


class _FoldedMemory(nn.Module):
    """Replaces a memory bank, whose prototypes are in `_FoldedAggregation`.

    Args:
        unit_prototypes (`Tensor` of shape (M, K, C), *optional*): Prototypes of unit length, if pixels are compared.
    """

    unit_prototypes: Tensor

    def __init__(self, unit_prototypes: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("unit_prototypes", unit_prototypes)

    def forward(self) -> None:
        """Return no prototypes."""

    def directions(self, _: None) -> Tensor:
        """Return the unit-length prototypes."""
        return self.unit_prototypes


class _FoldedAggregation(nn.Module):
    """`CMDLSemanticAggregation` with the product of prototypes and fusion as a constant.

    Args:
        aggregation (`CMDLSemanticAggregation`): Aggregation of the model.
        prototypes (`Tensor` of shape (K, M, C)): Prototypes of the memory bank.
    """

    votes: Tensor

    def __init__(self, aggregation: CMDLSemanticAggregation, prototypes: Tensor) -> None:
        super().__init__()
        self.vote_fusion = nn.Sequential(*list(aggregation.vote_fusion)[1:])  # normalisation and activation
        self.voting_temperature = aggregation.voting_temperature
        votes = aggregation.vote_fusion.make_votes(prototypes, self.voting_temperature is None)
        self.register_buffer("votes", votes.detach().contiguous())  # (C, K, 1, 1) or (M, K, C)
        self.attention = aggregation.attention
        self.layer_scale = aggregation.layer_scale

    def forward(
        self, pixel_features: Tensor, class_probabilities: Tensor, prototypes: None, similarity: Tensor | None
    ) -> Tensor:
        """Aggregate features (B, C, h, w) with probabilities (B, K, h, w); return (B, C, h, w)."""
        if self.voting_temperature is None:
            voted = F.conv2d(class_probabilities, self.votes)
        else:
            assert similarity is not None
            shares = divide_votes(class_probabilities, similarity, self.voting_temperature)
            voted = collect_votes(shares, self.votes, class_probabilities)
        return scale_channels(self.attention(pixel_features, self.vote_fusion(voted)), self.layer_scale)


def fold(model: nn.Module) -> nn.Module:
    """Return a copy of a CMDL model without the parts that inference does not need."""
    if not isinstance(model, CMDLForSemanticSegmentation):
        return model
    folded = copy.copy(model)
    folded._modules = model._modules | {"auxiliary_head": None}
    if model.config.use_distributions:
        aggregation = _FoldedAggregation(model.semantic_aggregation, model.memory_bank.read())
        folded._modules |= {"semantic_aggregation": aggregation}
        if model.config.voting == "class":
            folded._modules |= {"memory_bank": _FoldedMemory(None), "distribution_learning": None}
        else:
            folded._modules |= {"memory_bank": _FoldedMemory(model.memory_bank.directions())}
    return folded


def trace(
    model: nn.Module, image_size: Sequence[int] | None, image_processor: Any, has_classes: bool = False
) -> tuple[ExportedProgram, tuple[int, int] | None]:
    """Trace a model, for every image size if possible. Also return the image size, if there is only one."""
    folded = fold(model)
    graph = (_LogitsAndClasses(folded) if has_classes else _Logits(folded)).eval()
    channels, reason = num_channels(model), _why_one_size(model)
    if image_size is None and reason is None:
        try:
            return _export(graph, (_EXAMPLE[0], channels, *_EXAMPLE[1:]), is_any_size=True), None
        except Exception as error:  # a backbone for one image size can raise anything
            reason = first_line(error)
    size = tuple(image_size or _own_size(model, image_processor) or ())
    if not size:
        raise ValueError(
            f"this model cannot be exported for every image size ({reason}); choose one with image_size or "
            "--image-size HEIGHT WIDTH"
        )
    try:
        program = _export(graph, (_EXAMPLE[0], channels, *size), is_any_size=False)
    except Exception as error:
        raise ValueError(
            f"this model cannot be exported for images of {size[0]}×{size[1]} ({first_line(error)}); choose a size "
            "that the model takes: image_size, --image-size HEIGHT WIDTH"
        ) from error
    if image_size is None:
        text = "The file accepts only images of %d×%d, because this backbone needs one size (%s); --image-size sets it"
        logger.info(text, *size, reason)
    return program, (size[0], size[1])


def _export(graph: nn.Module, shape: tuple[int, ...], is_any_size: bool) -> ExportedProgram:
    """Trace a graph with an example of shape (B, channels, H, W) for every batch size, and maybe every image size."""
    logger.info("tracing the model")
    is_open = (True, False, is_any_size, is_any_size)
    dimensions = {i: Dim.DYNAMIC for i, is_dynamic in enumerate(is_open) if is_dynamic}
    with torch.no_grad():
        return torch.export.export(graph, (torch.zeros(shape),), dynamic_shapes=(dimensions,), strict=False)


def _why_one_size(model: nn.Module) -> str | None:
    """Return why `torch.export` would take hours for every image size, or None if it would not."""
    for module in model.modules():
        if isinstance(module, Conv2dSame):
            return "padding that depends on the size, pad_type='same'"
        if getattr(module, "window_size", None) is not None:
            return "attention within windows"
    return None


def num_channels(model: nn.Module) -> int:
    """Return the number of input channels of a segmenter."""
    config: Any = model.config
    backbone_config = getattr(config, "backbone_config", None)
    return getattr(backbone_config, "num_channels", None) or getattr(config, "num_channels", None) or 3


def _own_size(model: nn.Module, image_processor: Any) -> tuple[int, int] | None:
    """Find the image size for which a network, or else its image processor, is configured."""
    config: Any = model.config
    found = [getattr(module, "img_size", None) for module in model.modules()]
    found += [getattr(part, "image_size", None) for part in (getattr(config, "backbone_config", None), config)]
    if image_processor is not None:
        size = settings_of(image_processor).get("size") or {}
        found.append((size["height"], size["width"]) if "height" in size else size.get("shortest_edge"))
    for size in found:
        if isinstance(size, int):
            return size, size
        if isinstance(size, Sequence) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def settings_of(image_processor: Any) -> dict[str, Any]:
    """Return the settings of an image processor that are not None."""
    settings = json.loads(image_processor.to_json_string())
    return {key: value for key, value in settings.items() if value is not None}


def first_line(error: Exception | None) -> str:
    """Return the first line of an error message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
