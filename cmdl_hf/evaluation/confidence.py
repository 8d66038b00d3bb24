"""Segment by a protocol, and find how probable the class of each pixel is."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..inference import class_map_with_confidence, match_precision, sliding_window_logits
from ..models import find_logits
from .protocols import Protocol, score_multi_scale
from .scoring import SegmentConfidently

_MOST_SCORES = 2**28  # one GiB


def segment_confidently(protocol: Protocol, num_labels: int) -> SegmentConfidently:
    """Make a function that segments images as `protocol.segment_images()` does, and gives probabilities, too.

    Args:
        protocol ([`Protocol`]): The protocol.
        num_labels (`int`): Number of classes K.

    Returns:
        A function with the arguments of `SegmentImages`. It returns class ids (B, *size), and the probability of each,
        float32; or None for an image in windows whose scores, which would be held as a whole, take more than one GiB.
    """
    return partial(_segment, protocol=protocol, num_labels=num_labels)


def _segment(
    model: nn.Module, pixel_values: Tensor, size: Sequence[int], protocol: Protocol, num_labels: int
) -> tuple[Tensor, Tensor | None]:
    if protocol.name == "ms-flip":
        probabilities = score_multi_scale(model, pixel_values, size, protocol)
        return class_map_with_confidence(probabilities, size, is_probability=True)
    if protocol.name == "whole":
        logits = find_logits(model(match_precision(pixel_values, model))).float()
        return class_map_with_confidence(logits, size)
    assert protocol.crop_size is not None
    if num_labels * pixel_values[0, 0].numel() > _MOST_SCORES:
        return protocol.segment_images()(model, pixel_values, size), None
    logits = sliding_window_logits(model, pixel_values, protocol.crop_size, protocol.stride)
    return class_map_with_confidence(logits, size)
