"""Checks of a configuration of CMDL models. Each check raises a ValueError that names the field."""

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

_NOT_FIELDS = {
    "backbone": "pass backbone_config=TimmBackboneConfig(backbone=NAME, out_indices=[1, 2, 3, 4], output_stride=8)",
    "use_pretrained_backbone": "call model.load_backbone_weights() after constructing the model",
    "num_classes": "pass num_labels",
    "ignore_index": "pass semantic_loss_ignore_index",
    "output_stride": "set it in backbone_config",
    "preset": "call CMDLConfig.from_preset(NAME, **overrides)",
}
_MOST_CLASSES = 10_000
_LARGEST = {
    "hidden_size": 16_384,
    "attention_size": 16_384,
    "num_distributions": 1_024,
    "criss_cross_recurrence": 64,
    "sinkhorn_iterations": 1_000,
    "size_divisor": 256,  # images are enlarged to a multiple of it
}
_LARGEST_MEMORY = 2**28  # numbers of the prototypes, a GiB
_MOST_BRANCHES = 64


def check_names(given: Iterable[str], names: Sequence[str]) -> None:
    """Refuse misspelt fields. transformers would silently keep them as further attributes.

    Args:
        given (`Iterable[str]`): Given names that are not fields.
        names (`Sequence[str]`): Names of the fields.
    """
    for name in given:
        if name in _NOT_FIELDS:
            raise ValueError(f"{name} is not a field of CMDLConfig: {_NOT_FIELDS[name]}")
        if nearest := difflib.get_close_matches(name, names, n=1, cutoff=0.85):
            raise ValueError(f"{name} is not a field of CMDLConfig; did you mean {nearest[0]}?")


def check_sizes(config: Any, num_labels: int | None) -> None:
    """Refuse sizes that no machine has memory for, before anything is built.

    Args:
        config (`CMDLConfig`): The configuration.
        num_labels (`int`, *optional*): Number of classes K where the names of the classes do not tell it.

    Raises:
        ValueError: naming the size.
    """
    K = len(config.id2label) if config.id2label else num_labels or 2
    for name, value in {"num_labels": K, **{name: getattr(config, name) for name in _LARGEST}}.items():
        largest = _MOST_CLASSES if name == "num_labels" else _LARGEST[name]
        if value > largest:
            raise ValueError(f"{name} must be at most {largest:,}, got {value:,}")
    for name in ("pool_scales", "aspp_dilations"):
        values = getattr(config, name)
        if len(values) > _MOST_BRANCHES or max(values, default=1) > _MOST_BRANCHES:
            raise ValueError(f"{name} must have at most {_MOST_BRANCHES} numbers up to {_MOST_BRANCHES}, got {values}")
    size = K * config.num_distributions * config.hidden_size
    if config.use_distributions and size > _LARGEST_MEMORY:
        raise ValueError(
            f"the memory bank must have at most {_LARGEST_MEMORY:,} numbers, got num_labels * num_distributions * "
            f"hidden_size = {size:,}"
        )


