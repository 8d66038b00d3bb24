"""Read and segment one image with a semantic segmenter; for CMDL models, also find the distributions."""

import colorsys
import os
import stat
import struct
import unicodedata
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from class_maps import class_map, distribution_map
from models import RefusedError
from PIL import Image, ImageOps, TiffImagePlugin
from torch import Tensor

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read. No other decoder sees a file."""

MAX_IMAGE_BYTES = 20_000_000
"""Larger files are rejected during the upload."""

MAX_PIXELS = 100_000_000
"""Images with more pixels are rejected before they are decoded. Decoding takes up to 8 bytes a pixel."""

MAX_WORK_PIXELS = 2048 * 1024
"""Images with more pixels are shrunk to this number of pixels."""

_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode
_JOINERS = "\u200c\u200d"  # of Persian, of Indian scripts, and of emoji


@dataclass(frozen=True)
class Result:
    """One segmented image; H×W is the image, h×w the feature grid.

    Args:
        image (PIL image): RGB.
        logits (`Tensor` of shape (1, K, h, w)): Scores of the classes.
        segmentation (`np.ndarray` of shape (H, W)): Class ids.
        names (`list[str]`): Names of the K classes.
        palette (`np.ndarray` of shape (K, 3), uint8): Their colours.
        similarity (`Tensor` of shape (h, w, K, M), *optional*): Cosines to the distributions. CMDL models only.
        distribution_ids (`np.ndarray` of shape (H, W), *optional*): The nearest distribution of the pixel's class.
        outliers (`np.ndarray` of shape (H, W), *optional*): One minus the best cosine to any distribution.
        epsilon (`float`): Divides the cosines in the probabilities of the distributions.
    """

    image: Image.Image
    logits: Tensor
    segmentation: np.ndarray
    names: list[str]
    palette: np.ndarray
    similarity: Tensor | None = None
    distribution_ids: np.ndarray | None = None
    outliers: np.ndarray | None = None
    epsilon: float = 0.05


class _UnfitImageError(Exception):
    """An image that would not be read whole."""


def read_image(path: str | None) -> Image.Image:
    """Read a file as an upright RGB image.

    Raises:
        RefusedError: if there is no file, its format is not one of `FORMATS`, or it is too large.
    """
    if path is None:
        raise RefusedError("There is no image; upload one or choose an example.")
    name = one_line(Path(path).name, 80)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("it is no regular file")
        if Path(path).stat().st_size > MAX_IMAGE_BYTES:
            raise RefusedError(
                f"An image may have up to {MAX_IMAGE_BYTES // 10**6} MB. This file has more; shrink it."
            )
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            _refuse_what_would_be_lost(file)
            file.draft("RGB", (4096, 4096))  # a large JPEG is decoded at a smaller size
            ImageOps.exif_transpose(file, in_place=True)  # so that there are two copies at most
            return file.convert("RGB")
    except _UnfitImageError as error:
        raise RefusedError(f"{name!r} cannot be segmented: {error}.") from error
    except Image.DecompressionBombError as error:
        raise RefusedError(
            f"An image may have up to {MAX_PIXELS:,} pixels. This file has more; shrink or crop it."
        ) from error
    except RefusedError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise RefusedError(
            f"The file must be an image such as PNG or JPEG; {name!r} cannot be read. "
            "Save it again, with 8 bits a channel."
        ) from error


def _refuse_what_would_be_lost(file: Image.Image) -> None:
    """Refuse frames beside the first, bits beyond 8 and bands beyond colours: Pillow drops them without a word."""
    if getattr(file, "is_animated", False) and file.format != "MPO":  # which is a photograph
        raise _UnfitImageError("it holds several pictures; save one as a file of its own")
    tiles = getattr(file, "tile", ())
    stored = [str(tile[3]) for tile in tiles]  # how the file has a pixel, such as RGB;16B or RGBX
    is_deep_ppm = any(tile[0].startswith("ppm") and tile[3][-1] > 255 for tile in tiles)
    if file.mode.startswith(("I", "F")) or any(";16" in raw for raw in stored) or is_deep_ppm:
        raise _UnfitImageError("it has more than 8 bits a channel; convert it to 8 bits")
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        tags = file.tag_v2
        if (tags.get(TiffImagePlugin.SAMPLEFORMAT) or (1,))[0] not in (1, 4):
            raise _UnfitImageError("its values are signed; shift them to 0..255")
        colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION), 1)
        more = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)) - colours
        if more > 1 or (more == 1 and tags.get(TiffImagePlugin.EXTRASAMPLES) not in ((1,), (2,))):  # transparency
            raise _UnfitImageError("it has bands beside its colours; choose three of them")


def shrink(image: Image.Image) -> Image.Image:
    """Shrink an image of more than `MAX_WORK_PIXELS` to that many; return others as they are."""
    factor = (MAX_WORK_PIXELS / (image.width * image.height)) ** 0.5
    if factor >= 1:
        return image
    size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


@torch.inference_mode()
def segment(model: Any, processor: Any, image: Image.Image) -> Result:
    """Segment an image with any semantic segmenter; for CMDL models, also find the distributions."""
    config = model.config
    has_distributions = bool(getattr(config, "use_distributions", False))
    options = {"output_distributions": True} if has_distributions else {}
    output = model(**processor(image, return_tensors="pt").to(model.device), **options)
    size = (image.height, image.width)
    segmentation = class_map(output.logits, size)[0].cpu()
    logits = output.logits.float().cpu()
    K = logits.shape[1]
    names = [one_line(config.id2label.get(i, i), 80) for i in range(K)]
    palette = np.array(getattr(config, "palette", None) or [_default_color(i) for i in range(K)], dtype=np.uint8)
    result = Result(image, logits, segmentation.numpy(), names, palette)
    if not has_distributions:
        return result
    grid = logits.shape[-2:]
    similarity = output.similarity.float().cpu().view(*grid, K, -1)  # (h·w, K, M) -> (h, w, K, M)
    best = similarity.amax(dim=(2, 3))[None, None]
    outliers = 1 - F.interpolate(best, size=size, mode="bilinear", align_corners=False)[0, 0]
    return replace(
        result,
        similarity=similarity,
        distribution_ids=distribution_map(similarity.argmax(dim=3), segmentation).numpy(),
        outliers=outliers.numpy(),
        epsilon=config.sinkhorn_epsilon,
    )


def one_line(text: object, length: int) -> str:
    """Format a string of a model or a visitor as one visible line; longer ones are cut and end with an ellipsis."""
    line = " ".join(str(text)[: 4 * length].split())
    line = "".join(
        "\ufffd" if unicodedata.category(letter) in _INVISIBLE and letter not in _JOINERS else letter
        for letter in line
    )
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _default_color(class_id: int) -> list[int]:
    """Return a colour for models without a palette: hues at golden-ratio steps, in three lightnesses."""
    color = colorsys.hls_to_rgb((0.6 + class_id * 0.618034) % 1, (0.5, 0.65, 0.38)[class_id % 3], 0.65)
    return [round(255 * channel) for channel in color]


def class_probabilities(result: Result, x: int, y: int) -> Tensor:
    """Return the probabilities (K,) of a pixel: the softmax of the logits, resized to the image."""
    size = torch.tensor([result.image.width, result.image.height])
    place = (2 * torch.tensor([x, y]) + 1) / size - 1
    logits = F.grid_sample(result.logits, place.view(1, 1, 1, 2), padding_mode="border", align_corners=False)
    return logits.view(-1).softmax(dim=0)


def distribution_similarity(result: Result, x: int, y: int) -> Tensor | None:
    """Return the cosines (K, M) of the grid feature at a pixel, or None for models without distributions."""
    if result.similarity is None:
        return None
    h, w = result.similarity.shape[:2]
    width, height = result.image.size
    return result.similarity[(2 * y + 1) * h // (2 * height), (2 * x + 1) * w // (2 * width)]


def classes_present(result: Result) -> list[tuple[int, float]]:
    """List the classes of the segmentation with their shares of the pixels, the largest first."""
    ids, counts = np.unique(result.segmentation, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(ids[i]), float(counts[i] / counts.sum())) for i in order if ids[i] < len(result.names)]
