"""`cmdl evaluate`: a model scored on a data set by a protocol of the papers, told in a table, a file and its card."""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from PIL import Image
from transformers import PreTrainedModel

from ..data import BENCHMARKS, LabelTable, SegmentationDataset, check_classes, ids_digest, load_split
from ..files import check_can_write, without_nan, write_text
from ..hub import write_card
from ..inference import SCALES, ScoreImages, load_segmenter
from ..metrics import SegmentationMetrics
from ..processes import start_processes
from .protocols import ProcessorTransform, ProtocolName, make_protocol, processor_resize
from .scoring import Prediction, evaluate, predict


@dataclass
class Evaluation:
    """What was measured: of which model, on which images, how.

    Args:
        facts (`dict`): Model, data, protocol and versions.
        id2label (`dict`): Name of every class.
        scores (`dict`): What [`evaluate`] returns, or empty where labels are withheld.
        pixel_shares (`list` of K floats): Shares of the classes in the labelled pixels.
    """

    facts: dict[str, Any]
    id2label: dict[int, str]
    scores: dict[str, Any]
    pixel_shares: list[float]

    def to_json(self) -> str:
        """Everything as text; a class without pixels scores null."""
        content = self.facts | {"id2label": self.id2label, "scores": self.scores, "pixel_shares": self.pixel_shares}
        return json.dumps(without_nan(content), indent=2, ensure_ascii=False) + "\n"

    def format_table(self) -> str:
        """Every class with IoU, accuracy and share of the pixels in %, then the means."""
        scores = self.scores
        width = max(len(name) for name in (*self.id2label.values(), "frequency-weighted"))
        lines = [f"{'class':<{width}}{'IoU':>9}{'accuracy':>10}{'pixels':>9}   %"]
        for id_, name in self.id2label.items():
            values = scores["per_class_iou"][id_], scores["per_class_accuracy"][id_], self.pixel_shares[id_]
            lines.append(f"{name:<{width}}{_percent(values[0]):>9}{_percent(values[1]):>10}{_percent(values[2]):>9}")
        lines += [
            f"{'mean':<{width}}{_percent(scores['mean_iou']):>9}{_percent(scores['mean_accuracy']):>10}",
            f"{'frequency-weighted':<{width}}{_percent(scores['frequency_weighted_iou']):>9}",
            f"{'all pixels':<{width}}{'':>9}{_percent(scores['overall_accuracy']):>10}",
        ]
        return "\n".join(lines)


