"""Into how many pieces a large computation is divided, by device.

A CPU is the fastest with many small pieces that stay in its cache. An accelerator starts a kernel for every operator
of every piece, so it takes few large pieces within a budget of memory.
"""

import itertools

import torch

MEMORY_BUDGET = 2**28  # bytes (256 MiB) of what a computation holds at once on an accelerator


def takes_large_pieces(device: torch.device) -> bool:
    """Tell whether large pieces are the faster ones on a device: on all but the CPU."""
    return device.type != "cpu"


def divide(length: int, num_pieces: int) -> list[slice]:
    """Divide indices 0..length-1 into contiguous pieces of about the same size, as many as asked for if possible."""
    num_pieces = max(1, min(num_pieces, length))
    bounds = [length * i // num_pieces for i in range(num_pieces + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(bounds)]
