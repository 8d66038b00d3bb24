"""The `cmdl` command line: thin commands that import what they need when they run."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Yaml
from huggingface_hub.errors import StrictDataclassError

from .. import __version__
from ..training import CMDLTrainingArguments

app = App(
    name="cmdl",
    version=__version__,
    help="Class-wise Multiple Distributions Learning for semantic segmentation.",
    default_parameter=Parameter(negative_iterable=()),
)
_DEFAULTS = CMDLTrainingArguments()
_INTERRUPTED = 130  # the exit status that shells know of Ctrl-C


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
    from ..export import convert_reference_checkpoint

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
    from ..demo import run_demo

    run_demo(output_dir, data_dir, weights, max_steps)


@app.command
def train(
    recipe: Path | None = None,
    /,
    *,
    output_dir: Path | None = None,
    data_dir: Path | None = None,
    id2label: Path | None = None,
    weights: Path | None = None,
    push_to_hub: str | None = None,
    private: bool | None = None,
    args: Annotated[CMDLTrainingArguments, Parameter(name="*")] = _DEFAULTS,
) -> None:
    """Train a model from a recipe, and keep the best as a folder that from_pretrained loads.

    The same command continues a run that was interrupted, which ends with status 130. In several processes:
    accelerate launch -m cmdl_hf.training, in place of cmdl train.

    Args:
        recipe: YAML file with any of the options below (crop_size: [512, 512] and so on); a flag wins over it.
        output_dir: Folder for models, metrics, curves, scores and checkpoints; new, empty, or of this very run when
            it was interrupted. By default outputs/ and the name of what is trained.
        data_dir: Folder of the data set; for own data a folder of images/ and masks/, or a list of pairs.
        id2label: File with the names of the classes of own data: .txt, .json or .csv.
        weights: safetensors file with timm's weights of the backbone, or "timm" to download them; omitted, it starts
            from scratch.
        push_to_hub: ORG/NAME on the Hub; the best and the last model are pushed there, with their card, after each
            evaluation and at the end.
        private: Whether only its owners see what --push-to-hub makes; by default what ORG has set.
    """
    from accelerate import PartialState

    from ..training import run

    output_dir = output_dir or Path("outputs") / args.name
    with _logging_to_terminal():
        scores = run(args, output_dir, data_dir, id2label, weights, push_to_hub, private)
    processes = PartialState()
    if scores is not None and processes.is_main_process:
        for split, score in scores.items():
            mean_iou, accuracy = 100 * score["mean_iou"], 100 * score["overall_accuracy"]
            print(f"{split}: mean IoU {mean_iou:.2f} %, accuracy {accuracy:.2f} %")
        print(f"run: {output_dir}")
    processes.destroy_process_group()
    if scores is None:
        sys.exit(_INTERRUPTED)


@app.command
def evaluate(
    model: str,
    /,
    *,
    benchmark: Literal["cityscapes", "ade20k", "coco_stuff", "camvid", "own", "synthetic"],
    data_dir: Path | None = None,
    split: Literal["train", "validation", "test"] = "validation",
    protocol: Literal["whole", "slide", "ms-flip"] = "whole",
    id2label: Path | None = None,
    resize: tuple[int, int] | None = None,
    crop_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    num_workers: int = 2,
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    out: Path | None = None,
    save_predictions: Path | None = None,
    update_card: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Score a model the way papers do, against labels at their original size.

    Any semantic segmenter of transformers can be scored. In several processes: torchrun -m cmdl_hf.cli evaluate,
    in place of cmdl evaluate.

    Args:
        model: Folder or Hub name of the model.
        benchmark: The data set; own is for your own images and masks.
        data_dir: Folder of the data set; for own data a folder of images/ and masks/, or a list of pairs.
        split: The images to score.
        protocol: whole: one pass over each whole image. slide: overlapping windows, their logits averaged. ms-flip:
            six scales from 0.5 to 1.75, each also mirrored, their probabilities averaged.
        id2label: File with the names of the classes of own data: .txt, .json or .csv.
        resize: Shorter edge and limit of the longer edge, in pixels, that images are brought to. By default what the
            model's image processor says; where that would distort them, what papers use.
        crop_size: Height and width of windows. By default those of the model's recipe, or else the papers'. With
            ms-flip every scale is scored in windows if this is given.
        stride: Steps down and to the right from window to window; two thirds of the crop by default.
        num_workers: Processes that read images.
        mixed_precision: Precision of the model's operations.
        out: JSON file for the scores; by default one in outputs/scores/.
        save_predictions: Folder for PNG files with the ids that the data set's owner uses, as test servers take them;
            for splits without labels, too.
        update_card: Add the scores to the model's folder, and write its card anew.
        trust_remote_code: Run Python files that come with a model that is not CMDL; read them first.
    """
    from accelerate import PartialState

    from ..evaluation import run_evaluation

    name = f"{Path(model).resolve().name if Path(model).is_dir() else model.replace('/', '-')}"
    out = out or Path("outputs/scores") / f"{name}-{benchmark}-{split}-{protocol}.json"
    with _logging_to_terminal():
        evaluation = run_evaluation(
            model,
            benchmark,
            data_dir,
            split=split,
            protocol=protocol,
            id2label=id2label,
            resize=resize,
            crop_size=crop_size,
            stride=stride,
            num_workers=num_workers,
            mixed_precision=mixed_precision,
            out=out,
            save_predictions=save_predictions,
            update_card=update_card,
            trust_remote_code=trust_remote_code,
        )
    processes = PartialState()
    if processes.is_main_process:
        print(evaluation.format_table() if evaluation.scores else "no scores: the labels are withheld")
        print(f"scores: {out}" + (f"\npredictions: {save_predictions}" if save_predictions else ""))
    processes.destroy_process_group()