def check_ranges(config: Any, min_hidden_size: int) -> None:
    """Refuse numbers that are out of range.

    Args:
        config (`CMDLConfig`): The configuration.
        min_hidden_size (`int`): Smallest `hidden_size` that its context module allows.
    """
    lowest = {
        "hidden_size": min_hidden_size,
        "attention_size": 1,
        "size_divisor": 1,
        "num_distributions": 1,
        "criss_cross_recurrence": 1,
        "sinkhorn_iterations": 1,
        "memory_momentum_warmup": 0,
        "ohem_min_kept": 1,
        "sinkhorn_epsilon": 0.025,  # so that exp(1 / 0.025) and its square fit into float32
        "contrastive_temperature": 0.025,
        "voting_temperature": 0.01,
        "intra_class_negative_weight": 0,
    }
    lowest |= {field.name: 0 for field in fields(config) if field.name.endswith("_loss_weight")}
    for name, minimum in lowest.items():
        if not getattr(config, name) >= minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {getattr(config, name)}")
    if not any(getattr(config, f"{name}_loss_weight") for name in _trained_losses(config)):
        raise ValueError("segmentation_loss_weight: at least one loss must have a weight above 0")
    for name in ("dropout", "memory_momentum"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {getattr(config, name)}")
    if config.intra_class_negative_weight > 1:
        raise ValueError(f"intra_class_negative_weight must lie in [0, 1], got {config.intra_class_negative_weight}")
    if config.ohem_threshold is not None and not 0 < config.ohem_threshold <= 1:
        raise ValueError(f"ohem_threshold must lie in (0, 1], or be None, got {config.ohem_threshold}")
    if config.layer_scale_init_value is not None and not math.isfinite(config.layer_scale_init_value):
        raise ValueError(f"layer_scale_init_value must be finite, or None, got {config.layer_scale_init_value}")
    for name in ("pool_scales", "aspp_dilations"):
        values = getattr(config, name)
        if not values or min(values) < 1:
            raise ValueError(f"{name} must be positive integers, got {values}")


def _trained_losses(config: Any) -> list[str]:
    """Return the names of the losses of this architecture, without `_loss_weight`."""
    names = ["segmentation"] + ["auxiliary"] * config.use_auxiliary_head
    if config.use_distributions:
        names += ["coarse", "prototype", "contrastive"] + ["class_margin"] * (not config.use_class_margin_reference)
    return names


def check_classes(config: Any) -> None:
    """Refuse names, colours and weights of classes that do not fit `num_labels`."""
    if config.num_labels < 2:
        raise ValueError(f"num_labels must be at least 2, got {config.num_labels}")
    if sorted(config.id2label) != list(range(config.num_labels)):
        raise ValueError(f"id2label must name the classes 0..{config.num_labels - 1}, got {sorted(config.id2label)}")
    if 0 <= config.semantic_loss_ignore_index < config.num_labels:
        raise ValueError(
            f"semantic_loss_ignore_index {config.semantic_loss_ignore_index} is one of the {config.num_labels} "
            f"classes; choose a value outside 0..{config.num_labels - 1}, such as "
            f"{255 if config.num_labels <= 255 else -100}"
        )
    for name in ("palette", "class_weights"):
        values = getattr(config, name)
        if values is not None and len(values) != config.num_labels:
            raise ValueError(
                f"{name} has {len(values)} entries for num_labels={config.num_labels}; give one per class"
            )
    if config.class_weights is not None and not (
        all(0 <= weight < math.inf for weight in config.class_weights) and any(config.class_weights)
    ):
        raise ValueError(f"class_weights must be finite, 0 or more and not all 0, got {config.class_weights}")
    if config.palette is not None and any(
        len(colour) != 3 or min(colour) < 0 or max(colour) > 255 for colour in config.palette
    ):
        raise ValueError("palette must hold [red, green, blue] rows with values in 0..255")


def check_feature_maps(config: Any, num_feature_maps: int) -> None:
    """Refuse a backbone that returns fewer feature maps than the heads need.

    Args:
        config (`CMDLConfig`): The configuration.
        num_feature_maps (`int`): Number of feature maps that its context module takes.
    """
    needed, reason = 1, ""
    if config.use_auxiliary_head:
        needed, reason = 2, "use_auxiliary_head=True (the second-last map feeds it)"
    if num_feature_maps > needed:
        needed, reason = num_feature_maps, f"context_module={config.context_module!r}"
    found = len(config.backbone_config.out_indices)
    if found < needed:
        raise ValueError(
            f"backbone_config.out_indices gives {found} feature map(s), but {reason} takes {needed}: "
            f"list {needed} or more stages, such as out_indices=[1, 2, 3, 4]"
        )
    if config.backbone_kwargs and config.backbone_config.model_type != "timm_backbone":
        raise ValueError(
            "backbone_kwargs are options of timm; set those of a "
            f"{config.backbone_config.model_type} backbone in backbone_config"
        )
