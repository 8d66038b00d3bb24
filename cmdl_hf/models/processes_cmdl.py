"""Sums over the processes of a training run; in one process they leave everything as it is.

Data parallel training averages the gradients of P processes. A mean over the pixels of all of them therefore divides
by what all of them counted, and each process takes P times its own part: the average of the parts, and of their
gradients, is then the mean that one process would have computed on the whole batch.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """Count the processes P of the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add `tensor` up over all processes, in place and without gradient."""
    if num_processes() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Collect the tensors of all processes, of one shape everywhere, as (P, *shape)."""
    tensors = [torch.empty_like(tensor) for _ in range(num_processes())]
    if len(tensors) == 1:
        return tensor[None]
    dist.all_gather(tensors, tensor.contiguous())
    return torch.stack(tensors)


def copy_from_first_process(tensor: Tensor) -> Tensor:
    """Give every process what the first one has, in place."""
    if num_processes() > 1:
        dist.broadcast(tensor, src=0)
    return tensor


def divide_by_total(sums: Tensor, weights: Tensor, across_processes: bool) -> Tensor:
    """Turn weighted sums into means; 0 where nothing weighs.

    Args:
        sums (`Tensor` of any shape): Sums over this process's pixels.
        weights (`Tensor` of the same shape): What they weigh, 0 or more; takes no gradient.
        across_processes (`bool`): Divide by the weights of all processes, which all must then call this. The average
            of the results over the processes is the mean over all pixels.

    Returns:
        `Tensor` of the same shape.
    """
    if across_processes:
        sums, weights = sums * num_processes(), sum_over_processes(weights.detach().clone())
    return sums / torch.where(weights > 0, weights, 1)


def add_other_processes(sums: Tensor, across_processes: bool) -> Tensor:
    """Sums over all processes whose gradient, once averaged over the processes, is that of one process.

    Args:
        sums (`Tensor` of any shape): Sums over this process's pixels.
        across_processes (`bool`): `False` returns them as they are; otherwise all processes must call this.

    Returns:
        `Tensor` of the same shape, equal on all processes; the gradient reaches this process's part, times P.
    """
    if not across_processes or num_processes() == 1:
        return sums
    own = sums * num_processes()
    return own + (sum_over_processes(sums.detach().clone()) - own.detach())
