"""Random scale and crop in one step, so that only the pixels of the crop are resized."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from transformers.image_transforms import get_size_with_aspect_ratio


class RandomScaleCrop(v2.Transform):
    """Random scale and crop in one step: the crop is chosen first, and only its pixels are resized.

    The result of a PIL image is a uint8 `tv_tensors.Image`. A `tv_tensors.Mask` is resized by nearest neighbour. A
    scaled image that is smaller than the crop is kept completely.

    Args:
        crop_size (`tuple[int, int]`): Height and width, in pixels.
        scale_range (`tuple[float, float]`): See `Augmentation`.
        resize (`tuple[int, int]`, *optional*): See `Augmentation`.
        max_class_share (`float`): See `Augmentation`.
        ignore_index (`int`): Label of void pixels. They do not count in the shares of the classes.
        num_tries (`int`): Number of crops checked for `max_class_share` before any crop is accepted.

    Note:
        Images are resized with antialiasing. The original's bilinear resizing has none.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float] = (0.5, 2.0),
        resize: tuple[int, int] | None = None,
        max_class_share: float = 0.75,
        ignore_index: int = 255,
        num_tries: int = 10,
    ) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.resize = resize
        self.max_class_share = max_class_share
        self.ignore_index = ignore_index
        self.num_tries = num_tries

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a scale, and then crops of the scaled labels until no class has too large a share."""
        label = next(item for item in flat_inputs if isinstance(item, tv_tensors.Mask))
        size = scaled_size(label.shape, self.resize, torch.empty(()).uniform_(*self.scale_range).item())
        box = self._draw_box(size)
        is_any_crop_right = self.max_class_share == 1 or size == box[2:]  # or only one crop is possible
        for _ in range(0 if is_any_crop_right else self.num_tries):
            if self._is_mixed(_crop_of_resized_label(label, size, box)):
                break
            box = self._draw_box(size)
        return {"size": size, "box": box}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut the drawn crop out of an image or its labels."""
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(_crop_of_resized_label(inpt, **params), like=inpt)
        return tv_tensors.Image(F.pil_to_tensor(_crop_of_resized_image(inpt, **params)))

    def _draw_box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Draw top, left, height and width of a crop of an image of `size`, uniformly over all positions."""
        height, width = min(size[0], self.crop_size[0]), min(size[1], self.crop_size[1])
        top = int(torch.randint(size[0] - height + 1, ()))
        left = int(torch.randint(size[1] - width + 1, ()))
        return top, left, height, width

    def _is_mixed(self, label: Tensor) -> bool:
        """Return whether every class has less than `max_class_share` of the non-void pixels."""
        counts = torch.bincount(label.flatten(), minlength=self.ignore_index + 1)
        counts[self.ignore_index] = 0
        return bool(counts.max() < self.max_class_share * counts.sum())


def check_resize(resize: tuple[int, int] | None) -> None:
    """Refuse an impossible `resize`.

    Raises:
        ValueError: if an edge is below 1.
    """
    if resize is not None and min(resize) < 1:
        raise ValueError(f"resize must be (shorter edge, limit of the longer) in pixels, at least 1, found {resize}")


def _crop_of_resized_image(
    image: PIL.Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]
) -> PIL.Image.Image:
    """Resize to `size` and cut out `box` (top, left, height, width). Only the pixels of the box are computed."""
    top, left, height, width = box
    y, x = image.height / size[0], image.width / size[1]
    source = (left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height))
    return image.resize((width, height), PIL.Image.Resampling.BILINEAR, box=source)


def _crop_of_resized_label(label: Tensor, size: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    """Resize (H, W) to `size` by nearest neighbour and cut out `box`. Only the pixels of the box are computed."""
    top, left, height, width = box
    # The centre of row i lies at (i + 1/2) H / H'. With integers, rounding does not depend on the start of the crop.
    rows = (2 * np.arange(top, top + height) + 1) * label.shape[0] // (2 * size[0])
    columns = (2 * np.arange(left, left + width) + 1) * label.shape[1] // (2 * size[1])
    return torch.from_numpy(label.numpy().take(rows, axis=0).take(columns, axis=1))


def scaled_size(size: Sequence[int], resize: tuple[int, int] | None, scale: float = 1.0) -> tuple[int, int]:
    """Return the scaled size of an image of `size` (height, width). `resize` gives the edges at scale 1."""
    if resize is not None:  # the same rounding as in the image processor of a saved model
        size = get_size_with_aspect_ratio(size, *resize)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
