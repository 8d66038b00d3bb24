"""The commands `cmdl predict` and `cmdl explore`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..escaping import one_line
from ..plugins import import_plugins
from .options import Data, Plugins, choose_model, logging_to_terminal, name_of_data, name_of_model
from .predictions import print_predictions


@dataclass(kw_only=True)
class OverlayOptions:
    """How overlays are drawn.

    Args:
        alpha: Share of the colours in the overlays, from 0 to 1.
        hide: Name of a class that overlays leave clear. Repeat the option for several. A class 0 called background
            always is clear.
    """

    alpha: float = 0.5
    hide: tuple[str, ...] = ()


@dataclass(kw_only=True)
class RunningOptions:
    """How images pass through the model.

    Args:
        device: Device, such as cpu or cuda:1. Default: the accelerator, or the CPU if there is none.
        dtype: Precision of the model.
        batch_size: Images of one size, or windows, that are segmented at once. It is halved if they do not fit into
            memory.
        window: Height and width of windows, in pixels, for images far larger than the model was trained on. Images
            are then not resized: they pass through the model in overlapping windows, whose scores are blended. By
            default, only images of more than 16.8 million pixels do, in windows of 1024 × 1024, if the model's image
            processor does not resize.
        every: Segment one of so many frames of a video.
        max_pixels: Images with more pixels are not read. A small file can contain billions of pixels.
    """

    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = 4
    window: tuple[int, int] | None = None
    every: int = 1
    max_pixels: int = 178_956_970


_OVERLAYS, _RUNNING = OverlayOptions(), RunningOptions()


def predict(
    model: str | None = None,
    /,
    *inputs: str,
    out: Path = Path("outputs/predictions"),
    outlier_map: bool = False,
    overlays: Annotated[OverlayOptions, Parameter(name="*")] = _OVERLAYS,
    running: Annotated[RunningOptions, Parameter(name="*")] = _RUNNING,
    plugin: Plugins = (),
    trust_remote_code: bool = False,
) -> None:
    """Segment images and videos: write class ids, overlays and summary.json, and print a table of the classes.

    For each image NAME, NAME.png has the class ids and NAME_overlay.jpg shows them. For each video, NAME_overlay.mp4
    shows them, without sound, and NAME_frames.csv has the shares of the classes in each frame. Files that cannot be
    segmented are listed; then the exit status is 1.

    Args:
        model: Folder or Hub name of the model. Default, if the first argument is an image, a video, a pattern or a
            folder of them: the small model of street scenes in a clone of this repository, model_cards/camvid.
        inputs: Image or video files, folders, or patterns in quotes. The subfolders of a folder are kept.
        out: Folder to write to.
        outlier_map: Also write an outlier map, for models with class distributions. The value of a pixel is one minus
            its best cosine to any distribution, from black to white. It is not a probability. Unusual lighting also
            raises it.
        trust_remote_code: Run the Python files that come with a model that is not CMDL. Read them first.
    """
    import_plugins(plugin)
    from ..inference import is_input, predict_files

    if model is not None and is_input(model):
        inputs, model = (model, *inputs), None
    if not inputs:
        cure = "name image files, folders, or patterns in quotes"
        raise ValueError(f"there is nothing to segment{_explain_taken(model)}; {cure}")
    model = choose_model(model)
    with logging_to_terminal():
        failures = predict_files(
            model,
            inputs,
            out,
            use_outlier_map=outlier_map,
            **vars(overlays),
            **vars(running),
            trust_remote_code=trust_remote_code,
        )
    print_predictions(out)
    for path, reason in failures.items():
        print(one_line(f"not segmented: {path}: {reason}"), file=sys.stderr)
    sys.exit(1 if failures else 0)


def _explain_taken(model: str | None) -> str:
    """Say why the only argument was not taken for images."""
    if model is None:
        return ""
    if not Path(model).exists():
        return f": {one_line(model)} is not here, and is taken for a model of the Hub"
    return f": {one_line(model)} holds no images or videos, or is the model"


def explore(
    model: str | None = None,
    /,
    *,
    data: Data,
    out: Path | None = None,
    max_images: int | None = None,
    plugin: Plugins = (),
) -> None:
    """Show what each class distribution of a model has learned, on one page, report.html.

    The page shows the pixel share, the purity and the nearest patches of every distribution, a t-SNE of embeddings,
    the similarity of classes, dead distributions (no pixel has ever moved them), duplicates, and maps of some images.
    distributions.json contains all numbers.

    Args:
        model: Folder or Hub name of a CMDL model with distributions. Default: the small model of street scenes in a
            clone of this repository, model_cards/camvid.
        out: Folder to write to. Default: a folder in outputs/explore/, named after the model, the data set and the
            split.
        max_images: Largest number of images to read. They are spread evenly over the split.
    """
    import_plugins(plugin)
    from ..explore import explore

    model = choose_model(model)
    split = data.split or "train"
    out = out or Path("outputs/explore") / f"{name_of_model(model)}-{name_of_data(data, split)}"
    with logging_to_terminal():
        findings = explore(
            model,
            data.benchmark,
            out,
            data.data_dir,
            split=split,
            max_images=max_images,
            id2label=data.id2label,
            merge_classes=data.merge_classes,
        )
    counts = ", ".join(f"{len(findings[name])} {name}" for name in ("dead", "duplicates", "unused"))
    print(f"{findings['num_images']:,} images, {findings['num_labels'] * findings['num_distributions']} distributions")
    print(f"nearest to a distribution of their own class: {100 * findings['recall']:.1f} % of the pixels; {counts}")
    print(f"report: {out / 'report.html'}")