@app.command
def predict(
    model: str,
    /,
    *inputs: str,
    out: Path,
    outlier_map: bool = False,
    batch_size: int = 4,
    max_pixels: int = 178_956_970,
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
    from ..inference import predict_files

    with _logging_to_terminal():
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


@app.command
def explore(
    model: str,
    /,
    *,
    benchmark: Literal["cityscapes", "ade20k", "coco_stuff", "camvid", "own", "synthetic"],
    out: Path,
    data_dir: Path | None = None,
    split: Literal["train", "validation", "test"] = "train",
    max_images: int | None = None,
    id2label: Path | None = None,
) -> None:
    """Look inside a model: what each of its class distributions has learned, as one page, report.html.

    For every class its distributions with share of pixels, purity and the patches nearest to them; embeddings, class
    similarity, dead and duplicate distributions, and maps of images. All figures are also in distributions.json.

    Args:
        model: Folder or Hub name of a CMDL model with distributions.
        benchmark: The data set that the model was trained on; own is for your own images and masks.
        out: Folder to write to.
        data_dir: Folder of the data set; for own data a folder of images/ and masks/, or a list of pairs.
        split: The images to look at.
        max_images: Look at no more than these, spread evenly over the split.
        id2label: File with the names of the classes of own data: .txt, .json or .csv.
    """
    from ..explore import explore

    with _logging_to_terminal():
        findings = explore(model, benchmark, out, data_dir, split=split, max_images=max_images, id2label=id2label)
    counts = ", ".join(f"{len(findings[name])} {name}" for name in ("dead", "duplicates", "unused"))
    print(f"{findings['num_images']:,} images, {findings['num_labels'] * findings['num_distributions']} distributions")
    print(f"nearest to a distribution of their own class: {100 * findings['recall']:.1f} % of the pixels; {counts}")
    print(f"report: {out / 'report.html'}")


@app.command
def export(
    model: str,
    /,
    *,
    format: Literal["onnx", "torch-export"] = "onnx",
    out: Path | None = None,
    image_size: tuple[int, int] | None = None,
    opset: int | None = None,
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
    from ..export import SUFFIXES, export_model

    name = Path(model).resolve().name if Path(model).is_dir() else model.replace("/", "-")
    with _logging_to_terminal():
        report = export_model(
            model,
            out or Path("outputs") / f"{name}{SUFFIXES[format]}",
            format,
            image_size=image_size,
            opset=opset,
            trust_remote_code=trust_remote_code,
        )
    if report.max_difference is not None:
        print(f"largest difference from the model's logits: {report.max_difference:.1e}")
    print(f"Saved to {report.path} ({report.num_bytes / 1e6:.1f} MB)")


@app.command
def push(folder: Path, repo_id: str, /, *, private: bool | None = None) -> None:
    """Push a model to the Hub, with a card that tells how it was trained and how good it is.

    What goes there are the files of the folder and of its last/; checkpoints, hidden files and other folders stay. A
    card (README.md) changed by hand is kept. Log in first: hf auth login.

    Args:
        folder: Output folder of cmdl train, or any folder that from_pretrained loads.
        repo_id: ORG/NAME on the Hub; it is made where it does not exist.
        private: Whether only its owners see the model, should it have to be made; omitted, as ORG has set it.
    """
    from ..hub import push

    address = push(folder, repo_id, private)
    print(f"Pushed to {address}")


@app.command
def prepare(
    name: str,
    /,
    *,
    data_dir: Path,
    out: Path,
    push: str | None = None,
    private: bool = True,
    splits: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    skip_bad_files: bool = False,
) -> None:
    """Write a public data set as Parquet with a card: datasets.load_dataset reads and streams it.

    Args:
        name: ade20k, camvid, cityscapes or coco_stuff.
        data_dir: Folder of the data set as its owner distributes it.
        out: Folder to write; must be new or empty.
        push: Also upload it to the Hub as ORG/NAME.
        private: Whether only its owners see the data set that --push makes; few owners allow to pass files on.
        splits: Splits to write, of train, validation and test; omitted, all.
        skip_bad_files: Leave out files that break a rule; they are listed here and in the card.
    """
    from ..data import prepare
    from ..hub import check_can_push_dataset, push_dataset

    if push is not None:
        check_can_push_dataset(push)
    dataset = prepare(name, data_dir, out, push, splits, skip_bad_files)
    if push is not None:
        push_dataset(out, push, private)
    for split, rows in dataset.items():
        print(f"{split}: {len(rows):,} images")
    print(f"Saved to {out}: load it with datasets.load_dataset({str(out)!r})")
    if push is not None:
        print(f"Pushed to {push}: load it with datasets.load_dataset({push!r})")


@app.command
def check_data(
    name: str,
    /,
    *,
    data_dir: Path | None = None,
    id2label: Path | None = None,
    splits: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    contact_sheet: Path = Path("outputs/contact_sheet.png"),
) -> None:
    """Look through all files of a data set, print what is in them and what is wrong, and draw some.

    The exit status is 1 if anything is wrong.

    Args:
        name: ade20k, camvid, cityscapes or coco_stuff; or a folder of own images/ and masks/.
        data_dir: Folder of the public data set.
        id2label: File with the names of the classes of own data: .txt, .json or .csv.
        splits: Splits of the public data set to check; omitted, all.
        contact_sheet: PNG file for images beside their overlays.
    """
    from ..data import check_data, format_report

    report, is_drawn = check_data(name, contact_sheet, data_dir, id2label, splits)
    print(format_report(report))
    if is_drawn:
        print(f"contact sheet: {contact_sheet}")
    sys.exit(1 if report.errors else 0)


@contextmanager
def _logging_to_terminal() -> Iterator[None]:
    """Show what cmdl_hf has to say while it works, once where there are several processes."""
    from tqdm.contrib.logging import logging_redirect_tqdm
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("cmdl_hf").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    transformers_logging.disable_progress_bar()
    with logging_redirect_tqdm():
        yield


def _read_recipe(_: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Let the YAML file that `cmdl train` was given stand in for the flags that were not."""
    given = [argument for argument in arguments if argument.name == "RECIPE" and argument.tokens]
    if commands == ("train",) and given:
        recipe = given[0].tokens[0].value
        if not Path(recipe).is_file():
            raise FileNotFoundError(
                f"{recipe} is no recipe file; name a YAML file such as examples/configs/camvid.yaml"
            )
        Yaml(recipe, must_exist=True, use_commands_as_keys=False)(app, commands, arguments)


app.config = (_read_recipe,)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake of the user's prints one line and exits with status 1."""
    try:
        app(arguments, result_action="return_value")
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError, StrictDataclassError) as error:
        sys.exit(f"cmdl: {error}")
