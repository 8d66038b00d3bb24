"""The results of an evaluation, written as a table, a file, images of class ids, and to the model card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState
from PIL import Image

from ..data import BENCHMARKS, LabelTable, SegmentationDataset, content_digest, ids_digest
from ..files import check_can_write, write_image, write_text
from ..hub import write_card
from ..json_files import RESTORE, read_json, without_nan
from .counts import COUNTS_FILE, ImageCounts, add_counts, write_counts
from .details import describe_doubtful, details_folder, write_details
from .inspection import Findings, Inspector
from .protocols import Protocol
from .scoring import Prediction
from .summary import describe_confused, describe_worst, format_classes


@dataclass
class Evaluation:
    """The results of an evaluation.

    Args:
        facts (`dict`): Model, data, protocol and versions.
        id2label (`dict`): Name of every class.
        scores (`dict`): Result of [`evaluate`], or empty if the labels are not public.
        pixel_shares (`list` of K floats): Shares of the classes in the labelled pixels.
        counts ([`ImageCounts`], *optional*): Pixel counts of every image, if the labels are public.
        findings ([`Findings`], *optional*): What a person should look at, if there are details to write.
    """

    facts: dict[str, Any]
    id2label: dict[int, str]
    scores: dict[str, Any]
    pixel_shares: list[float]
    counts: ImageCounts | None = None
    findings: Findings | None = None

    def to_json(self) -> str:
        """Return all results as JSON. A class without pixels scores null."""
        content = self.facts | {"id2label": self.id2label, "scores": self.scores, "pixel_shares": self.pixel_shares}
        return json.dumps(without_nan(content), indent=2, ensure_ascii=False) + "\n"

    def format_table(self) -> str:
        """Make a table of the classes, the best first, and tell of the worst and the most confused ones in words."""
        lines = [format_classes(self.id2label, self.scores, self.pixel_shares)]
        lines += filter(None, [describe_worst(self.id2label, self.scores)])
        if self.counts is not None and self.counts.confusion is not None:
            lines += describe_confused(self.id2label, self.counts.confusion)
        lines += [] if self.findings is None else [describe_doubtful(self.findings)]
        return "\n".join(lines)


@dataclass(frozen=True)
class ScoredSplit:
    """The images that a model is scored on.

    Args:
        benchmark (`str`): Name of the data set.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        data_dir (`str` or `Path`, *optional*): Folder of the data set.
        dataset (`SegmentationDataset`): The data set, with this split.
    """

    benchmark: str
    split: str
    data_dir: str | Path | None
    dataset: SegmentationDataset

    @property
    def images(self) -> datasets.Dataset:
        """The images, with their labels."""
        return self.dataset[self.split]

    @property
    def has_labels(self) -> bool:
        """Whether the labels are public."""
        return self.images[0]["label"] is not None

    def name_scores(self, model: Path) -> str:
        """Name the scores for the model's folder: after the split and, for other data, after the data set.

        Data are the same if the model's run had exactly these images and masks in this split.
        """
        file = model / "run.json"
        run = read_json(file)
        data = _part(file, run, "data")
        names, contents = (_part(file, data, digests).get(self.split) for digests in ("splits", "contents"))
        is_same = _part(file, run, "recipe").get("benchmark") == self.benchmark and names == ids_digest(self.images)
        if is_same and contents in (None, content_digest(self.images)):  # None: of an earlier version
            return self.split
        title = BENCHMARKS[self.benchmark].title if self.benchmark in BENCHMARKS else self.benchmark
        title = title if self.data_dir is None else f"{title} in {Path(self.data_dir).resolve().name}"
        return f"{title}, {self.split}"


@dataclass(frozen=True)
class ResultFiles:
    """The files that an evaluation writes.

    Args:
        model (`Path`): Folder of the model, or its name on the Hub.
        out (`str` or `Path`, *optional*): JSON file for the scores. The pixel counts go into an npz file beside it,
            and the details into a folder.
        save_predictions (`str` or `Path`, *optional*): Folder for the predictions.
        update_card (`bool`): Whether to add the scores to the model's folder, and rewrite its model card.
    """

    model: Path
    out: str | Path | None
    save_predictions: str | Path | None
    update_card: bool

    def check_places(self) -> None:
        """Refuse what cannot be written, before anything is read; every process must call this.

        Raises:
            FileExistsError: if there are predictions already.
            PermissionError: if a place cannot be written.
            ValueError: if the card is of no folder.
        """
        if self.update_card and not self.model.is_dir():
            raise ValueError(
                f"update_card writes into the folder of a model, and {self.model} is none; download it first"
            )
        state = PartialState()
        folder = None if self.save_predictions is None else Path(self.save_predictions)
        if folder is not None and state.is_main_process and folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; name a new folder with --save-predictions")
        state.wait_for_everyone()
        if folder is not None:
            check_can_write(folder, is_folder=True)
        if self.out is not None:
            check_can_write(Path(self.out), is_folder=False)
            check_can_write(details_folder(Path(self.out)), is_folder=True)

    def check_labels(self, data: ScoredSplit) -> None:
        """Check that there are labels, if they are needed.

        Args:
            data (`ScoredSplit`): The split. If predictions are saved, it needs no labels.

        Raises:
            ValueError: if labels are needed but not public.
        """
        if data.has_labels:
            return
        withheld = f"the labels of {data.benchmark}'s {data.split} split are not public"
        if self.save_predictions is None:
            raise ValueError(
                f"{withheld}, so it cannot be scored here; choose another split, or write predictions for the owner's "
                "test server with --save-predictions DIR"
            )
        if self.update_card:
            raise ValueError(f"{withheld}: there are no scores for the card")

    def prediction_writer(self, data: ScoredSplit) -> "PredictionWriter | None":
        """Make the writer of predictions, or return None if they are not saved."""
        if self.save_predictions is None:
            return None
        return PredictionWriter(Path(self.save_predictions), data.dataset.owner_table)

    def inspector(self, data: ScoredSplit) -> Inspector | None:
        """Make the inspector of predictions, or return None if there is no place for what it finds, or no label."""
        if self.out is None or not data.has_labels:
            return None
        return Inspector(data.dataset.num_labels, data.dataset.ignore_index)

    def write(
        self, evaluation: Evaluation, data: ScoredSplit, protocol: Protocol, own_resize: tuple[int, int] | None
    ) -> None:
        """Write the scores and the model card in the main process. Every process must call this.

        Scores on the training's data set are named after the split. If data, protocol or precision differ from the
        training's, the name says so. These scores replace no others.

        Args:
            evaluation (`Evaluation`): The results.
            data (`ScoredSplit`): The scored images.
            protocol (`Protocol`): The protocol.
            own_resize (`tuple[int, int]`, *optional*): Size to which the model's own image processor resizes images.
        """
        state = PartialState()
        if state.is_main_process:
            if self.out is not None:
                write_text(Path(self.out), evaluation.to_json())
                if evaluation.counts is not None:
                    write_counts(Path(self.out).with_suffix(".npz"), {data.split: evaluation.counts})
                if evaluation.counts is not None and evaluation.findings is not None:
                    folder = details_folder(Path(self.out))
                    write_details(folder, evaluation.counts, evaluation.findings, data.dataset, data.split)
            if self.update_card:
                name = data.name_scores(self.model)
                precision = evaluation.facts["mixed_precision"]
                if protocol.name != "whole" or protocol.resize != own_resize or precision != "no":
                    name += f" ({protocol}{'' if precision == 'no' else f', {precision}'})"
                _update_card(self.model, name, evaluation)
        state.wait_for_everyone()


class PredictionWriter:
    """Writes predictions with the class ids of the data set's owner.

    Args:
        folder (`Path`): Folder to write to. It is created, and so are its subfolders.
        owner_table (`LabelTable`): Label table of the data set's owner.
    """

    def __init__(self, folder: Path, owner_table: LabelTable) -> None:
        self.folder = folder
        raw_ids: dict[int, int] = {}
        for raw_id, train_id in owner_table.raw_to_train.items():
            raw_ids.setdefault(train_id, raw_id)
        table = [raw_ids[train_id] for train_id in range(owner_table.num_labels)]
        self.raw_ids = np.array(table, dtype=np.uint8 if max(table) < 256 else np.uint16)

    def __call__(self, prediction: Prediction) -> None:
        """Write the PNG of one image."""
        # In a list of pairs, the id is a path and may lead anywhere. The prediction must stay in the folder.
        parts = [
            part for part in Path(f"{prediction.id}.png").parts if part not in ("..", Path(str(prediction.id)).anchor)
        ]
        file = self.folder.joinpath(*parts)
        if file.exists():
            raise FileExistsError(f"two images would both be written to {file}; give them different names")
        write_image(file, Image.fromarray(self.raw_ids[prediction.class_ids.cpu().numpy()]), root=self.folder)


def _part(file: Path, content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the names and values below a name; empty if the file has none."""
    part = content.get(name) or {}
    if not isinstance(part, dict):
        raise ValueError(f"{file}: {name} must hold names and values, found {type(part).__name__}; {RESTORE}")
    return part


def _update_card(folder: Path, name: str, evaluation: Evaluation) -> None:
    """Add scores and pixel counts to those of a model's folder, and rewrite its model card."""
    file = folder / "scores.json"
    there = read_json(file)
    if evaluation.counts is not None:
        add_counts(folder / COUNTS_FILE, name, evaluation.counts)
    scores = there | {name: evaluation.scores}
    write_text(file, json.dumps(without_nan(scores), indent=2, ensure_ascii=False))
    write_card(folder)
