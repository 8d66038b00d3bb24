"""Augmentation of training images: its settings, and the registry of transforms.

Reference: mmsegmentation's pipeline of RandomResize, RandomCrop, RandomFlip and PhotoMetricDistortion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..registry import Registry
from .photometric import PhotometricDistortion
from .scale_crop import RandomScaleCrop, check_resize

_MOST_COLOR = 5 / 3  # at this strength the largest hue shift is a sixth of the full turn


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Settings of the augmentation of training images.

    Args:
        crop_size (`tuple[int, int]`): Height and width of the crops, in pixels.
        scale_range (`tuple[float, float]`): Lowest and highest factor of the random scaling, relative to the size
            after `resize`.
        resize (`tuple[int, int]`, *optional*): Image size at scale 1: length of the shorter edge and upper limit of
            the longer edge, in pixels. The aspect ratio is kept. By default scale 1 is the image's own size.
        max_class_share (`float`): Largest share of one class among the non-void pixels of a crop. Crops are drawn
            again, a limited number of times, until they meet this limit. 1 accepts every crop.
        use_flip (`bool`): Mirror images left to right with probability 1/2.
        use_vertical_flip (`bool`): Mirror images top to bottom with probability 1/2.
        rotation (`float`): Largest angle of the random rotation, in degrees, in [0, 180]. Crops are rotated in both
            directions. New pixels at the corners are black and void.
        color_strength (`float`): Strength of the random colour changes, in [0, 5/3]. 1 is the strength in the papers,
            0 changes no colours.
        swapped_classes (`Sequence[tuple[int, int]]`): Pairs of class ids that are swapped in mirrored images, such as
            left arm and right arm. Both flips swap them.
        ignore_index (`int`): Label of void pixels and of the padding, in 0..255.

    Raises:
        ValueError: if a field is out of range. The message names the field.
    """

    crop_size: tuple[int, int]
    scale_range: tuple[float, float] = (0.5, 2.0)
    resize: tuple[int, int] | None = None
    max_class_share: float = 0.75
    use_flip: bool = True
    use_vertical_flip: bool = False
    rotation: float = 0.0
    color_strength: float = 1.0
    swapped_classes: Sequence[tuple[int, int]] = ()
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1:
            raise ValueError(f"crop_size must be (height, width) in pixels, both at least 1, found {self.crop_size}")
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(f"scale_range must be (smallest, largest), both above 0, found {self.scale_range}")
        if not 0 < self.max_class_share <= 1:
            raise ValueError(f"max_class_share must lie in (0, 1], found {self.max_class_share}")
        if not 0 <= self.ignore_index <= 255:
            raise ValueError(f"ignore_index must lie in 0..255, because labels have 8 bits, found {self.ignore_index}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must lie in [0, 180] degrees, found {self.rotation}")
        if not 0 <= self.color_strength <= _MOST_COLOR:
            raise ValueError(f"color_strength must lie in [0, 5/3], found {self.color_strength}")
        check_resize(self.resize)
        self._check_swapped_classes()

    def _check_swapped_classes(self) -> None:
        if not self.swapped_classes:
            return
        ids = [id_ for pair in self.swapped_classes for id_ in pair]
        if len(set(ids)) < len(ids) or not all(0 <= id_ <= 255 and id_ != self.ignore_index for id_ in ids):
            raise ValueError(
                "swapped_classes must be pairs of class ids in which no class occurs twice, found "
                f"{[tuple(pair) for pair in self.swapped_classes]}"
            )
        if not (self.use_flip or self.use_vertical_flip):
            raise ValueError(
                "swapped_classes needs a flip, but use_flip and use_vertical_flip are False: leave swapped_classes "
                "out, or set a flip"
            )


MakeTransform = Callable[[Augmentation], Callable[..., Any]]
"""Takes an [`Augmentation`]; see [`register_transform`]."""

