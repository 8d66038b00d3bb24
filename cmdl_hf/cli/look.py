"""`cmdl predict` and `cmdl explore`: what a model sees, and what is in it."""

import sys
from pathlib import Path

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
    """Segment images: a palette PNG of class ids and an overlay for each, and summary.json with the classes in them.

    Runs on a GPU where there is one. Files that cannot be segmented are listed, and the exit status is 1.

    Args:
        model: Folder or Hub name of the model.
        inputs: Image files, folders or quoted patterns.
        out: Folder to write to.
        outlier_map: Also write, for models with class distributions, how little each pixel resembles any of them: one
            minus the best cosine, from black to white. No probability; unusual lighting raises it as well.
        batch_size: Images of one size that are segmented at once; halved where they do not fit memory.
        max_pixels: Larger images are not read, as a small file can hold billions of pixels.
        trust_remote_code: Run Python files that come with a model that is not CMDL; read them first.
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
        print(f"not segmented: {path}: {reason}", file=sys.stderr)
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
    """Look inside a model: what each of its class distributions has learned, as one page, report.html.

    For every class its distributions with share of pixels, purity and the patches nearest to them; embeddings, class
    similarity, dead and duplicate distributions, and maps of images. All figures are also in distributions.json.

    Args:
        model: Folder or Hub name of a CMDL model with distributions.
        out: Folder to write to.
        max_images: Look at no more than these, spread evenly over the split.
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
        )
    counts = ", ".join(f"{len(findings[name])} {name}" for name in ("dead", "duplicates", "unused"))
    print(f"{findings['num_images']:,} images, {findings['num_labels'] * findings['num_distributions']} distributions")
    print(f"nearest to a distribution of their own class: {100 * findings['recall']:.1f} % of the pixels; {counts}")
    print(f"report: {out / 'report.html'}")