def run_evaluation(
    model: str | Path,
    benchmark: str,
    data_dir: str | Path | None = None,
    *,
    split: str = "validation",
    protocol: ProtocolName = "whole",
    id2label: str | Path | None = None,
    resize: tuple[int, int] | None = None,
    crop_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: tuple[float, ...] = SCALES,
    num_workers: int = 2,
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    out: str | Path | None = None,
    save_predictions: str | Path | None = None,
    update_card: bool = False,
    trust_remote_code: bool = False,
) -> Evaluation:
    """Score a semantic segmenter on a split of a data set, against labels at their original size.

    In a process group each process scores its share of the images, and all count once.

    Args:
        model (`str` or `Path`): Folder or Hub name of any semantic segmenter that transformers loads.
        benchmark (`str`): One of `BENCHMARKS`, `"own"` or `"synthetic"`.
        data_dir (`str` or `Path`, *optional*): Folder of the data set; generated scenes have none.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        protocol (`str`): `"whole"`: one pass over the whole image. `"slide"`: windows, see [`sliding_window_logits`].
            `"ms-flip"`: several scales, each also mirrored, see [`multi_scale_probabilities`].
        id2label (`str` or `Path`, *optional*): File with the classes of own data.
        resize (`tuple[int, int]`, *optional*): Shorter edge and limit of the longer edge that images, but never
            labels, are brought to. By default what the model's image processor says; where it would distort images,
            what papers use.
        crop_size (`tuple[int, int]`, *optional*): Height and width of the windows: by default the crop of the model's
            recipe, or else the papers'. With `"ms-flip"` windows are used only if this is given.
        stride (`tuple[int, int]`, *optional*): From window to window; two thirds of the crop by default.
        scales (`tuple[float, ...]`): Of `"ms-flip"`.
        num_workers (`int`): Processes that read images.
        mixed_precision (`str`): Precision of the model's operations.
        out (`str` or `Path`, *optional*): JSON file to write.
        save_predictions (`str` or `Path`, *optional*): Folder for a PNG of every image with the ids of the data set's
            owner, as test servers take them. A split whose labels are withheld is then segmented without a score.
        update_card (`bool`): Add the scores to `scores.json` of the model's folder and write its card anew.
        trust_remote_code (`bool`): Whether to run Python files that come with the model.

    Raises:
        FileNotFoundError: if there is no such model, or data are missing.
        ValueError: if model and data set differ in their classes, labels are withheld, or options contradict.
    """
    state = start_processes()
    _check_paths(state, Path(model), out, save_predictions, update_card)
    segmenter, processor = load_segmenter(model, trust_remote_code)
    num_labels = int(segmenter.config.num_labels)
    with state.local_main_process_first():  # the others find the prepared data in the cache
        dataset = load_split(benchmark, split, num_labels, data_dir, id2label)
    check_classes(segmenter.config, dataset, benchmark, model)
    if dataset[split][0]["label"] is None:
        _check_use_without_labels(benchmark, split, save_predictions is not None, update_card)
    own_resize = processor_resize(processor, benchmark)
    steps = make_protocol(protocol, model, benchmark, resize or own_resize, crop_size, stride, scales)
    save = None if save_predictions is None else _PredictionWriter(Path(save_predictions), dataset.owner_table)
    transform = ProcessorTransform(None if protocol == "ms-flip" else steps.resize, processor)
    with _autocast(state.device, mixed_precision):
        scores, pixel_shares = _score(
            segmenter.to(state.device), dataset, split, transform, steps.score_images(), num_workers, save
        )
    facts = {
        "model": str(model),
        "benchmark": benchmark,
        "split": split,
        "num_images": len(dataset[split]),
        "protocol": asdict(steps),
        "mixed_precision": mixed_precision,
        "num_processes": state.num_processes,
        "versions": {name: version(name) for name in ("cmdl_hf", "torch", "transformers")},
    }
    evaluation = Evaluation(facts, dict(dataset.id2label), scores, pixel_shares)
    if state.is_main_process:
        if out is not None:
            write_text(Path(out), evaluation.to_json())
        if update_card:
            data_name = _name_of_other_data(Path(model), benchmark, data_dir, dataset, split)
            name = split if data_name is None else f"{data_name}, {split}"
            if protocol != "whole" or steps.resize != own_resize or mixed_precision != "no":
                name += f" ({steps}{'' if mixed_precision == 'no' else f', {mixed_precision}'})"
            _update_card(Path(model), name, scores)
    state.wait_for_everyone()
    return evaluation


def _check_paths(
    state: PartialState, model: Path, out: str | Path | None, save_predictions: str | Path | None, update_card: bool
) -> None:
    """Refuse what cannot be written, before anything is read."""
    if update_card and not model.is_dir():
        raise ValueError(f"update_card writes into the folder of a model, and {model} is none; download it first")
    folder = None if save_predictions is None else Path(save_predictions)
    if folder is not None and state.is_main_process and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder with --save-predictions")
    state.wait_for_everyone()
    if folder is not None:
        check_can_write(folder, is_folder=True)
    if out is not None:
        check_can_write(Path(out), is_folder=False)


