"""`cmdl evaluate`."""

from pathlib import Path
from typing import Literal

from ..plugins import import_plugins
from .options import Data, Plugins, logging_to_terminal, name_of_model


def evaluate(
    model: str,
    /,
    *,
    data: Data,
    protocol: Literal["whole", "slide", "ms-flip"] = "whole",
    resize: tuple[int, int] | None = None,
    crop_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    num_workers: int = 2,
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    out: Path | None = None,
    save_predictions: Path | None = None,
    update_card: bool = False,
    plugin: Plugins = (),
    trust_remote_code: bool = False,
) -> None:
    """Score a model the way papers do, against labels at their original size.

    Any semantic segmenter of transformers can be scored. In several processes: torchrun -m cmdl_hf.cli evaluate,
    in place of cmdl evaluate.

    Args:
        model: Folder or Hub name of the model.
        protocol: whole: one pass over each whole image. slide: overlapping windows, their logits averaged. ms-flip:
            six scales from 0.5 to 1.75, each also mirrored, their probabilities averaged.
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
    import_plugins(plugin)
    from accelerate import PartialState

    from ..evaluation import run_evaluation

    split = data.split or "validation"
    out = out or Path("outputs/scores") / f"{name_of_model(model)}-{data.benchmark}-{split}-{protocol}.json"
    with logging_to_terminal():
        evaluation = run_evaluation(
            model,
            data.benchmark,
            data.data_dir,
            split=split,
            protocol=protocol,
            id2label=data.id2label,
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
