"""The image processor of CMDL models: transformers' Segformer processor with fitting settings, and checked images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import SegformerImageProcessor
from transformers.image_processing_utils import BatchFeature

from .images import UnfitImageError, check_given


class CMDLImageProcessor(SegformerImageProcessor):
    """transformers' Segformer processor, which refuses images that it would turn into other ones without a word.

    PIL images must have 8-bit channels, arrays and tensors must be of uint8. With `do_rescale=False` and
    normalisation, they must be of a floating-point type and in [0, 1].

    A folder that it is saved in has transformers' class, so that it loads everywhere.
    """

    def preprocess(self, images: Any, segmentation_maps: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare images, and masks of class ids, for the model.

        Args:
            images (PIL image, `np.ndarray`, `Tensor`, or a list of them): As the class describes them.
            segmentation_maps (the same, *optional*): Class ids, of whole numbers.
            kwargs: Settings of transformers' processor for this call.

        Returns:
            `BatchFeature` with `pixel_values` of shape (B, 3, H, W), and `labels`, int64, of shape (B, H, W).

        Raises:
            UnfitImageError: if the values of an image are not as described.
        """
        settings = {"do_rescale": self.do_rescale, "do_normalize": self.do_normalize}
        settings |= {name: value for name, value in kwargs.items() if value is not None}
        for image in _flatten(images):
            if settings["do_rescale"]:
                _check_bytes(image)
            elif settings["do_normalize"]:
                _check_shares(image)
        return super().preprocess(images, segmentation_maps, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, under the name of transformers' class."""
        return super().to_dict() | {"image_processor_type": "SegformerImageProcessor"}


def make_image_processor(size: dict[str, int] | None = None) -> CMDLImageProcessor:
    """Make the image processor that is saved with a model.

    transformers' Segformer processor fits without changes. It normalises with ImageNet's statistics. Without a size it
    does not change masks: palette images keep their ids, and no id is reduced. Its
    `post_process_semantic_segmentation` resizes the logits once, directly to the original size of each image.

    Args:
        size (`dict`, *optional*): Size to resize images to, in pixels: `{"height": H, "width": W}` or
            `{"shortest_edge": S}`. By default images keep their size, and all images of a batch must have the same
            size.

    Returns:
        [`CMDLImageProcessor`] that converts grey, palette, CMYK and transparent images to RGB, and refuses images of
        more than 8 bits a channel.
    """
    if size is None:
        return CMDLImageProcessor(do_resize=False, do_convert_rgb=True)
    return CMDLImageProcessor(size=size, default_to_square=False, do_convert_rgb=True)


def _flatten(images: Any) -> Iterator[Any]:
    """Yield images and batches of them, however lists hold them."""
    if isinstance(images, list | tuple):
        for image in images:
            yield from _flatten(image)
    else:
        yield images


def _check_bytes(image: Any) -> None:
    if isinstance(image, Image.Image):
        check_given(image)
    elif isinstance(image, np.ndarray | torch.Tensor) and image.dtype not in (np.uint8, torch.uint8):
        raise UnfitImageError(
            f"an array of an image must be of uint8, found {image.dtype}{_range(image)}",
            "scale its values to 0..255 and convert it to uint8, or pass floats in [0, 1] with do_rescale=False",
        )


def _check_shares(image: Any) -> None:
    found = _range(image) if isinstance(image, np.ndarray | torch.Tensor) else f" {type(image).__name__}"
    is_float = isinstance(image, np.ndarray) and np.issubdtype(image.dtype, np.floating)
    is_float |= isinstance(image, torch.Tensor) and image.is_floating_point()
    if not is_float or not (image.min() >= 0 and image.max() <= 1):
        raise UnfitImageError(
            f"with do_rescale=False an image must be an array of floats in [0, 1], found{found}",
            "leave do_rescale out for images of 8 bits",
        )


def _range(image: Any) -> str:
    is_empty = 0 in image.shape or str(image.dtype).endswith("object")
    return f" of shape {tuple(image.shape)}" if is_empty else f" with values from {image.min():g} to {image.max():g}"
