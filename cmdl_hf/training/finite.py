"""Checks that losses and weights are finite."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .fully_sharded import own_part

if TYPE_CHECKING:
    from .loop import TrainingLoop


def check_losses(losses: Tensor, names: list[str], first_step: int, loop: "TrainingLoop") -> None:
    """Stop at the first loss that is not finite.

    Args:
        losses (`Tensor` of shape (processes, passes, losses)): The losses since `first_step`.
        names (`list[str]`): Names of the losses.
        first_step (`int`): Steps done before the first pass.
        loop (`TrainingLoop`): The loop, which knows the images of a pass.

    Raises:
        FloatingPointError: if a loss is not finite. The message names step and images.
    """
    is_bad = ~losses.isfinite()
    if not is_bad.any():
        return
    pass_index = int(is_bad.any(dim=2).any(dim=0).nonzero()[0])
    stride = loop.images_per_pass * loop.accelerator.num_processes
    places = [
        first_step * loop.args.total_batch_size + pass_index * stride + process * loop.images_per_pass + offset
        for process in is_bad[:, pass_index].any(dim=1).nonzero().flatten().tolist()
        for offset in range(loop.images_per_pass)
    ]
    bad_names = [name for name, bad in zip(names, is_bad[:, pass_index].any(dim=0).tolist(), strict=True) if bad]
    raise FloatingPointError(
        f"step {first_step + pass_index // loop.num_passes + 1}: {', '.join(bad_names)} not finite; images "
        f"{', '.join(map(loop.stream.sample_id, places))}. Check these images with cmdl check-data, lower the "
        "learning rate, set max_grad_norm, or use bf16 or no mixed precision instead of fp16"
    )


def check_weights(loop: "TrainingLoop") -> None:
    """Stop if the last step made weights non-finite, which no loss shows yet, before they are saved.

    Args:
        loop (`TrainingLoop`): The loop of the model.

    Raises:
        FloatingPointError: in all processes, if a weight or a buffer is not finite.
    """
    state = loop.model.state_dict().items()
    parts = {name: own_part(tensor) for name, tensor in state if tensor.is_floating_point()}
    parts = {name: part for name, part in parts.items() if part.numel()}
    is_finite = torch.stack(torch._foreach_norm(list(parts.values()), math.inf)).isfinite().tolist()
    bad = [name for name, finite in zip(parts, is_finite, strict=True) if not finite]
    if not loop.agree(bool(bad)):
        return
    found = f"{len(bad)} tensors of the model are not finite, such as {bad[0]}" if bad else "tensors are not finite"
    raise FloatingPointError(
        f"step {loop.step}: {found}, but the losses were finite; lower the learning rate, or set max_grad_norm. "
        "Earlier checkpoints are kept"
    )
