"""Sums over the processes of a training run. With one process they change nothing.

Data parallel training averages the gradients of P processes. For a mean over the pixels of all processes, each process
therefore divides P times its own sum by the count of all processes. The average of these values and of their gradients
then equals the mean that one process would compute on the whole batch.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """Return the number of processes P of the process group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all processes, in place and without gradient."""
    if num_processes() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Collect the tensors of all processes as (P, *shape). All must have the same shape."""
    tensors = [torch.empty_like(tensor) for _ in range(num_processes())]
    if len(tensors) == 1:
        return tensor[None]
    dist.all_gather(tensors, tensor.contiguous())
    return torch.stack(tensors)


def copy_from_first_process(tensor: Tensor) -> Tensor:
    """Copy the tensor of the first process to all processes, in place."""
    if num_processes() > 1:
        dist.broadcast(tensor, src=0)
    return tensor


def divide_by_total(sums: Tensor, weights: Tensor, across_processes: bool) -> Tensor:
    """Compute means from weighted sums; 0 where the total weight is 0.

    Args:
        sums (`Tensor` of any shape): Sums over the pixels of this process.
        weights (`Tensor` of the same shape): Sums of the weights, 0 or more. They get no gradient.
        across_processes (`bool`): Divide by the weights of all processes. All processes must then call this. The
            average of the results over the processes is the mean over all pixels.

    Returns:
        `Tensor` of the same shape.
    """
    if across_processes:
        sums, weights = sums * num_processes(), sum_over_processes(weights.detach().clone())
    return sums / torch.where(weights > 0, weights, 1)


def add_other_processes(sums: Tensor, across_processes: bool) -> Tensor:
    """Sum over all processes. The average of the gradients over the processes equals that of one process.

    Args:
        sums (`Tensor` of any shape): Sums over the pixels of this process.
        across_processes (`bool`): `False` returns `sums` unchanged. With `True` all processes must call this.

    Returns:
        `Tensor` of the same shape, equal on all processes. Its gradient goes to `sums` of this process, times P.
    """
    if not across_processes or num_processes() == 1:
        return sums
    own = sums * num_processes()
    return own + (sum_over_processes(sums.detach().clone()) - own.detach())
