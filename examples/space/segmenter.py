"""Load a semantic segmenter and segment one image; for CMDL models, also find the distributions."""

import colorsys
import functools
import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

if importlib.util.find_spec("cmdl_hf"):
    import cmdl_hf  # noqa: F401 (registers CMDL with the auto classes)

OWN_MODELS = [name.strip() for name in os.environ.get("CMDL_MODEL", "").split(",") if name.strip()]
"""Models whose remote code may run: the owner of the app lists them, separated by commas."""

MAX_PIXELS = 100_000_000
"""Images with more pixels are rejected before they are decoded."""

MAX_WORK_PIXELS = 2048 * 1024
"""Images with more pixels are shrunk to this number of pixels."""


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


@functools.lru_cache(maxsize=2)
def load(name: str) -> tuple[Any, Any]:
    """Load model and image processor from a folder or the Hub.

    The remote code of a model runs only for `OWN_MODELS` and, outside a Space, for local folders. In a Space, visitors
    type the names, and they must not be able to run code of other people.
    """
    is_own = name in OWN_MODELS or (Path(name).is_dir() and "SPACE_ID" not in os.environ)
    options = {"trust_remote_code": is_own, "token": None if is_own else False}
    try:
        processor = AutoImageProcessor.from_pretrained(name, **options)
        model = AutoModelForSemanticSegmentation.from_pretrained(name, dtype=torch.float32, **options)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:300]
        if "trust_remote_code" in str(error):
            reason = "it has remote code, which runs only for the models that CMDL_MODEL lists when the app starts"
        raise ValueError(
            f"The model must be a folder or a Hub name of a semantic segmenter with its image processor; "
            f"{name!r} cannot be loaded: {reason}"
        ) from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor


def read_image(path: str | None) -> Image.Image:
    """Read a file as an upright RGB image."""
    if path is None:
        raise ValueError("There is no image; upload one or choose an example.")
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            file.draft("RGB", (4096, 4096))  # a large JPEG is decoded at a smaller size
            return ImageOps.exif_transpose(file).convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"An image may have up to {MAX_PIXELS:,} pixels. This file has more; shrink or crop it."
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"The file must be an image such as PNG or JPEG; {Path(path).name!r} cannot be read. Save it again."
        ) from error


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
    (segmentation,) = processor.post_process_semantic_segmentation(output, target_sizes=[size])
    segmentation = segmentation.cpu()
    logits = output.logits.float().cpu()
    K = logits.shape[1]
    names = [str(config.id2label.get(i, i)) for i in range(K)]
    palette = np.array(getattr(config, "palette", None) or [_default_color(i) for i in range(K)], dtype=np.uint8)
    result = Result(image, logits, segmentation.numpy(), names, palette)
    if not has_distributions:
        return result
    grid = logits.shape[-2:]
    similarity = output.similarity.float().cpu().view(*grid, K, -1)  # (h·w, K, M) -> (h, w, K, M)
    rows, columns = (torch.arange(new) * old // new for new, old in zip(size, grid, strict=True))
    own = similarity[rows[:, None], columns, segmentation]  # (H, W, M)
    best = similarity.amax(dim=(2, 3))[None, None]
    outliers = 1 - F.interpolate(best, size=size, mode="bilinear", align_corners=False)[0, 0]
    return replace(
        result,
        similarity=similarity,
        distribution_ids=own.argmax(dim=-1).numpy(),
        outliers=outliers.numpy(),
        epsilon=config.sinkhorn_epsilon,
    )


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
    return result.similarity[y * h // result.image.height, x * w // result.image.width]


def classes_present(result: Result) -> list[tuple[int, float]]:
    """List the classes of the segmentation with their shares of the pixels, the largest first."""
    ids, counts = np.unique(result.segmentation, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(ids[i]), float(counts[i] / counts.sum())) for i in order if ids[i] < len(result.names)]
