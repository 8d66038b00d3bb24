"""Photometric distortion. Hue and saturation are changed in RGB.

Reference: mmsegmentation's PhotoMetricDistortion, which converts to HSV and back for hue and for saturation.
"""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

_STRIP_ROWS = 32  # 32 rows of 1024 pixels and their intermediates fit into a core's cache


class PhotometricDistortion(v2.Transform):
    """Random brightness, contrast, saturation and hue, each with probability 1/2 (photometric distortion).

    Contrast is changed before or after saturation and hue, with probability 1/2 each. Images may be uint8 or floating
    point in [0, 1]. The result is float32 in [0, 1]. Inputs that are not images are returned unchanged.

    Args:
        brightness (`float`): Largest value added or subtracted, as a fraction of full brightness.
        contrast (`tuple[float, float]`): Range of the factor of all values.
        saturation (`tuple[float, float]`): Range of the factor of the HSV saturation.
        hue (`float`): Largest shift of the HSV hue, as a fraction of the full turn, at most 1/6.

    Note:
        The original rounds values to 8 bits after every step, and hue shifts to two degrees. Here nothing is rounded.
    """

    def __init__(
        self,
        brightness: float = 32 / 255,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 18 / 180,
    ) -> None:
        super().__init__()
        if not 0 <= hue <= 1 / 6:
            raise ValueError(f"hue must lie in [0, 1/6] of the full turn, found {hue}")
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw which steps to apply, and how strongly."""
        is_used = (torch.rand(4) < 0.5).tolist()
        return {
            "brightness": _uniform(-self.brightness, self.brightness) if is_used[0] else 0.0,
            "contrast": _uniform(*self.contrast) if is_used[1] else 1.0,
            "saturation": _uniform(*self.saturation) if is_used[2] else 1.0,
            "hue": _uniform(-self.hue, self.hue) if is_used[3] else 0.0,
            "is_contrast_first": bool(torch.rand(()) < 0.5),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Distort an image strip by strip. Intermediate results then stay in the cache, which halves the time."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = _to_unit_range(inpt.as_subclass(Tensor))
        for strip in image.split(_STRIP_ROWS, dim=-2):
            _distort_(strip, **params)
        return tv_tensors.wrap(image, like=inpt)


def shift_hue_(image: Tensor, hue: float) -> Tensor:
    """Shift the HSV hue of an RGB image in place.

    The largest channel value V and the smallest m do not change. As a function of the hue, every channel is a
    trapezoid between m and V, with slopes of a sixth of the turn. Channel c, followed by n and p on the colour wheel,
    becomes clamp(V + m + c - n - p ∓ 6 hue (V - m), m, V), with minus where n > p. The result equals that of a
    conversion to HSV and back, in an eighth of the time.

    Args:
        image (`Tensor` of shape (3, H, W)): RGB in [0, 1], floating point.
        hue (`float`): Shift in turns, in [-1/6, 1/6].

    Returns:
        `image`.
    """
    value, smallest = image.amax(dim=0), image.amin(dim=0)
    chroma = value - smallest
    red, green, blue = image.unbind()
    sides = (green - blue, blue - red, red - green)
    base = value + smallest - red - green - blue
    image.mul_(2).add_(base)
    for channel, side in zip((red, green, blue), sides, strict=True):
        channel.sub_(torch.copysign(chroma, side, out=side), alpha=6 * hue)
        torch.maximum(channel, smallest, out=channel)
        torch.minimum(channel, value, out=channel)
    return image


def scale_saturation_(image: Tensor, saturation: float) -> Tensor:
    """Scale the HSV saturation of an RGB image in place.

    The largest channel value V does not change. The distances of the other channels from V are scaled, at most until
    the smallest channel is 0.

    Args:
        image (`Tensor` of shape (3, H, W)): RGB in [0, 1], floating point.
        saturation (`float`): Factor, at least 0.

    Returns:
        `image`.
    """
    value = image.amax(dim=0)
    if saturation <= 1:
        return torch.lerp(value.expand_as(image), image, saturation, out=image)
    chroma = (value - image.amin(dim=0)).clamp_min_(torch.finfo(image.dtype).tiny)
    factor = (value / chroma).clamp_max_(saturation)
    return image.sub_(value).mul_(factor).add_(value)


def _distort_(
    image: Tensor, brightness: float, contrast: float, saturation: float, hue: float, is_contrast_first: bool
) -> None:
    """Apply the steps of `PhotometricDistortion` in place. Steps that change nothing are skipped."""
    if brightness:
        image.add_(brightness).clamp_(0, 1)
    if is_contrast_first and contrast != 1:
        image.mul_(contrast).clamp_max_(1)
    if saturation != 1:
        scale_saturation_(image, saturation)
    if hue:
        shift_hue_(image, hue)
    if not is_contrast_first and contrast != 1:
        image.mul_(contrast).clamp_max_(1)


def _to_unit_range(image: Tensor) -> Tensor:
    """Copy an image, uint8 or floating point in [0, 1], to contiguous float32 in [0, 1]."""
    unit = image.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return unit if image.is_floating_point() else unit.div_(255)


def _uniform(low: float, high: float) -> float:
    return torch.empty(()).uniform_(low, high).item()