def _score(
    segmenter: PreTrainedModel,
    dataset: SegmentationDataset,
    split: str,
    transform: ProcessorTransform,
    score_images: ScoreImages,
    num_workers: int,
    save: Callable[[Prediction], None] | None,
) -> tuple[dict[str, Any], list[float]]:
    """Score a split, or only save its predictions where labels are withheld; with the share of each class's pixels."""
    num_labels = dataset.num_labels
    metrics = SegmentationMetrics(num_labels, dataset.ignore_index)
    options: dict[str, Any] = {"score_images": score_images, "num_workers": num_workers}
    scores: dict[str, Any] = {}
    if dataset[split][0]["label"] is not None:
        options |= {"description": f"Scoring {split}", "metrics": metrics, "on_prediction": save}
        scores = evaluate(segmenter, dataset[split], transform, num_labels, dataset.ignore_index, **options)
    elif save is not None:
        for prediction in predict(segmenter, dataset[split], transform, **options):
            save(prediction)
    counts = reduce(metrics.confusion_matrix.to(PartialState().device), "sum").sum(dim=1).cpu().double()
    return scores, (counts / counts.sum()).tolist()


def _check_use_without_labels(benchmark: str, split: str, is_saving: bool, update_card: bool) -> None:
    """Refuse to score what the owner has withheld the labels of."""
    if not is_saving:
        raise ValueError(
            f"the labels of {benchmark}'s {split} split are withheld by its owner, so it cannot be scored here; "
            "choose another split, or write predictions for the owner's server with --save-predictions DIR"
        )
    if update_card:
        raise ValueError(f"the labels of {benchmark}'s {split} split are withheld: there are no scores for the card")


class _PredictionWriter:
    """Writes class ids as the data set's owner numbers them."""

    def __init__(self, folder: Path, owner_table: LabelTable) -> None:
        self.folder = folder
        raw_ids: dict[int, int] = {}
        for raw_id, train_id in owner_table.raw_to_train.items():
            raw_ids.setdefault(train_id, raw_id)
        table = [raw_ids[train_id] for train_id in range(owner_table.num_labels)]
        self.raw_ids = np.array(table, dtype=np.uint8 if max(table) < 256 else np.uint16)

    def __call__(self, prediction: Prediction) -> None:
        # The id of a pair from a list is its path, which may lead anywhere; the prediction stays in the folder.
        parts = [
            part for part in Path(f"{prediction.id}.png").parts if part not in ("..", Path(str(prediction.id)).anchor)
        ]
        file = self.folder.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            raise FileExistsError(f"two images would both be written to {file}; give them names of their own")
        Image.fromarray(self.raw_ids[prediction.class_ids.cpu().numpy()]).save(file)


def _name_of_other_data(
    folder: Path, benchmark: str, data_dir: str | Path | None, dataset: SegmentationDataset, split: str
) -> str | None:
    """Name the data set, or return None if the model's run had these very images in this split."""
    file = folder / "run.json"
    run = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    is_same = run.get("recipe", {}).get("benchmark") == benchmark
    if is_same and run.get("data", {}).get("splits", {}).get(split) == ids_digest(dataset[split]):
        return None
    title = BENCHMARKS[benchmark].title if benchmark in BENCHMARKS else benchmark
    return title if data_dir is None else f"{title} in {Path(data_dir).resolve().name}"


def _update_card(folder: Path, name: str, scores: Mapping[str, Any]) -> None:
    """Put scores beside those that a model's folder has, and have its card written anew.

    The card takes the names of scores for splits of the data set it was trained on. Those of other data, of another
    protocol or precision than the training's own, get a name that says so, and replace nothing else.
    """
    file = folder / "scores.json"
    there = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_text(file, json.dumps(without_nan(there | {name: dict(scores)}), indent=2, ensure_ascii=False))
    write_card(folder)


def _autocast(device: torch.device, mixed_precision: str) -> Any:
    if mixed_precision == "no":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if mixed_precision == "bf16" else torch.float16)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}".replace("nan", "–")
