"""The results of a finished run, for the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation import COUNTS_FILE, describe_confused, describe_worst, format_classes, read_counts
from ..json_files import read_json

_MOST_ROWS = 40  # of the table of classes; the model card has all


def format_results(folder: Path, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Tell of the scores of a run: every class, the worst and the most confused ones, and the means of every split.

    Args:
        folder (`Path`): Folder of the run.
        scores (`Mapping`): Scores by split, as [`run`] returns them. The classes are those of the validation split, or
            of the test split if there is no other.

    Returns:
        `str`: lines for a terminal of 80 columns; empty without scores.
    """
    lines: list[str] = []
    if split := next((name for name in ("validation", "test") if name in scores), None):
        id2label = {int(id_): name for id_, name in read_json(folder / "config.json")["id2label"].items()}
        counts = read_counts(folder / COUNTS_FILE).get(split)
        pixels = None if counts is None else counts.label_pixels.sum(axis=0)
        shares = None if pixels is None else (pixels / max(pixels.sum(), 1)).tolist()
        lines += [f"classes on the {split} split:", format_classes(id2label, scores[split], shares, _MOST_ROWS)]
        lines += filter(None, [describe_worst(id2label, scores[split])])
        lines += [] if counts is None or counts.confusion is None else describe_confused(id2label, counts.confusion)
    for name, score in scores.items():
        mean_iou, accuracy = 100 * score["mean_iou"], 100 * score["overall_accuracy"]
        lines.append(f"{name}: mean IoU {mean_iou:.2f} %, accuracy {accuracy:.2f} %")
    return "\n".join(lines)
