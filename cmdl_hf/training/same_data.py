"""Which data a run trains on, so that other data are recognised, whether the run continues or is finished."""

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..data import SegmentationDataset, content_digest, ids_digest


def describe_data(dataset: SegmentationDataset, class_weights: Sequence[float] | None) -> dict[str, Any]:
    """Describe the data of a run: ids and content of each split, names and weights of the classes.

    Args:
        dataset (`SegmentationDataset`): As the run trains on it, with validation set apart and classes merged.
        class_weights (`Sequence[float]`, *optional*): Weights of the classes in the cross-entropies.
    """
    is_main = PartialState().is_main_process  # reads the files for all processes
    contents = {split: content_digest(rows) for split, rows in dataset.items()} if is_main else None
    return {
        "splits": {split: ids_digest(rows) for split, rows in dataset.items()},
        "contents": broadcast_object_list([contents])[0],
        "classes": list(dataset.id2label.values()),
        "class_weights": class_weights,
    }


def name_other_data(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Say in words how data differ; `None` if they are the same.

    Args:
        there (`Mapping`): What `run.json` says. What a run of an earlier version did not write down is not compared.
        here (`Mapping`): What [`describe_data`] says now.
    """
    differing = [name for name in there if name in here and there[name] != here[name]]
    if not differing:
        return None
    if differing == ["class_weights"]:
        return "other class weights"
    words = {"splits": "other images", "contents": "other images or masks under the same names"}
    return words.get(differing[0], "other classes")


def had_validation(facts: Mapping[str, Any]) -> bool | None:
    """Whether a run had a validation split; `None` if there is no run.

    Args:
        facts (`Mapping`): Content of `run.json`.
    """
    splits = facts.get("data", {}).get("splits") or facts.get("num_images")
    return None if splits is None else "validation" in splits
