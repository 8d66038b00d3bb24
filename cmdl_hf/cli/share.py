"""The commands `cmdl push`, `cmdl export` and `cmdl convert`."""

from pathlib import Path
from typing import Literal

from ..plugins import import_plugins
from .options import Plugins, choose_model, logging_to_terminal, name_of_model


def push(
    folder: Path, repo_id: str, /, *, private: bool | None = None, dry_run: bool = False, plugin: Plugins = ()
) -> None:
    """Push a model to the Hub, with a model card that describes its training and its scores.

    The command uploads the model, the model in the subfolder last/, and the recipe, scores, curves and class names. It
    prints the files first, and whether the repository is public. predictions.png, which the model card shows, has
    images of the validation data. It uploads no other files, and it refuses a folder with links. It keeps a model card
    (README.md) that you have edited. Log in first: hf auth login.

    Args:
        folder: Output folder of cmdl train, or any folder that from_pretrained loads.
        repo_id: ORG/NAME on the Hub. The repository is created if it does not exist.
        private: Whether a new repository is private. Default: the setting of ORG, which for most is public.
        dry_run: Print what would be uploaded, and upload nothing.
    """
    import_plugins(plugin)
    from ..hub import preview_push, push

    if dry_run:
        kind = {True: "private", False: "public", None: f"public or private by the setting of {repo_id.split('/')[0]}"}
        print(f"would be sent to {repo_id}, which if new is {kind[private]}:\n{preview_push(folder)}")
        return
    address = push(folder, repo_id, private, tell=print)
    print(f"Pushed to {address}")


def export(
    model: str | None = None,
    /,
    *,
    format: Literal["onnx", "torch-export"] = "onnx",
    out: Path | None = None,
    image_size: tuple[int, int] | None = None,
    opset: int | None = None,
    output: Literal["logits", "classes"] = "logits",
    plugin: Plugins = (),
    trust_remote_code: bool = False,
) -> None:
    """Export a model to one file that runs without this package, and compare its logits with the model's.

    Args:
        model: Folder or Hub name of the model. It can be any semantic segmenter of transformers. Default: the small
            model of street scenes in a clone of this repository, model_cards/camvid.
        format: onnx, or torch-export for torch.export.load.
        out: File to write, .onnx or .pt2. Default: a file in outputs/ with the name of the model.
        image_size: Height and width of the only image size that the file will accept. Default: every size that the
            model accepts.
        opset: Version of the ONNX operator set. Default: the version that torch recommends.
        output: logits, on the feature grid. classes: also the class of every pixel of the input, so that no scores
            need to be resized outside of the file.
        trust_remote_code: Run the Python files that come with a model that is not CMDL. Read them first.
    """
    import_plugins(plugin)
    from ..export import SUFFIXES, export_model

    model = choose_model(model)
    with logging_to_terminal():
        report = export_model(
            model,
            out or Path("outputs") / f"{name_of_model(model)}{SUFFIXES[format]}",
            format,
            image_size=image_size,
            opset=opset,
            trust_remote_code=trust_remote_code,
            output=output,
        )
    if report.max_difference is not None:
        print(f"largest difference from the model's logits: {report.max_difference:.1e}")
    print(f"Saved to {report.path} ({report.num_bytes / 1e6:.1f} MB)")


def convert(
    reference: Path,
    output_dir: Path,
    /,
    *,
    backbone: str,
    num_labels: int,
    context_module: str = "none",
) -> None:
    """Convert a checkpoint of the public reference implementation into a folder that from_pretrained loads.

    Args:
        reference: The reference's PyTorch file. Code in it is not run.
        output_dir: Folder to write to. It must be new or empty.
        backbone: timm's name of the ResNet, such as resnet50c (with a deep stem) or resnet101.
        num_labels: Number of classes of the checkpoint.
        context_module: Context module of the checkpoint: none (FCN), ppm (PSPNet) or aspp (DeepLabV3).
    """
    from ..export import convert_reference_checkpoint

    with logging_to_terminal():
        convert_reference_checkpoint(reference, output_dir, backbone, num_labels, context_module)
    print(f"Saved to {output_dir}: load it with CMDLForSemanticSegmentation.from_pretrained({str(output_dir)!r})")
