"""Training and evaluation transforms of the papers, for `datasets.Dataset.with_transform`.

Reference: mmsegmentation's pipeline of RandomResize, RandomCrop, RandomFlip and PhotoMetricDistortion.
"""

from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .augmentation import TRANSFORMS, Augmentation
from .scale_crop import check_resize, scaled_size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue in [0, 1], for the normalisation of images."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue in [0, 1]."""


class TrainTransform:
    """Augmentation, normalisation and padding of a batch of training samples.

    Args:
        crop_size (`tuple[int, int]`): Height and width of the output, in pixels.
        scale_range (`tuple[float, float]`): See [`Augmentation`].
        resize (`tuple[int, int]`, *optional*): See [`Augmentation`].
        max_class_share (`float`): See [`Augmentation`].
        ignore_index (`int`): See [`Augmentation`].
        name (`str`): `"papers"`, or a name registered with `register_transform`.
        **options: Further fields of [`Augmentation`], such as `rotation`.

    Raises:
        ValueError: if the transform is unknown, or a field is out of range.

    Example:
        ```python
        train = dataset["train"].with_transform(TrainTransform(crop_size=(512, 1024)))
        train[0]["pixel_values"].shape  # torch.Size([3, 512, 1024])
        ```

    Note:
        All random numbers come from torch: `torch.manual_seed` makes them repeatable, and every worker of a
        `DataLoader` has different ones in every epoch.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float] = (0.5, 2.0),
        resize: tuple[int, int] | None = None,
        max_class_share: float = 0.75,
        ignore_index: int = 255,
        *,
        name: str = "papers",
        **options: Any,
    ) -> None:
        self.augmentation = Augmentation(
            crop_size=crop_size,
            scale_range=scale_range,
            resize=resize,
            max_class_share=max_class_share,
            ignore_index=ignore_index,
            **options,
        )
        self.name = name
        self.vary = TRANSFORMS.find(name)(self.augmentation)
        self.normalize = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD, inplace=True)
        self.pad = PadTo(crop_size, ignore_index)

    def __call__(self, samples: dict[str, list[Any]]) -> dict[str, list[Tensor]]:
        """Transform samples, each with its own random parameters.

        Args:
            samples (`dict`): Columns `image` (PIL images) and `label` (PIL images of class ids). Error messages name
                the optional column `id`. Other columns are dropped.

        Returns:
            `dict` of `pixel_values`, list of float32 `Tensor` (3, H, W), and `labels`, list of int64 `Tensor` (H, W).
        """
        pairs = [self._transform(image, label) for image, label in _read_pairs(samples)]
        return {
            "pixel_values": [image.as_subclass(Tensor) for image, _ in pairs],
            "labels": [label.as_subclass(Tensor).long() for _, label in pairs],
        }

    def _transform(self, image: PIL.Image.Image, label: tv_tensors.Mask) -> tuple[Tensor, Tensor]:
        varied, label = self.vary(image, label)
        pixels = F.to_dtype(F.to_image(varied), torch.float32, scale=True)
        if pixels.shape[-2:] != label.shape[-2:] or any(
            length > most for length, most in zip(label.shape[-2:], self.augmentation.crop_size, strict=True)
        ):
            raise ValueError(
                f"transform {self.name!r} must return image and mask of the same size, at most the crop_size "
                f"{self.augmentation.crop_size}, found {tuple(pixels.shape[-2:])} and {tuple(label.shape[-2:])}"
            )
        return self.pad(self.normalize(pixels), label)


class EvalTransform:
    """Normalisation of a batch of samples for evaluation. Labels keep their original size.

    Args:
        resize (`tuple[int, int]`, *optional*): Resize images, but not labels: length of the shorter edge and upper
            limit of the longer edge, in pixels. The aspect ratio is kept. By default images keep their size.
    """

    def __init__(self, resize: tuple[int, int] | None = None) -> None:
        check_resize(resize)
        self.resize = resize
        self.normalize = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD, inplace=True)

    def __call__(self, samples: dict[str, list[Any]]) -> dict[str, list[Tensor]]:
        """Transform samples. Input and output are those of `TrainTransform`, with labels at their original size.

        If all labels are `None`, because the owner withholds them, the result has no `labels`.
        """
        if all(label is None for label in samples["label"]):
            return {"pixel_values": [self._transform_image(_to_rgb(image)) for image in samples["image"]]}
        pairs = _read_pairs(samples)
        return {
            "pixel_values": [self._transform_image(image) for image, _ in pairs],
            "labels": [label.as_subclass(Tensor).long() for _, label in pairs],
        }

    def _transform_image(self, image: PIL.Image.Image) -> Tensor:
        height, width = scaled_size((image.height, image.width), self.resize)
        image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)  # a copy if the size is unchanged
        return self.normalize(F.to_dtype(F.pil_to_tensor(image).contiguous(), torch.float32, scale=True))


class PadTo(v2.Transform):
    """Padding at the bottom and at the right: images with 0, masks with `ignore_index`.

    Args:
        size (`tuple[int, int]`): Height and width after padding. Larger images are not changed.
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
            f"every sample needs a label, found none in sample {name}; choose a split whose labels are not withheld"
        )
    if label.mode not in ("L", "P"):
        raise ValueError(
            f"labels must be 8-bit images of class ids (mode L or P), found mode {label.mode} in sample {name}; "
            "map colours to ids when loading"
        )
    if label.size != image.size:
        raise ValueError(
            f"image and label must have the same size, found {image.size} and {label.size} (width, height) in sample "
            f"{name}; export the label at the image's size"
        )
    return _to_rgb(image), tv_tensors.Mask(F.pil_to_tensor(label)[0])


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"images must have 8 bits per channel, found mode {image.mode}; convert them when loading")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy RGB images
