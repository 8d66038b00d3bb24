"""Pixels go where a model is, in its precision."""

import torch
from torch import Tensor, nn


def find_device(model: nn.Module) -> torch.device:
    """Find the device on which a model takes its inputs.

    Weights that accelerate has offloaded are on the meta device between two passes. Its hooks move the inputs.
    """
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def match_precision(pixel_values: Tensor, model: nn.Module) -> Tensor:
    """Convert pixel values to the dtype of a model's weights, such as bfloat16."""
    dtypes = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return pixel_values.to(next(dtypes, pixel_values.dtype))
