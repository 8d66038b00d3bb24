"""Where an image lies in the pixel values of an image processor that pads, and its class map without the padding."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor


class Box(NamedTuple):
    """A part of pixel values, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def enlarged(self, padded: Sequence[int], size: Sequence[int]) -> tuple[tuple[int, int], tuple[slice, slice]]:
        """Enlarge the whole so that the part has a size.

        Args:
            padded (`Sequence[int]`): Height and width of the whole.
            size (`Sequence[int]`): Height and width that the part is to have.

        Returns:
            Height and width of the whole then, and the rows and columns of the part in it.
        """
        factors = size[0] / self.height, size[1] / self.width
        whole = [max(round(edge * factor), least) for edge, factor, least in zip(padded, factors, size, strict=True)]
        starts = [
            min(round(start * factor), edge - length)
            for start, factor, edge, length in zip((self.top, self.left), factors, whole, size, strict=True)
        ]
        rows, columns = (slice(start, start + length) for start, length in zip(starts, size, strict=True))
        return (whole[0], whole[1]), (rows, columns)


def find_image(processor: Any, image: Image.Image, padded: Sequence[int]) -> Box:
    """Find where an image lies in its pixel values: an image processor may pad it, on one side or on both.

    Args:
        processor: Image processor of transformers.
        image (PIL image): The image.
        padded (`Sequence[int]`): Height and width of its pixel values.

    Raises:
        ValueError: if the padding cannot be told from the image.
    """
    whole = Box(0, 0, padded[0], padded[1])
    if not getattr(processor, "do_pad", False):
        return whole
    white = Image.new("RGB", image.size, "white")
    unscaled = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    height, width = processor(white, **unscaled, do_pad=False)["pixel_values"].shape[-2:]
    if (height, width) == tuple(padded):
        return whole
    is_image = torch.as_tensor(processor(white, **unscaled)["pixel_values"])[0].amax(dim=0) > 127
    rows, columns = is_image.any(dim=1).nonzero().flatten(), is_image.any(dim=0).nonzero().flatten()
    if (len(rows), len(columns)) != (height, width):
        raise ValueError(
            f"the image processor pads {height} × {width} pixels to {padded[0]} × {padded[1]} in a way that is not "
            "known; set do_pad to false in preprocessor_config.json"
        )
    return Box(int(rows[0]), int(columns[0]), height, width)


def cut_out(values: Tensor, part: tuple[slice, slice]) -> Tensor:
    """Cut rows and columns out of a map (..., H, W)."""
    return values[..., part[0], part[1]]
