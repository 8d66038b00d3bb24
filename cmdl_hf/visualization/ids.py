"""Conversion of class ids to arrays."""

from typing import TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

ClassIds: TypeAlias = np.ndarray | Tensor | Image.Image
"""Class ids (H, W), in any of these forms."""


def to_ids(segmentation: ClassIds, name: str) -> np.ndarray:
    """Convert ids from an array, a tensor or an image to an int64 array (H, W); see `to_array`."""
    return to_array(segmentation, name).astype(np.int64)


def to_array(segmentation: ClassIds, name: str) -> np.ndarray:
    """Convert ids from an array, a tensor or an image to an array (H, W) of integers.

    Args:
        segmentation (`np.ndarray`, `Tensor` or PIL image of shape (H, W)): Integer ids.
        name (`str`): Name of the ids in error messages.

    Raises:
        ValueError: If they are scores, or a batch.
    """
    array = np.asarray(segmentation.cpu() if isinstance(segmentation, Tensor) else segmentation)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold integer class ids of shape (H, W), found {array.dtype} of shape {array.shape}; take "
            "logits.argmax(dim=1)[0] of scores, one image of a batch"
        )
    return array


def check_size(image: Image.Image, ids: np.ndarray, name: str) -> None:
    """Check that ids have the image's size. `name` is their name in the error message."""
    if (image.height, image.width) != ids.shape:
        raise ValueError(
            f"image and {name} must have one size, found {(image.height, image.width)} and {ids.shape} "
            "(height, width); enlarge the logits to the image's size before taking the argmax"
        )
