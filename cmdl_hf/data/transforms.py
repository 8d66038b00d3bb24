"""Training and evaluation transforms of the papers, for `datasets.Dataset.with_transform`.

Reference: mmsegmentation's pipeline of RandomResize, RandomCrop, RandomFlip and PhotoMetricDistortion.
"""

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

from .photometric import PhotometricDistortion

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TrainTransform:
    """Random scale, crop, flip, photometric distortion, normalisation and padding of a batch of samples.

    Args:
        crop_size (`tuple[int, int]`): Height and width of what comes out.
        scale_range (`tuple[float, float]`): Range of the random scale, relative to the size after `resize`.
        resize (`tuple[int, int]`, *optional*): Shorter edge and limit of the longer edge, in pixels, that scale 1
            means; the aspect ratio stays. Omitted, scale 1 is the image's own size.
        max_class_share (`float`): A class should have less than this share of a crop's non-void pixels; 1 takes any.
        ignore_index (`int`): Label of void pixels and of the padding, in 0..255.

    Example:
        ```python
        train = dataset["train"].with_transform(TrainTransform(crop_size=(512, 1024)))
        train[0]["pixel_values"].shape  # torch.Size([3, 512, 1024])
        ```

    Note:
        All randomness is torch's: `torch.manual_seed` repeats it, and every worker of a `DataLoader` gets its own,
        anew in every epoch.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float] = (0.5, 2.0),
        resize: tuple[int, int] | None = None,
        max_class_share: float = 0.75,
        ignore_index: int = 255,
    ) -> None:
        self.transform = v2.Compose(
            [
                RandomScaleCrop(crop_size, scale_range, resize, max_class_share, ignore_index),
                v2.RandomHorizontalFlip(),
                PhotometricDistortion(),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD, inplace=True),
                PadTo(crop_size, ignore_index),
            ]
        )

    def __call__(self, samples: dict[str, list[Any]]) -> dict[str, list[Tensor]]:
        """Transform samples, each drawing its own parameters.

        Args:
            samples (`dict`): Columns `image` (PIL images) and `label` (PIL images of class ids); `id` names a sample
                in errors, other columns are dropped.

        Returns:
            `dict` of `pixel_values`, list of float32 `Tensor` (3, H, W), and `labels`, list of int64 `Tensor` (H, W).
        """
        pairs = [self.transform(image, label) for image, label in _read_pairs(samples)]
        return {
            "pixel_values": [image.as_subclass(Tensor) for image, _ in pairs],
            "labels": [label.as_subclass(Tensor).long() for _, label in pairs],
        }


class EvalTransform:
    """Normalisation of a batch of samples whose labels keep their original size.

    Args:
        resize (`tuple[int, int]`, *optional*): Shorter edge and limit of the longer edge that images, but never
            labels, are resized to; the aspect ratio stays. Omitted, images keep their size.
    """

    def __init__(self, resize: tuple[int, int] | None = None) -> None:
        check_resize(resize)
        self.resize = resize
        self.normalize = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD, inplace=True)

    def __call__(self, samples: dict[str, list[Any]]) -> dict[str, list[Tensor]]:
        """Transform samples; takes and returns what `TrainTransform` does, the labels at their original size.

        In a split whose labels are withheld, every label `None`, no `labels` come out.
        """
        if all(label is None for label in samples["label"]):
            return {"pixel_values": [self._transform_image(_to_rgb(image)) for image in samples["image"]]}
        pairs = _read_pairs(samples)
        return {
            "pixel_values": [self._transform_image(image) for image, _ in pairs],
            "labels": [label.as_subclass(Tensor).long() for _, label in pairs],
        }

    def _transform_image(self, image: PIL.Image.Image) -> Tensor:
        height, width = _scaled_size((image.height, image.width), self.resize)
        image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)  # a copy where the size is the same
        return self.normalize(F.to_dtype(F.pil_to_tensor(image).contiguous(), torch.float32, scale=True))


class RandomScaleCrop(v2.Transform):
    """Random scale and crop in one step: the crop is chosen first, and only what it keeps is resized.

    A PIL image becomes a uint8 `tv_tensors.Image`; a `tv_tensors.Mask` goes with it, by nearest neighbour. Where the
    scaled image is smaller than the crop, all of it is kept.

    Args:
        crop_size (`tuple[int, int]`): Height and width, in pixels.
        scale_range (`tuple[float, float]`): See `TrainTransform`.
        resize (`tuple[int, int]`, *optional*): See `TrainTransform`.
        max_class_share (`float`): See `TrainTransform`.
        ignore_index (`int`): Label of void pixels, which have no part in the shares.
        num_tries (`int`): Crops to look at before any is taken.

    Note:
        Images are resized with antialiasing, which the original's bilinear resizing lacks.
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
        if min(crop_size) < 1:
            raise ValueError(f"crop_size must be (height, width) in pixels, both at least 1, found {crop_size}")
        if not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"scale_range must be (smallest, largest), both above 0, found {scale_range}")
        if not 0 < max_class_share <= 1:
            raise ValueError(f"max_class_share must lie in (0, 1], found {max_class_share}")
        if not 0 <= ignore_index <= 255:
            raise ValueError(f"ignore_index must lie in 0..255, as the ids of 8-bit labels do, found {ignore_index}")
        check_resize(resize)
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.resize = resize
        self.max_class_share = max_class_share
        self.ignore_index = ignore_index
        self.num_tries = num_tries

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a scale, then crops of the scaled labels until no class has too large a share of one."""
        label = next(item for item in flat_inputs if isinstance(item, tv_tensors.Mask))
        size = _scaled_size(label.shape, self.resize, torch.empty(()).uniform_(*self.scale_range).item())
        box = self._draw_box(size)
        is_any_crop_right = self.max_class_share == 1 or size == box[2:]  # or there is but one
        for _ in range(0 if is_any_crop_right else self.num_tries):
            if self._is_mixed(_crop_of_resized_label(label, size, box)):
                break
            box = self._draw_box(size)
        return {"size": size, "box": box}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut the crop that was drawn out of an image or its labels."""
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(_crop_of_resized_label(inpt, **params), like=inpt)
        return tv_tensors.Image(F.pil_to_tensor(_crop_of_resized_image(inpt, **params)))

    def _draw_box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Draw top, left, height and width of a crop of an image of `size`, all places alike."""
        height, width = min(size[0], self.crop_size[0]), min(size[1], self.crop_size[1])
        top = int(torch.randint(size[0] - height + 1, ()))
        left = int(torch.randint(size[1] - width + 1, ()))
        return top, left, height, width

    def _is_mixed(self, label: Tensor) -> bool:
        """Whether no class has more than its share of the non-void pixels."""
        counts = torch.bincount(label.flatten(), minlength=self.ignore_index + 1)
        counts[self.ignore_index] = 0
        return bool(counts.max() < self.max_class_share * counts.sum())


class PadTo(v2.Transform):
    """Padding at the bottom and the right up to a size: images with 0, masks with `ignore_index`.

    Args:
        size (`tuple[int, int]`): Height and width to reach; what is larger already stays so.
        ignore_index (`int`): Label of the padding.
    """

    def __init__(self, size: tuple[int, int], ignore_index: int = 255) -> None:
        super().__init__()
        self.size = size
        self.ignore_index = ignore_index

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Pad an image or a mask."""
        height, width = inpt.shape[-2:]
        padding = [0, 0, max(self.size[1] - width, 0), max(self.size[0] - height, 0)]  # left, top, right, bottom
        if not any(padding):
            return inpt
        return F.pad(inpt, padding, fill=self.ignore_index if isinstance(inpt, tv_tensors.Mask) else 0)


