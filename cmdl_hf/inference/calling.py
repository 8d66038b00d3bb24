"""`segment`: from a model and an image to its segmentation, in one call."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from .failures import MODEL_ERRORS, explain_failure
from .given_images import GivenImage, name_image, take_image
from .kept_models import take_model
from .segmentation import Segmentation
from .segmenter import Prepared, Segmenter


@overload
def segment(
    model: str | Path | nn.Module,
    image: GivenImage,
    *,
    processor: Any = ...,
    device: str | torch.device | None = ...,
    dtype: str | torch.dtype | None = ...,
    batch_size: int = ...,
    window: tuple[int, int] | None = ...,
    trust_remote_code: bool = ...,
) -> Segmentation: ...


@overload
def segment(
    model: str | Path | nn.Module,
    image: list[Any] | tuple[Any, ...],
    *,
    processor: Any = ...,
    device: str | torch.device | None = ...,
    dtype: str | torch.dtype | None = ...,
    batch_size: int = ...,
    window: tuple[int, int] | None = ...,
    trust_remote_code: bool = ...,
) -> list[Segmentation]: ...


def segment(
    model: str | Path | nn.Module,
    image: GivenImage | list[Any] | tuple[Any, ...],
    *,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    batch_size: int = 4,
    window: tuple[int, int] | None = None,
    trust_remote_code: bool = False,
) -> Segmentation | list[Segmentation]:
    """Segment an image, or a list of images.

    The model stays loaded: the next call with the same folder or name is quick. A folder whose files have changed is
    loaded anew. Threads may call this at the same time.

    Args:
        model (`str`, `Path` or `nn.Module`): Folder, Hub name or loaded model: any semantic segmenter of transformers.
        image (`str`, `Path`, PIL image, `np.ndarray`, or a list of them): Files are read upright and as RGB. Arrays
            are uint8 of shape (H, W), (H, W, 3) in the order red, green, blue, or (H, W, 4). Transparency is dropped.
        processor (*optional*): Image processor to use. By default the model's. For a loaded model, that is the one in
            the folder or repository that it comes from, and for a CMDL model from none, `make_image_processor()`.
        device (`str` or `torch.device`, *optional*): By default the accelerator, or the CPU if there is none. A loaded
            model stays where it is.
        dtype (`str` or `torch.dtype`, *optional*): Precision of the weights: float32 (default), bfloat16 or float16.
            A loaded model keeps its own.
        batch_size (`int`): Largest number of images of one size in a batch. It is halved if they do not fit into
            memory.
        window (`tuple[int, int]`, *optional*): Height and width of windows, in pixels. The image is then not resized,
            and passes through the model in overlapping windows, whose scores are blended. By default, only images of
            more than 16.8 million pixels do, in windows of 1024 × 1024, if the image processor does not resize.
        trust_remote_code (`bool`): Whether to run Python files that come with the model. Read them first.

    Returns:
        [`Segmentation`], or a list of them for a list.

    Raises:
        FileNotFoundError: if there is no such image or model.
        MemoryError: if an image does not fit into memory.
        TypeError: if model or image are of another kind.
        ValueError: if an image cannot be read whole, the model does not accept it, or an option does not fit.

    Example:
        ```python
        segmentation = segment("model_cards/camvid", "street.jpg")
        segmentation.shares  # {"Road": 0.31, "Building": 0.24, ...}
        segmentation.overlay().save("overlay.png")
        ```
    """
    is_list = isinstance(image, list | tuple)
    images: Sequence[Any] = image if isinstance(image, list | tuple) else [image]
    network, own_processor = take_model(model, processor, device, dtype, trust_remote_code)
    segmenter = Segmenter(network, own_processor, batch_size, window)
    found = []
    for index, result in enumerate(segmenter.segment(_prepare(segmenter, images, is_list))):
        if isinstance(result, Exception):
            raise _explain(result, images[index], index if is_list else None) from result
        found.append(result)
    return found if is_list else found[0]


def _prepare(segmenter: Segmenter, images: Sequence[GivenImage], is_list: bool) -> Iterator[Prepared]:
    for index, given in enumerate(images):
        image = take_image(given)
        try:
            prepared = segmenter.prepare(image)
        except MODEL_ERRORS as error:
            raise _explain(error, given, index if is_list else None) from error
        yield prepared


def _explain(error: Exception, given: GivenImage, index: int | None) -> Exception:
    cure = "make it smaller, or set smaller windows with window=(height, width)"
    return explain_failure(error, name_image(given, index), "segment", cure)
