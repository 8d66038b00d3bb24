"""The work of `cmdl evaluate`: score a model on a data set with a protocol, and write the scores."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import PreTrainedModel

from ..data import check_classes, ids_digest, load_split
from ..inference import SCALES, load_segmenter
from ..metrics import SegmentationMetrics
from ..processes import start_processes
from .confidence import segment_confidently
from .counts import ImageCounter, describe_protocol
from .earlier import check_earlier
from .protocols import ProcessorTransform, Protocol, ProtocolName, make_protocol, processor_resize
from .results import Evaluation, ResultFiles, ScoredSplit
from .scoring import Prediction, evaluate, predict


def run_evaluation(
    model: str | Path,
    benchmark: str,
    data_dir: str | Path | None = None,
    *,
    split: str = "validation",
    protocol: ProtocolName = "whole",
    id2label: str | Path | None = None,
    merge_classes: str | Path | None = None,
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

    In a process group, each process scores a share of the images, and every image counts once.

    Args:
        model (`str` or `Path`): Folder or Hub name of any semantic segmenter that transformers loads.
        benchmark (`str`): One of `BENCHMARKS`, `"own"` or `"synthetic"`.
        data_dir (`str` or `Path`, *optional*): Folder of the data set. Generated scenes have none.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        protocol (`str`): `"whole"`, `"slide"` or `"ms-flip"`, see [`Protocol`].
        id2label (`str` or `Path`, *optional*): File with the class names of own data.
        merge_classes (`str` or `Path`, *optional*): File that merges classes; see `merge_classes`.
        resize (`tuple[int, int]`, *optional*): Shorter edge and limit of the longer edge of images, never of labels;
            by default those of the model's image processor, or the papers' if that would distort images.
        crop_size (`tuple[int, int]`, *optional*): Size of windows; by default the model's or papers', or no windows.
        stride (`tuple[int, int]`, *optional*): Step between windows. By default, two thirds of the crop.
        scales (`tuple[float, ...]`): Scales of `"ms-flip"`.
        num_workers (`int`): Processes that read images.
        mixed_precision (`str`): Precision of the model's operations.
        out (`str` or `Path`, *optional*): JSON file to write, with counts (npz) and a folder `NAME-details` beside.
        save_predictions (`str` or `Path`, *optional*): Folder for a PNG per image, with the ids of the data set's
            owner, for a test server. A split without public labels is then segmented but not scored.
        update_card (`bool`): Add the scores to those of the model's folder, and rewrite its model card.
        trust_remote_code (`bool`): Whether to run Python files that come with the model.

    Raises:
        FileExistsError: if `out` has scores of another evaluation.
        FileNotFoundError, ValueError: if model, data or public labels are missing, or classes or options contradict.
    """
    start_processes()
    files = ResultFiles(Path(model), out, save_predictions, update_card)
    files.check_places()
    segmenter, processor, data = _load(model, trust_remote_code, benchmark, split, data_dir, id2label, merge_classes)
    files.check_labels(data)
    own_resize = processor_resize(processor, benchmark)
    steps = make_protocol(protocol, model, benchmark, resize or own_resize, crop_size, stride, scales)
    check_earlier(out, facts := _describe(str(model), data, steps, mixed_precision))
    evaluation = _score(facts, segmenter, processor, data, steps, mixed_precision, num_workers, files)
    files.write(evaluation, data, steps, own_resize)
    return evaluation


def _load(
    model: str | Path,
    trust_remote_code: bool,
    benchmark: str,
    split: str,
    data_dir: str | Path | None,
    id2label: str | Path | None,
    merge_classes: str | Path | None,
) -> tuple[PreTrainedModel, Any, ScoredSplit]:
    """Load a model, its image processor and the images, and check that model and data have the same classes."""
    segmenter, processor = load_segmenter(model, trust_remote_code)
    num_labels = int(segmenter.config.num_labels)
    with PartialState().local_main_process_first():  # the other processes find the prepared data in the cache
        dataset = load_split(benchmark, split, num_labels, data_dir, id2label, merge_classes, model)
    check_classes(segmenter.config, dataset, benchmark, model)
    return segmenter, processor, ScoredSplit(benchmark, split, data_dir, dataset)


def _describe(model: str, data: ScoredSplit, protocol: Protocol, mixed_precision: str) -> dict[str, Any]:
    """Record what is scored, and how."""
    return {
        "model": model,
        "benchmark": data.benchmark,
        "split": data.split,
        "data_folder": None if data.data_dir is None else Path(data.data_dir).resolve().name,
        "num_images": len(data.images),
        "image_ids": ids_digest(data.images),
        "protocol": asdict(protocol),
        "mixed_precision": mixed_precision,
        "num_processes": PartialState().num_processes,
        "versions": {name: version(name) for name in ("cmdl_hf", "torch", "transformers")},
    }


def _score(
    facts: dict[str, Any],
    segmenter: PreTrainedModel,
    processor: Any,
    data: ScoredSplit,
    protocol: Protocol,
    mixed_precision: str,
    num_workers: int,
    files: ResultFiles,
) -> Evaluation:
    """Score a split with a protocol."""
    save, inspector = files.prediction_writer(data), files.inspector(data)
    transform = ProcessorTransform(None if protocol.name == "ms-flip" else protocol.resize, processor)
    counter = ImageCounter(data.dataset.num_labels, data.dataset.ignore_index)
    segment_images = segment_confidently(protocol, data.dataset.num_labels) if inspector else protocol.segment_images()
    options = {"segment_images": segment_images, "num_workers": num_workers}

    def note(prediction: Prediction) -> None:
        counter(prediction)
        if inspector:
            inspector(prediction)

    device = PartialState().device
    with _autocast(device, mixed_precision):
        scores, pixel_shares = _measure(segmenter.to(device), data, transform, save, note, options)
    counts = counter.collect(describe_protocol(protocol, mixed_precision)) if data.has_labels else None
    findings = inspector.collect() if inspector else None
    return Evaluation(facts, dict(data.dataset.id2label), scores, pixel_shares, counts, findings)


def _measure(
    segmenter: PreTrainedModel,
    data: ScoredSplit,
    transform: ProcessorTransform,
    save: Callable[[Prediction], None] | None,
    count: Callable[[Prediction], None],
    options: dict[str, Any],
) -> tuple[dict[str, Any], list[float]]:
    """Score a split, or only save its predictions if it has no labels; also return the pixel share of each class."""
    num_labels, ignore_index = data.dataset.num_labels, data.dataset.ignore_index
    metrics = SegmentationMetrics(num_labels, ignore_index)
    scores: dict[str, Any] = {}

    def note(prediction: Prediction) -> None:
        count(prediction)
        if save is not None:
            save(prediction)

    if data.has_labels:
        options = options | {"description": f"Scoring {data.split}", "metrics": metrics, "on_prediction": note}
        scores = evaluate(segmenter, data.images, transform, num_labels, ignore_index, **options)
    elif save is not None:
        for prediction in predict(segmenter, data.images, transform, **options):
            save(prediction)
    counts = reduce(metrics.confusion_matrix.to(PartialState().device), "sum").sum(dim=1).cpu().double()
    return scores, (counts / counts.sum()).tolist()


def _autocast(device: torch.device, mixed_precision: str) -> Any:
    if mixed_precision == "no":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if mixed_precision == "bf16" else torch.float16)
