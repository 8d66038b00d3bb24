"""The command `cmdl evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..plugins import import_plugins
from .options import Data, Plugins, logging_to_terminal, name_of_data, name_of_model


@dataclass(kw_only=True)
class ScoringOptions:
    """How a model is scored.

    Args:
        protocol: How an image passes through the model. whole: in one pass. slide: in overlapping windows, whose
            logits are averaged. ms-flip: at six scales from 0.5 to 1.75, each also mirrored; the probabilities are
            averaged.
        resize: Size to which images are resized first: the shorter edge and the limit of the longer edge, in pixels.
            Default: the size in the model's image processor, or the papers' size if that would distort the images.
        crop_size: Height and width of the windows. Default: those of the model's recipe, or else those of the papers.
            If you set it with ms-flip, every scale is scored in windows.
        stride: Vertical and horizontal step between windows, in pixels. Default: two thirds of the crop size.
        num_workers: Number of processes that read images.
        mixed_precision: Precision of the model's operations.
    """

    protocol: Literal["whole", "slide", "ms-flip"] = "whole"
    resize: tuple[int, int] | None = None
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    num_workers: int = 2
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"


_DEFAULTS = ScoringOptions()


def evaluate(
    model: str,
    /,
    *,
    data: Data,
    scoring: Annotated[ScoringOptions, Parameter(name="*")] = _DEFAULTS,
    out: Path | None = None,
    save_predictions: Path | None = None,
    update_card: bool = False,
    plugin: Plugins = (),
    trust_remote_code: bool = False,
) -> None:
    """Score a model as papers do, against labels at their original size.

    The model can be any semantic segmenter of transformers. To use several processes, replace cmdl evaluate with
    torchrun -m cmdl_hf.cli evaluate.

    Args:
        model: Folder or Hub name of the model.
        out: JSON file for the scores. Default: a file in outputs/scores/, named after model, data set, split and
            protocol. A folder beside it, NAME-details, gets tables and pictures: scores of every image, confused
            classes, the worst images, and doubtful labels. The same evaluation replaces them; any other is refused.
        save_predictions: Folder for PNG files with the class ids of the data set's owner, for upload to a test server.
            This also works for splits without labels.
        update_card: Add the scores to the model's folder and rewrite its model card.
        trust_remote_code: Run the Python files that come with a model that is not CMDL. Read them first.
    """
    import_plugins(plugin)
    from accelerate import PartialState

    from ..evaluation import details_folder, run_evaluation

    split = data.split or "validation"
    name = f"{name_of_model(model)}-{name_of_data(data, split)}-{scoring.protocol}.json"
    out = out or Path("outputs/scores") / name
    with logging_to_terminal():
        evaluation = run_evaluation(
            model,
            data.benchmark,
            data.data_dir,
            split=split,
            id2label=data.id2label,
            merge_classes=data.merge_classes,
            **vars(scoring),
            out=out,
            save_predictions=save_predictions,
            update_card=update_card,
            trust_remote_code=trust_remote_code,
        )
    processes = PartialState()
    if processes.is_main_process:
        print(evaluation.format_table() if evaluation.scores else "no scores: the labels of this split are not public")
        places = {
            "scores": out,
            "details": evaluation.scores and f"{details_folder(out)}/",
            "predictions": save_predictions,
        }
        print("\n".join(f"{name}: {place}" for name, place in places.items() if place))
    processes.destroy_process_group()
