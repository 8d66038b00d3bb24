"""How long a training takes here, and what would make it faster: measured in its first steps, and said once."""

import logging
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from .precision import bf16_slowdown

if TYPE_CHECKING:
    from .loop import TrainingLoop

logger = logging.getLogger(__name__)

_STEPS = 6  # of which the first prepares kernels, and is not counted
_PATIENCE = 20.0  # seconds, after which three steps are enough
_SHORT = 120.0  # seconds; nobody needs a shorter training to be faster
_SMALLEST_EDGE = 128  # pixels of a crop, below which a smaller one is not proposed


class Pace:
    """Measures the first steps of a training, then says how long a step and the rest of the training take.

    Call it after every step.

    Args:
        loop (`TrainingLoop`): The loop. Its settings and its device decide what is proposed.
        is_network_given (`bool`): Whether the network cannot be another, because a trained model is the start.
    """

    def __init__(self, loop: "TrainingLoop", is_network_given: bool = False) -> None:
        self._loop = loop
        self._is_network_given = is_network_given
        self._times: list[float] = []
        self._is_told = not loop.accelerator.is_main_process

    def __call__(self) -> None:
        """Note the time of a step."""
        if self._is_told:
            return
        if self._loop.accelerator.device.type != "cpu":
            torch.accelerator.synchronize()  # only in these few steps
        self._times.append(time.perf_counter())
        seconds = [end - start for start, end in zip(self._times, self._times[1:], strict=False)]
        if len(self._times) >= _STEPS or (len(self._times) >= 3 and self._times[-1] - self._times[0] > _PATIENCE):
            self._is_told = True
            self._tell(statistics.median(seconds))

    def _tell(self, seconds: float) -> None:
        """Say how long the training takes; an evaluation between two steps does not count, being no step."""
        left = self._loop.args.max_steps - self._loop.step
        if left <= 0:
            return
        line = f"a step takes {_format_step(seconds)} here; {left:,} more take about {format_duration(left * seconds)}"
        proposals = find_faster(self._loop, self._is_network_given) if left * seconds > _SHORT else []
        faster = f"; faster: {'; '.join(proposals)}" if proposals else ""
        logger.info(f"{line}, without scoring{faster}")


def find_faster(loop: "TrainingLoop", is_network_given: bool = False) -> list[str]:
    """Find settings that would make the steps of a training shorter, each with the reason.

    Args:
        loop (`TrainingLoop`): The loop.
        is_network_given (`bool`): See [`Pace`].

    Returns:
        `list[str]`: flags of `cmdl train` with what each changes. They also change what is learned.
    """
    args, proposals = loop.args, []
    smaller = [edge * 3 // 4 // 32 * 32 for edge in args.crop_size]
    if min(smaller) >= _SMALLEST_EDGE:
        share = 1 - smaller[0] * smaller[1] / (args.crop_size[0] * args.crop_size[1])
        proposals.append(
            f"a smaller crop (--crop-size {smaller[0]} {smaller[1]} has {100 * share:.0f} % fewer pixels)"
        )
    config: Any = getattr(loop.model, "config", None)
    if not is_network_given and getattr(getattr(config, "backbone_config", None), "output_stride", None) == 8:
        proposals.append("--output-stride 16 (a quarter of the pixels in the last feature maps)")
    if loop.accelerator.mixed_precision == "no" and (reason := _why_bf16(loop.accelerator.device)):
        proposals.append(f"--mixed-precision bf16 ({reason})")
    return proposals


def _why_bf16(device: torch.device) -> str | None:
    """Say why bf16 is fast on a device, or return None if it is not, or not known."""
    if device.type == "cpu":
        slowdown = bf16_slowdown()
        return (
            f"a convolution takes {slowdown:.2f} times as long as in float32 on this CPU" if slowdown < 0.9 else None
        )
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU computes bf16 in hardware"
    return None


def format_duration(seconds: float) -> str:
    """Write a duration in words: 45 s, 12 min, 1 h 40 min, 3 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def _format_step(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