def check_resize(resize: tuple[int, int] | None) -> None:
    """Refuse edges that no image can have.

    Raises:
        ValueError: if one is below 1.
    """
    if resize is not None and min(resize) < 1:
        raise ValueError(f"resize must be (shorter edge, limit of the longer) in pixels, at least 1, found {resize}")


def _crop_of_resized_image(
    image: PIL.Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]
) -> PIL.Image.Image:
    """Resize to `size` and cut out `box` (top, left, height, width), computing no more than the box."""
    top, left, height, width = box
    y, x = image.height / size[0], image.width / size[1]
    source = (left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height))
    return image.resize((width, height), PIL.Image.Resampling.BILINEAR, box=source)


def _crop_of_resized_label(label: Tensor, size: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    """Resize (H, W) to `size` by nearest neighbour and cut out `box`, computing no more than the box."""
    top, left, height, width = box
    # The centre of row i lies at (i + 1/2) H / H'. In integers no rounding depends on where the crop begins.
    rows = (2 * np.arange(top, top + height) + 1) * label.shape[0] // (2 * size[0])
    columns = (2 * np.arange(left, left + width) + 1) * label.shape[1] // (2 * size[1])
    return torch.from_numpy(label.numpy().take(rows, axis=0).take(columns, axis=1))


def _scaled_size(size: Sequence[int], resize: tuple[int, int] | None, scale: float = 1.0) -> tuple[int, int]:
    """Size of an image of `size` (height, width) at a scale; `resize` names the edges at scale 1."""
    if resize is not None:  # rounded as the image processor does, which prepares images for a saved model
        size = get_size_with_aspect_ratio(size, *resize)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _read_pairs(samples: dict[str, list[Any]]) -> list[tuple[PIL.Image.Image, tv_tensors.Mask]]:
    """Turn the columns of a batch into pairs of an RGB image and its mask."""
    names = samples.get("id", range(len(samples["image"])))
    return [
        _read_pair(name, image, label)
        for name, image, label in zip(names, samples["image"], samples["label"], strict=True)
    ]


def _read_pair(
    name: Any, image: PIL.Image.Image, label: PIL.Image.Image | None
) -> tuple[PIL.Image.Image, tv_tensors.Mask]:
    if label is None:
        raise ValueError(
            f"a label is needed, found none in sample {name}; choose a split whose labels are not withheld"
        )
    if label.mode not in ("L", "P"):
        raise ValueError(
            f"labels must be 8-bit images of class ids (mode L or P), found mode {label.mode} in sample {name}; "
            "map colours to ids when loading"
        )
    if label.size != image.size:
        raise ValueError(
            f"image and label must have one size, found {image.size} and {label.size} (width, height) in sample {name}"
            "; export the label at the image's size"
        )
    return _to_rgb(image), tv_tensors.Mask(F.pil_to_tensor(label)[0])


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"images must have 8 bits a channel, found mode {image.mode}; scale them when loading")
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies what is RGB already
