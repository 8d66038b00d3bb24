"""`cmdl push`, `cmdl export` and `cmdl convert`: models that go elsewhere, or come from there."""

from pathlib import Path
from typing import Literal

from ..plugins import import_plugins
from .options import Plugins, logging_to_terminal, name_of_model


def push(folder: Path, repo_id: str, /, *, private: bool | None = None, plugin: Plugins = ()) -> None:
    """Push a model to the Hub, with a card that tells how it was trained and how good it is.

    What goes there are the files of the folder and of its last/; checkpoints, hidden files and other folders stay. A
    card (README.md) changed by hand is kept. Log in first: hf auth login.

    Args:
        folder: Output folder of cmdl train, or any folder that from_pretrained loads.
        repo_id: ORG/NAME on the Hub; it is made where it does not exist.
        private: Whether only its owners see the model, should it have to be made; omitted, as ORG has set it.
    """
    import_plugins(plugin)
    from ..hub import push

    address = push(folder, repo_id, private)
    print(f"Pushed to {address}")


def export(
    model: str,
    /,
    *,
    format: Literal["onnx", "torch-export"] = "onnx",
    out: Path | None = None,
    image_size: tuple[int, int] | None = None,
    opset: int | None = None,
    plugin: Plugins = (),
    trust_remote_code: bool = False,
) -> None:
    """Write a model to one file that runs without this package, and compare its logits with the model's.

    Args:
        model: Folder or Hub name of the model; any semantic segmenter of transformers, CMDL or not.
        format: onnx, or torch-export for torch.export.load.
        out: File to write, .onnx or .pt2; by default one in outputs/ with the name of the model.
        image_size: Height and width, to export for images of this size only; by default for every size that the
            model takes.
        opset: ONNX operator set; by default the one that torch recommends.
        trust_remote_code: Run Python files that come with a model that is not CMDL; read them first.
    """
    import_plugins(plugin)
    from ..export import SUFFIXES, export_model

    with logging_to_terminal():
        report = export_model(
            model,
            out or Path("outputs") / f"{name_of_model(model)}{SUFFIXES[format]}",
            format,
            image_size=image_size,
            opset=opset,
            trust_remote_code=trust_remote_code,
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
    """Turn a checkpoint of the public reference implementation into a folder that from_pretrained loads.

    Args:
        reference: The reference's PyTorch file; read without running code in it.
        output_dir: Folder to write; must be new or empty.
        backbone: timm's name of the ResNet, such as resnet50c (deep stem) or resnet101.
        num_labels: Number of classes of the checkpoint.
        context_module: Context module of the checkpoint: none (FCN), ppm (PSPNet) or aspp (DeepLabV3).
    """
    from ..export import convert_reference_checkpoint

    convert_reference_checkpoint(reference, output_dir, backbone, num_labels, context_module)
    print(f"Saved to {output_dir}: load it with CMDLForSemanticSegmentation.from_pretrained({str(output_dir)!r})")
