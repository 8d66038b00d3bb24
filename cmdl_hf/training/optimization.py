"""Optimiser, learning-rate schedule and frozen batch norms, as set in a recipe."""

from typing import TYPE_CHECKING, Any, assert_never

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn, optim
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import get_polynomial_decay_schedule_with_warmup

if TYPE_CHECKING:
    from .arguments import CMDLTrainingArguments


# Where convolutions are faster in (B, H, W, C), by benchmarks/gpu.py; add "cuda" once it says so.
_CHANNELS_LAST_DEVICES: tuple[str, ...] = ()


def memory_format(args: "CMDLTrainingArguments", device: torch.device) -> torch.memory_format:
    """Return the layout of images and weights: that of the recipe, or else the faster one on the device."""
    is_last = device.type in _CHANNELS_LAST_DEVICES if args.use_channels_last is None else args.use_channels_last
    return torch.channels_last if is_last else torch.contiguous_format


def make_optimizer(
    model: nn.Module, args: "CMDLTrainingArguments", mixed_precision: str | None = None
) -> optim.Optimizer:
    """Make SGD or AdamW. Heads may have a larger learning rate, and norms and biases have no weight decay.

    On a CUDA device one fused kernel updates all weights, except with SGD in fp16. There torch's fused SGD would write
    a step that the gradient scaler skips into the momenta.

    Args:
        model (`nn.Module`): A model with a `backbone`, or an adapter, whose `segmenter` is treated as the backbone. It
            must be on its device already.
        args (`CMDLTrainingArguments`): The recipe.
        mixed_precision (`str`, *optional*): The precision in use: no, bf16 or fp16.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(("backbone.", "segmenter.")), parameter.dim() > 1), []).append(
                parameter
            )
    settings = [
        {
            "params": parameters,
            "lr": args.learning_rate * (1 if is_backbone else args.head_learning_rate_factor),
            "weight_decay": args.weight_decay * decays,
        }
        for (is_backbone, decays), parameters in groups.items()
    ]
    is_cuda = all(parameter.is_cuda for parameter in model.parameters())
    # None, not False, leaves torch its choice among the other ways.
    fused = True if is_cuda and (args.optimizer == "adamw" or mixed_precision != "fp16") else None
    optimizer: optim.Optimizer
    if args.optimizer == "adamw":
        optimizer = optim.AdamW(settings, lr=args.learning_rate, fused=fused)
    elif args.optimizer == "sgd":
        optimizer = optim.SGD(settings, lr=args.learning_rate, momentum=args.momentum, fused=fused)
    else:
        assert_never(args.optimizer)
    optimizer.register_load_state_dict_pre_hook(_keep_fused)
    return optimizer


def _keep_fused(optimizer: optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Let the device decide again, where a state was saved on another one, or by a version without fused kernels."""
    fused = optimizer.defaults["fused"]
    return state | {"param_groups": [group | {"fused": fused} for group in state["param_groups"]]}


def make_schedule(optimizer: optim.Optimizer, args: "CMDLTrainingArguments") -> optim.lr_scheduler.LambdaLR:
    """Make the schedule: linear warm-up, then polynomial decay to the end of the run, in optimiser steps."""
    return get_polynomial_decay_schedule_with_warmup(
        optimizer, args.warmup_steps, args.max_steps, lr_end=args.min_learning_rate, power=args.power
    )


def prepare_batch_norms(
    model: nn.Module, frozen: str, is_synchronised: bool = False
) -> tuple[nn.Module, list[nn.Module]]:
    """Synchronise batch norms over the processes, and freeze the scales and shifts of some batch norms.

    Args:
        model (`nn.Module`): A model with a `backbone`, or an adapter, whose `segmenter` is treated as the backbone.
        frozen (`str`): Which batch norms to freeze: `"none"`, `"backbone"` or `"all"`.
        is_synchronised (`bool`): Whether to replace batch norms by synchronised ones. Only CUDA has them.

    Returns:
        The model, and the frozen norms. The caller must keep the frozen norms in eval mode, so that their running
        statistics do not change.
    """
    if is_synchronised:
        # timm's function: torch's drops the activation that timm fuses into some of its norms.
        model = convert_sync_batchnorm(model)
    backbone = getattr(model, "backbone", None) or getattr(model, "segmenter", None)
    part = {"none": nn.Module(), "backbone": backbone, "all": model}[frozen]
    if part is None:
        raise ValueError("freeze_batch_norm=backbone needs a model with a `backbone`; choose none or all")
    norms: list[nn.Module] = [module for module in part.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.requires_grad_(False)
    return model, norms
