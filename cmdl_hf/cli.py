"""The `cmdl` command line: thin commands that import what they need when they run."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App

from . import __version__

app = App(
    name="cmdl",
    version=__version__,
    help="Class-wise Multiple Distributions Learning for semantic segmentation.",
)


@app.command
def convert(
    reference: Path,
    output_dir: Path,
    /,
    *,
    backbone: str,
    num_labels: int,
    context_module: str = "none",
) -> None:
    """Turn a checkpoint of the public reference implementation into a folder that from_pretrained loads.

    Args:
        reference: The reference's PyTorch file; read without running code in it.
        output_dir: Folder to write; must be new or empty.
        backbone: timm's name of the ResNet, such as resnet50c (deep stem) or resnet101.
        num_labels: Number of classes of the checkpoint.
        context_module: Context module of the checkpoint: none (FCN), ppm (PSPNet) or aspp (DeepLabV3).
    """
    from .convert import convert_reference_checkpoint

    convert_reference_checkpoint(reference, output_dir, backbone, num_labels, context_module)
    print(f"Saved to {output_dir}: load it with CMDLForSemanticSegmentation.from_pretrained({str(output_dir)!r})")


@app.command
def demo(
    *,
    data_dir: Path | None = None,
    weights: Path | None = None,
    output_dir: Path = Path("outputs/demo"),
    max_steps: int | None = None,
) -> None:
    """Train a small CMDL segmenter and the same network without CMDL, compare and draw them: minutes on a CPU.

    Args:
        data_dir: Folder of the CamVid data set; omitted, street scenes are generated.
        weights: safetensors file with timm's ImageNet weights of mobilenetv2_100 (resnet18 for generated scenes);
            omitted, the backbone starts from scratch.
        output_dir: Folder for the model, the scores and the picture.
        max_steps: Optimiser steps of each training.
    """
    from .demo import run_demo

    run_demo(output_dir, data_dir, weights, max_steps)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake of the user's prints one line and exits with status 1."""
    try:
        app(arguments, result_action="return_value")
    except (ValueError, OSError) as error:
        sys.exit(f"cmdl: {error}")


if __name__ == "__main__":
    main()
