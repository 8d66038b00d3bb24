"""What an evaluation has measured, and where it goes: a table, a file, pictures of ids, the card of the model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState
from PIL import Image

from ..data import BENCHMARKS, LabelTable, SegmentationDataset, ids_digest
from ..files import check_can_write, without_nan, write_text
from ..hub import write_card
from .protocols import Protocol
from .scoring import Prediction


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
        """Whether the owner gives the labels away."""
        return self.images[0]["label"] is not None

    def name_scores(self, model: Path) -> str:
        """Name the scores among those of a model's folder: after the split, and after the data set where it is new.

        A data set is new to the model unless the model's run had these very images in this split.
        """
        file = model / "run.json"
        run = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        is_same = run.get("recipe", {}).get("benchmark") == self.benchmark
        if is_same and run.get("data", {}).get("splits", {}).get(self.split) == ids_digest(self.images):
            return self.split
        title = BENCHMARKS[self.benchmark].title if self.benchmark in BENCHMARKS else self.benchmark
        title = title if self.data_dir is None else f"{title} in {Path(self.data_dir).resolve().name}"
        return f"{title}, {self.split}"


@dataclass(frozen=True)
class ResultFiles:
    """The files that an evaluation writes.

    Args:
        model (`Path`): Folder of the model, or its name on the Hub.
        out (`str` or `Path`, *optional*): JSON file for the scores.
        save_predictions (`str` or `Path`, *optional*): Folder for the predictions.
        update_card (`bool`): Whether the model's folder gets the scores, and a new card.
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

    def check_labels(self, data: ScoredSplit) -> None:
        """Refuse to score what the owner has withheld the labels of.

        Args:
            data (`ScoredSplit`): What is to be scored, or only segmented where predictions are saved.

        Raises:
            ValueError: if there are no labels for what was asked.
        """
        if data.has_labels:
            return
        withheld = f"the labels of {data.benchmark}'s {data.split} split are withheld"
        if self.save_predictions is None:
            raise ValueError(
                f"{withheld} by its owner, so it cannot be scored here; choose another split, or write predictions "
                "for the owner's server with --save-predictions DIR"
            )
        if self.update_card:
            raise ValueError(f"{withheld}: there are no scores for the card")

    def prediction_writer(self, data: ScoredSplit) -> "PredictionWriter | None":
        """Make what writes the predictions on a split, where that is asked for."""
        if self.save_predictions is None:
            return None
        return PredictionWriter(Path(self.save_predictions), data.dataset.owner_table)

    def write(
        self, evaluation: Evaluation, data: ScoredSplit, protocol: Protocol, own_resize: tuple[int, int] | None
    ) -> None:
        """Write the scores and the card, in the main process; every process must call this.

        The card takes the names of scores for splits of the data set it was trained on. Those of other data, of
        another protocol or precision than the training's own, get a name that says so, and replace nothing else.

        Args:
            evaluation (`Evaluation`): What was measured.
            data (`ScoredSplit`): On which images.
            protocol (`Protocol`): How.
            own_resize (`tuple[int, int]`, *optional*): Edges that the model's own image processor brings images to.
        """
        state = PartialState()
        if state.is_main_process:
            if self.out is not None:
                write_text(Path(self.out), evaluation.to_json())
            if self.update_card:
                name = data.name_scores(self.model)
                precision = evaluation.facts["mixed_precision"]
                if protocol.name != "whole" or protocol.resize != own_resize or precision != "no":
                    name += f" ({protocol}{'' if precision == 'no' else f', {precision}'})"
                _update_card(self.model, name, evaluation.scores)
        state.wait_for_everyone()


class PredictionWriter:
    """Writes class ids as the data set's owner numbers them.

    Args:
        folder (`Path`): Where to write; it and folders in it are made.
        owner_table (`LabelTable`): Of the data set.
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
        # The id of a pair from a list is its path, which may lead anywhere; the prediction stays in the folder.
        parts = [
            part for part in Path(f"{prediction.id}.png").parts if part not in ("..", Path(str(prediction.id)).anchor)
        ]
        file = self.folder.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            raise FileExistsError(f"two images would both be written to {file}; give them names of their own")
        Image.fromarray(self.raw_ids[prediction.class_ids.cpu().numpy()]).save(file)


def _update_card(folder: Path, name: str, scores: Mapping[str, Any]) -> None:
    """Put scores beside those that a model's folder has, and have its card written anew."""
    file = folder / "scores.json"
    there = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_text(file, json.dumps(without_nan(there | {name: dict(scores)}), indent=2, ensure_ascii=False))
    write_card(folder)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}".replace("nan", "–")
