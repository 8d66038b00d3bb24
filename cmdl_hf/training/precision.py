"""Mixed precision on a CPU: which of its kinds is fast is measured, because it depends on the processor."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

_MAX_SECONDS = 0.3  # after which no further round begins


def check_precision(accelerator: "Accelerator") -> None:
    """Refuse fp16 on a CPU, and warn of bf16 where it is slower than float32.

    Raises:
        ValueError: if fp16 is set on a CPU. The message proposes the fastest precision of this CPU.
    """
    if accelerator.device.type != "cpu":
        return
    if accelerator.mixed_precision == "fp16":
        raise ValueError(
            "mixed_precision=fp16 does not work on a CPU: accelerate would train in float32; choose "
            f"{'no, which is' if bf16_slowdown() > 1 else 'bf16, which is'} faster on this CPU"
        )
    if accelerator.mixed_precision == "bf16" and accelerator.is_main_process and (slowdown := bf16_slowdown()) > 1.1:
        logger.warning(
            f"mixed_precision=bf16 is slow on this CPU: a convolution takes {slowdown:.1f} times as long as in "
            "float32. Choose mixed_precision=no"
        )


_MEASURING = threading.Lock()  # two at once would leave the process with one thread


@cache
def bf16_slowdown() -> float:
    """Measure how many times as long as in float32 a convolution with its gradient takes in bf16 on the CPU.

    Processors without AMX or AVX512-BF16 compute bf16 slowly. It takes less than a second, with one thread: several
    would wait for each other where the machine has other work.
    """
    with _MEASURING:
        return _measure_slowdown()


def _measure_slowdown() -> float:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            convolution, images = nn.Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 48, 48)

            def step(is_bf16: bool) -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                    result = convolution(images)
                torch.autograd.grad(result.sum(), convolution.weight)

            in_float32, in_bf16 = _shortest([lambda: step(False), lambda: step(True)])
    finally:
        torch.set_num_threads(num_threads)
    return in_bf16 / in_float32


def _shortest(steps: Sequence[Callable[[], object]]) -> list[float]:
    """Return the shortest of up to ten times of each step, in turn; the first prepares kernels."""
    begin = time.perf_counter()
    rounds: list[list[float]] = []
    while len(rounds) < 11 and (len(rounds) < 2 or time.perf_counter() - begin < _MAX_SECONDS):
        times = []
        for step in steps:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        rounds.append(times)
    return [min(times) for times in zip(*rounds[1:], strict=True)]
