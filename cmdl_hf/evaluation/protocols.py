"""Evaluation protocols of papers: image sizes, windows, scales, and the model's own normalisation.

Reference: the test settings of mmsegmentation's configurations.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers.image_transforms import get_size_with_aspect_ratio

from ..data import BENCHMARKS, IMAGENET_MEAN, IMAGENET_STD, EvalTransform, check_resize
from ..inference import (
    SCALES,
    SegmentImages,
    class_map,
    default_stride,
    multi_scale_probabilities,
    segment_in_windows,
    segment_whole_images,
)
from ..yaml_files import read_yaml

logger = logging.getLogger(__name__)

ProtocolName: TypeAlias = Literal["whole", "slide", "ms-flip"]

_NO_LIMIT = 1_000_000  # of the longer edge, in pixels
_SYNTHETIC_CROP = (96, 128)  # of generated scenes, as in their recipe


@dataclass(frozen=True)
class Protocol:
    """How images are scored.

    Args:
        name (`str`): `"whole"`, `"slide"` or `"ms-flip"`.
        resize (`tuple[int, int]`, *optional*): Images are resized to this shorter edge and limit of the longer edge.
            For `"ms-flip"`, this is the size at scale 1. By default, images keep their size.
        crop_size (`tuple[int, int]`, *optional*): Height and width of windows.
        stride (`tuple[int, int]`, *optional*): Step between windows.
        scales (`tuple[float, ...]`): Scales of `"ms-flip"`.
    """

    name: ProtocolName = "whole"
    resize: tuple[int, int] | None = None
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)

    def __str__(self) -> str:
        parts: list[str] = [self.name]
        parts.append(
            f"shorter edge {self.resize[0]}, longer at most {self.resize[1]}" if self.resize else "original size"
        )
        if self.crop_size and self.stride:
            parts.append("windows {} × {} by {} × {}".format(*self.crop_size, *self.stride))
        if self.name == "ms-flip":
            parts.append(f"scales {', '.join(f'{scale:g}' for scale in self.scales)}")
        return ", ".join(parts)

    def segment_images(self) -> SegmentImages:
        """Return the function that segments images. For `"ms-flip"`, it takes images at their original size."""
        if self.name == "ms-flip":
            return partial(_segment_multi_scale, protocol=self)
        if self.name == "slide":
            return partial(_segment_in_windows, protocol=self)
        return segment_whole_images


def _segment_in_windows(model: nn.Module, pixel_values: Tensor, size: Sequence[int], protocol: Protocol) -> Tensor:
    assert protocol.crop_size is not None
    return segment_in_windows(model, pixel_values, protocol.crop_size, protocol.stride, size)


def _segment_multi_scale(model: nn.Module, pixel_values: Tensor, size: Sequence[int], protocol: Protocol) -> Tensor:
    return class_map(score_multi_scale(model, pixel_values, size, protocol), size)


def score_multi_scale(model: nn.Module, pixel_values: Tensor, size: Sequence[int], protocol: Protocol) -> Tensor:
    """Return the probabilities of `"ms-flip"`, (B, K, *size), for images at their original size."""
    base_size = pixel_values.shape[-2:]
    if protocol.resize is not None:
        base_size = get_size_with_aspect_ratio(base_size, *protocol.resize)
    return multi_scale_probabilities(
        model,
        pixel_values,
        protocol.scales,
        size=size,
        base_size=base_size,
        crop_size=protocol.crop_size,
        stride=protocol.stride,
    )


class ProcessorTransform(EvalTransform):
    """The papers' transform of whole images, with the normalisation of a model's image processor.

    Args:
        resize (`tuple[int, int]`, *optional*): See `EvalTransform`.
        processor: Image processor of transformers. Its mean, deviation, rescale factor and channel order are used.
    """

    def __init__(self, resize: tuple[int, int] | None, processor: Any) -> None:
        super().__init__(resize)
        is_rescaled = getattr(processor, "do_rescale", True)
        scale = 255 * float(processor.rescale_factor) if is_rescaled else 255.0  # of values in 0..1
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if getattr(processor, "do_normalize", True):
            mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        # From (x - imagenet_mean) / imagenet_std to (scale * x - mean) / std.
        to_column = partial(torch.tensor, dtype=torch.float32)
        self.factor = (scale * to_column(IMAGENET_STD) / to_column(std)).view(3, 1, 1)
        self.offset = ((scale * to_column(IMAGENET_MEAN) - to_column(mean)) / to_column(std)).view(3, 1, 1)
        self.is_imagenet = abs(scale - 1) < 1e-6 and (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
        self.is_bgr = bool(getattr(processor, "do_flip_channel_order", False))

    def __call__(self, samples: dict[str, list[Any]]) -> dict[str, list[Tensor]]:
        """Transform samples as `EvalTransform` does."""
        columns = super().__call__(samples)
        columns["pixel_values"] = [self._renormalize(image) for image in columns["pixel_values"]]
        return columns

    def _renormalize(self, image: Tensor) -> Tensor:
        if not self.is_imagenet:
            image = image * self.factor + self.offset
        return image.flip(0) if self.is_bgr else image


def processor_resize(processor: Any, benchmark: str) -> tuple[int, int] | None:
    """Find the size to which a model's image processor resizes images, or the papers' if it would distort them.

    Args:
        processor: Image processor of transformers.
        benchmark (`str`): Name of the data set.

    Returns:
        Shorter edge and limit of the longer edge, or `None` if images keep their size.
    """
    if not getattr(processor, "do_resize", False):
        return None
    size = processor.size
    if size.get("shortest_edge"):
        return size["shortest_edge"], size.get("longest_edge") or _NO_LIMIT
    resize = BENCHMARKS[benchmark].resize if benchmark in BENCHMARKS else None
    logger.info(
        "the image processor would resize all images to %s and distort them; as in papers, images keep their aspect "
        "ratio and %s",
        dict(size),
        f"have a shorter edge of {resize[0]}" if resize else "their size",
    )
    return resize


def make_protocol(
    name: ProtocolName,
    model: str | Path,
    benchmark: str,
    resize: tuple[int, int] | None = None,
    crop_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: tuple[float, ...] = SCALES,
) -> Protocol:
    """Make a protocol with default values: the crop of the model's recipe or of the papers, and its stride.

    Args:
        name (`str`): `"whole"`, `"slide"` or `"ms-flip"`.
        model (`str` or `Path`): Folder or name of the model. A folder may contain a recipe.
        benchmark (`str`): Name of the data set.
        resize (`tuple[int, int]`, *optional*): See [`Protocol`].
        crop_size (`tuple[int, int]`, *optional*): See [`Protocol`].
        stride (`tuple[int, int]`, *optional*): See [`Protocol`].
        scales (`tuple[float, ...]`): See [`Protocol`].

    Raises:
        ValueError: if options contradict each other, there is no usual crop, or the recipe cannot be read.
    """
    check_resize(resize)
    if name == "whole" and (crop_size or stride):
        raise ValueError("whole images have no windows; leave out --crop-size and --stride, or use --protocol slide")
    if name == "slide" and crop_size is None:
        found = _read_recipe(Path(model) / "recipe.yaml").get("crop_size")
        crop_size = tuple(found) if found else _usual_crop(benchmark)
        if crop_size is None:
            raise ValueError(f"{benchmark} has no usual size of windows; give --crop-size HEIGHT WIDTH")
    if crop_size is None and stride is not None:
        raise ValueError("a stride needs windows; also give --crop-size HEIGHT WIDTH")
    if crop_size is not None and stride is None:
        stride = default_stride(crop_size)
    return Protocol(name, resize, crop_size, stride, scales if name == "ms-flip" else (1.0,))


def _usual_crop(benchmark: str) -> tuple[int, int] | None:
    """Return the usual size of sliding windows for a data set."""
    if benchmark in BENCHMARKS:
        return BENCHMARKS[benchmark].crop_size
    return _SYNTHETIC_CROP if benchmark == "synthetic" else None


def _read_recipe(file: Path) -> dict[str, Any]:
    """Read the recipe of a model's folder, or return an empty one."""
    if not file.is_file():
        return {}
    try:
        return read_yaml(file)
    except ValueError as error:
        raise ValueError(f"{error}; give --crop-size HEIGHT WIDTH") from error
