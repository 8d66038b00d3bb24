"""Segmentation of image files by a saved model."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from .progress import progress_bar
from .visualization import default_palette, overlay


def predict_files(model: str | Path, inputs: Sequence[str | Path], output_dir: str | Path) -> dict[Path, str]:
    """Segment image files and folders of them.

    Every image gives `NAME.png`, class ids with the model's colours as palette, and `NAME_overlay.jpg`.

    Args:
        model (`str` or `Path`): Folder or Hub name of a semantic segmenter that transformers loads.
        inputs (`Sequence`): Image files, folders (searched with their subfolders) or patterns such as `*.jpg`.
        output_dir (`str` or `Path`): Where to write; folders below an input folder are kept.

    Returns:
        `dict`: the reason for every file that could not be read.

    Raises:
        FileNotFoundError: if an input is neither file nor folder, or there is no image in it.
        ValueError: if two images would be written to one file, or one would replace an input.
    """
    targets = _name_outputs(inputs, Path(output_dir))
    segmenter = AutoModelForSemanticSegmentation.from_pretrained(model).eval()
    processor = AutoImageProcessor.from_pretrained(model)
    palette = getattr(segmenter.config, "palette", None) or default_palette(segmenter.config.num_labels)
    failures: dict[Path, str] = {}
    for path, target in progress_bar(targets.items(), desc="Segmenting", unit="image"):
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failures[path] = str(error)
            continue
        with torch.no_grad():
            output = segmenter(**processor(image, return_tensors="pt"))
        (ids,) = processor.post_process_semantic_segmentation(output, target_sizes=[(image.height, image.width)])
        target.parent.mkdir(parents=True, exist_ok=True)
        segmentation = Image.fromarray(ids.byte().numpy()).convert("P")
        segmentation.putpalette([channel for color in palette for channel in color])
        segmentation.save(target)
        overlay(image, ids, palette).save(_overlay_of(target), quality=92)
    return failures


def _name_outputs(inputs: Iterable[str | Path], output_dir: Path) -> dict[Path, Path]:
    """Find the images, and name the file each is segmented to."""
    targets: dict[Path, Path] = {}
    sources: dict[Path, Path] = {}
    found = [image for given in inputs for image in _find_images(Path(given))]
    originals = {path.resolve() for path, _ in found}
    for path, name in found:
        target = (output_dir / name).with_suffix(".png")
        if originals & {target.resolve(), _overlay_of(target).resolve()}:
            raise ValueError(f"{target} would replace an image that is to be segmented; name another folder")
        if sources.setdefault(target, path) != path:
            raise ValueError(f"{sources[target]} and {path} would both be written to {target}; rename one")
        targets[path] = target
    return targets


def _overlay_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}_overlay.jpg")


def _find_images(given: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every image of an input, with its name relative to it."""
    if given.is_file():
        yield given, Path(given.name)
        return
    if given.is_dir():
        found = sorted(path for path in given.rglob("*") if path.suffix.lower() in Image.registered_extensions())
        root = given
    else:
        found, root = sorted(path for path in given.parent.glob(given.name) if path.is_file()), given.parent
    if not found:
        raise FileNotFoundError(f"{given} is no image file, no folder with images and no pattern that matches any")
    yield from ((path, path.relative_to(root)) for path in found)
