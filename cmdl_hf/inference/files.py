"""Segment image and video files with a saved model."""

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch

from ..images import MAX_PIXELS, UNREADABLE, UnfitImageError, explain_unreadable, read_image
from ..progress import progress_bar
from .failures import MODEL_ERRORS, is_out_of_memory, reason_of
from .images import is_video
from .kept_models import find_device_and_dtype
from .loading import load_folded
from .output_files import Outputs, OverlayStyle, Writer, make_output_folder, name_outputs
from .segmenter import Prepared, Segmenter
from .videos import check_av, segment_video

logger = logging.getLogger(__name__)


def predict_files(
    model: str | Path,
    inputs: Sequence[str | Path],
    output_dir: str | Path,
    *,
    batch_size: int = 4,
    window: tuple[int, int] | None = None,
    use_outlier_map: bool = False,
    alpha: float = 0.5,
    hide: Collection[str] = (),
    every: int = 1,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    max_pixels: int = MAX_PIXELS,
    trust_remote_code: bool = False,
) -> dict[Path, str]:
    """Segment image and video files: write class ids, overlays with a legend, and `summary.json`.

    Args:
        model (`str` or `Path`): Folder or Hub name of a semantic segmenter that transformers loads.
        inputs (`Sequence`): Files, folders (searched with their subfolders) or patterns such as `**/*.jpg`.
        output_dir (`str` or `Path`): Folder to write to. The subfolders of an input folder are kept.
        batch_size (`int`): See [`segment`].
        window (`tuple[int, int]`, *optional*): See [`segment`].
        use_outlier_map (`bool`): Also write `NAME_outlier.png` of images, for models with class distributions: black
            where a pixel is similar to a distribution, white where to none; see [`inference.outlier_map`].
        alpha (`float`): See [`Segmentation.overlay`].
        hide (`Collection` of names): See [`Segmentation.overlay`].
        every (`int`): Of a video, every so many frames one is segmented.
        device (`str` or `torch.device`, *optional*): See [`segment`].
        dtype (`str` or `torch.dtype`, *optional*): See [`segment`].
        max_pixels (`int`): Images with more pixels are not read.
        trust_remote_code (`bool`): See [`segment`].

    Returns:
        `dict`: files that could not be segmented, with the reasons.

    Raises:
        FileNotFoundError: if an input does not exist or contains no image, or if there is no model.
        ImportError: if there is a video, and PyAV is not installed.
        ValueError: if files would replace each other, or model or options do not fit.
        PermissionError: if the output folder cannot be written to.
    """
    _check_positive(batch_size=batch_size, max_pixels=max_pixels, every=every)
    targets = _name_targets(inputs, Path(output_dir))
    place, precision = find_device_and_dtype(device, dtype)
    network, processor = load_folded(model, place, precision, trust_remote_code)
    if use_outlier_map and not getattr(network.config, "use_distributions", False):
        raise ValueError(f"an outlier map needs class distributions, and {model} has none; leave out --outlier-map")
    segmenter = Segmenter(
        network, processor, batch_size, window, with_confidence=False, with_distributions=use_outlier_map
    )
    writer = Writer(Path(output_dir), targets, OverlayStyle(alpha, tuple(hide)), segmenter.classes)
    failures = _segment_images(segmenter, writer, use_outlier_map, max_pixels)
    plain = Segmenter(network, processor, batch_size, window, with_confidence=False, with_distributions=False)
    for path in filter(is_video, targets):
        failures |= _segment_video(plain, writer, path, every, max_pixels)
    writer.write_summary(str(model), failures)
    return failures


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")


def _name_targets(inputs: Sequence[str | Path], output_dir: Path) -> dict[Path, Outputs]:
    """Name the outputs, and refuse what cannot be read or written before the work."""
    targets = name_outputs(inputs, output_dir)
    for video in filter(is_video, targets):
        check_av(video)
    make_output_folder(output_dir)
    return targets


def _segment_images(segmenter: Segmenter, writer: Writer, use_outlier_map: bool, max_pixels: int) -> dict[Path, str]:
    """Segment the images, and return those that could not be, with the reasons."""
    paths = [path for path in writer.targets if not is_video(path)]
    failures: dict[Path, str] = {}
    ready: list[Path] = []  # in the order in which their images are segmented
    if not paths:
        return failures
    with progress_bar(total=len(paths), desc="Segmenting", unit="image") as progress:
        images = _read(paths, segmenter, max_pixels, failures, ready)
        for index, result in enumerate(segmenter.segment(images)):
            if isinstance(result, Exception):
                reason: str | None = explain(result)
            else:
                reason = writer.try_to_write(ready[index], result, use_outlier_map)
            if reason is not None:
                failures[ready[index]] = reason
            progress.update(len(writer.rows) + len(failures) - progress.n)
        progress.update(len(paths) - progress.n)  # files at the end that could not be read
    return failures


def _segment_video(segmenter: Segmenter, writer: Writer, path: Path, every: int, max_pixels: int) -> dict[Path, str]:
    """Segment a video, and return it with the reason if it could not be."""
    try:
        writer.rows[path] = segment_video(segmenter, path, writer, every, max_pixels)
    except (*MODEL_ERRORS, *UNREADABLE) as error:
        if isinstance(error, OSError) and error.filename is not None and Path(error.filename) != path:
            raise  # what cannot be written
        return {path: explain(error) if isinstance(error, MODEL_ERRORS) else str(error)}
    return {}


def explain(error: Exception) -> str:
    """Say why the model has no result for an image."""
    if is_out_of_memory(error):
        return "does not fit into memory, even alone; make it smaller, or set smaller windows with --window"
    return f"the model cannot process it: {reason_of(error)}"


def _read(
    paths: Sequence[Path], segmenter: Segmenter, max_pixels: int, failures: dict[Path, str], ready: list[Path]
) -> Iterator[Prepared]:
    """Yield the readable images, and list their paths in `ready`. Record the reasons for all others in `failures`."""
    for path in paths:
        try:
            image = read_image(path, max_pixels)
        except UnfitImageError as error:
            failures[path] = str(error)
            if error.is_too_large:
                failures[path] += ", or raise the limit with --max-pixels if it comes from a source you trust"
            continue
        except UNREADABLE as error:
            failures[path] = explain_unreadable(error)
            continue
        except MemoryError:
            failures[path] = "does not fit into memory; make it smaller"
            continue
        try:
            prepared = segmenter.prepare(image)
        except MODEL_ERRORS as error:
            failures[path] = f"the model's image processor cannot process it: {reason_of(error)}"
        else:
            ready.append(path)
            yield prepared