TRANSFORMS: Registry[MakeTransform] = Registry("transform")


def register_transform(name: str, make: MakeTransform) -> None:
    """Register a transform of training images, for recipes and for `--transform`.

    Args:
        name (`str`): Name of the transform in recipes.
        make (`Callable`): Function that takes an [`Augmentation`], the settings of the recipe, and returns a
            transform of torchvision's v2. The transform takes an RGB `PIL.Image` and its `tv_tensors.Mask` (H, W),
            uint8. It returns both, with a size of at most `augmentation.crop_size`; the image may be a PIL image or a
            tensor (3, H', W'), uint8 or floating point in [0, 1]. Normalisation and padding follow automatically.
            Use only random numbers of torch, so that a run can be repeated. The transform must be picklable for the
            worker processes: define its class or function at the top level of a file.

    Raises:
        ValueError: if the name is taken.

    Example:
        ```python
        from torchvision.transforms import v2

        from cmdl_hf import register_transform


        def make_plain_crop(augmentation):
            return v2.RandomCrop(augmentation.crop_size, pad_if_needed=True)


        register_transform("plain_crop", make_plain_crop)
        ```
    """
    TRANSFORMS.register(name, make)


def check_transform(name: str) -> None:
    """Refuse an unknown transform.

    Raises:
        ValueError: if the transform is not registered. The message lists the registered ones.
    """
    TRANSFORMS.find(name)


class RandomFlip(v2.Transform):
    """Mirror images and masks with probability 1/2, and swap pairs of classes in mirrored masks.

    Args:
        is_vertical (`bool`): Mirror top to bottom instead of left to right.
        swapped_classes (`Sequence[tuple[int, int]]`): See [`Augmentation`].
    """

    def __init__(self, is_vertical: bool = False, swapped_classes: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.is_vertical = is_vertical
        self.swapped_classes = tuple(swapped_classes)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether to mirror."""
        return {"is_flipped": bool(torch.rand(1) < 0.5)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Mirror an image or a mask, if `make_params` decided so."""
        if not params["is_flipped"]:
            return inpt
        flipped = v2.functional.vertical_flip(inpt) if self.is_vertical else v2.functional.horizontal_flip(inpt)
        if self.swapped_classes and isinstance(inpt, tv_tensors.Mask):
            flipped = tv_tensors.wrap(self._swap_table()[flipped.long()], like=inpt)
        return flipped

    def _swap_table(self) -> torch.Tensor:
        """Return the new class of every class: a table (256,)."""
        table = torch.arange(256, dtype=torch.uint8)
        for first, second in self.swapped_classes:
            table[first], table[second] = second, first
        return table


def make_papers_transform(augmentation: Augmentation) -> v2.Transform:
    """Make the transform of the papers: random scale, crop, flip and photometric distortion."""
    steps: list[v2.Transform] = [
        RandomScaleCrop(
            augmentation.crop_size,
            augmentation.scale_range,
            augmentation.resize,
            augmentation.max_class_share,
            augmentation.ignore_index,
        )
    ]
    if augmentation.use_flip:
        steps.append(RandomFlip(swapped_classes=augmentation.swapped_classes))
    if augmentation.use_vertical_flip:
        steps.append(RandomFlip(is_vertical=True, swapped_classes=augmentation.swapped_classes))
    if augmentation.rotation:
        fill = {tv_tensors.Mask: augmentation.ignore_index, "others": 0}
        bilinear = v2.InterpolationMode.BILINEAR
        steps.append(v2.RandomRotation(augmentation.rotation, interpolation=bilinear, fill=fill))
    if strength := augmentation.color_strength:
        factors = 1 - 0.5 * strength, 1 + 0.5 * strength
        steps.append(PhotometricDistortion(32 / 255 * strength, factors, factors, min(0.1 * strength, 1 / 6)))
    return v2.Compose(steps)


register_transform("papers", make_papers_transform)
