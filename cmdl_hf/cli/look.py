"""The commands `cmdl predict` and `cmdl explore`."""

import sys
from pathlib import Path

from ..escaping import one_line
from ..plugins import import_plugins
from .options import Data, Plugins, logging_to_terminal


def predict(
    model: str,
    /,
    *inputs: str,
    out: Path,
    outlier_map: bool = False,
    batch_size: int = 4,
    max_pixels: int = 178_956_970,
    plugin: Plugins = (),
    trust_remote_code: bool = False,
) -> None:
    """Segment images: write a palette PNG of class ids and an overlay for each, and summary.json with their classes.

    A GPU is used if there is one. Files that cannot be segmented are listed; then the exit status is 1.

    Args:
        model: Folder or Hub name of the model.
        inputs: Image files, folders, or patterns in quotes.
        out: Folder to write to.
        outlier_map: Also write an outlier map, for models with class distributions. The value of a pixel is one minus
            its best cosine to any distribution, from black to white. It is not a probability. Unusual lighting also
            raises it.
        batch_size: Images of one size that are segmented at once. It is halved if they do not fit into memory.
        max_pixels: Images with more pixels are not read. A small file can contain billions of pixels.
        trust_remote_code: Run the Python files that come with a model that is not CMDL. Read them first.
    """
    import_plugins(plugin)
    from ..inference import predict_files

    with logging_to_terminal():
        failures = predict_files(
            model,
            inputs,
            out,
            batch_size=batch_size,
            use_outlier_map=outlier_map,
            max_pixels=max_pixels,
            trust_remote_code=trust_remote_code,
        )
    for path, reason in failures.items():
        print(one_line(f"not segmented: {path}: {reason}"), file=sys.stderr)
    sys.exit(1 if failures else 0)


def explore(
    model: str,
    /,
    *,
    data: Data,
    out: Path,
    max_images: int | None = None,
    plugin: Plugins = (),
) -> None:
    """Show what each class distribution of a model has learned, on one page, report.html.

    The page shows the pixel share, the purity and the nearest patches of every distribution, a t-SNE of embeddings,
    the similarity of classes, dead distributions (no pixel has ever moved them), duplicates, and maps of some images.
    distributions.json contains all numbers.

    Args:
        model: Folder or Hub name of a CMDL model with distributions.
        out: Folder to write to.
        max_images: Largest number of images to read. They are spread evenly over the split.
    """
    import_plugins(plugin)
    from ..explore import explore

    with logging_to_terminal():
        findings = explore(
            model,
            data.benchmark,
            out,
            data.data_dir,
            split=data.split or "train",
            max_images=max_images,
            id2label=data.id2label,
            merge_classes=data.merge_classes,
        )
    counts = ", ".join(f"{len(findings[name])} {name}" for name in ("dead", "duplicates", "unused"))
    print(f"{findings['num_images']:,} images, {findings['num_labels'] * findings['num_distributions']} distributions")
    print(f"nearest to a distribution of their own class: {100 * findings['recall']:.1f} % of the pixels; {counts}")
    print(f"report: {out / 'report.html'}")
