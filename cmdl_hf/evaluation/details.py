"""The folder with the details of an evaluation: scores of single images, confusion, and what to look at."""

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data import SegmentationDataset
from ..escaping import one_line
from ..files import write_text
from .counts import ImageCounts
from .inspection import LEAST_CONFIDENCE, LEAST_SHARE, Findings
from .pictures import MOST_DOUBTFUL, draw_confusion, draw_doubtful_labels, draw_worst_images

logger = logging.getLogger(__name__)

_WORST, _DOUBTFUL = "worst_images.png", "doubtful_labels.png"


def details_folder(out: Path) -> Path:
    """Return the folder of the details of an evaluation, beside its file of scores: `NAME.json` → `NAME-details`."""
    return out.with_name(f"{out.stem}-details")


def write_details(
    folder: Path, counts: ImageCounts, findings: Findings, data: SegmentationDataset, split: str
) -> None:
    """Write tables and pictures of an evaluation.

    Args:
        folder (`Path`): Folder to write to. Files of the same names are replaced.
        counts ([`ImageCounts`]): Pixel counts of every image, with the confusion matrix.
        findings ([`Findings`]): The worst images and doubtful labels.
        data ([`SegmentationDataset`]): The data set.
        split (`str`): The split that was scored.
    """
    assert counts.confusion is not None
    names = [one_line(data.id2label[id_]) for id_ in range(data.num_labels)]
    _write_table(folder / "images.csv", *tabulate_images(counts, names))
    matrix = ([name, *row] for name, row in zip(names, counts.confusion.tolist(), strict=True))
    _write_table(folder / "confusion.csv", ["label \\ prediction", *names], matrix)
    draw_confusion(counts.confusion, data.id2label, folder / "confusion.png")
    places = {str(id_): place for place, id_ in enumerate(data[split]["id"])}

    def load_image(id_: str) -> Image.Image:
        return data[split][places[id_]]["image"]

    for name in (_WORST, _DOUBTFUL):  # pictures of an earlier evaluation, if this one has nothing to show
        (folder / name).unlink(missing_ok=True)
    if findings.worst_images:
        style = data.id2label, data.palette, folder / _WORST, data.ignore_index
        draw_worst_images(findings.worst_images, load_image, *style, num_images=len(counts.ids))
    header = ["id", "left", "top", "right", "bottom", "label", "prediction", "pixels", "confidence"]
    rows = (
        [each.id, *each.box, names[each.label], names[each.predicted], each.area, f"{each.confidence:.4f}"]
        for each in findings.doubtful_labels
    )
    _write_table(folder / "doubtful_labels.csv", header, rows)
    if findings.doubtful_labels:
        place = data.id2label, folder / _DOUBTFUL
        draw_doubtful_labels(findings.doubtful_labels, load_image, *place, num_regions=findings.num_doubtful)
    if findings.num_without_confidence:
        logger.warning(
            f"{findings.num_without_confidence} images are too large to look for doubtful labels in them: their "
            "scores would have to be held as a whole; score them at a smaller size with --resize"
        )


def describe_doubtful(findings: Findings) -> str:
    """Say how many labels may be wrong, and by what measure."""
    number, listed = findings.num_doubtful, len(findings.doubtful_labels)
    measure = (
        f"{100 * LEAST_SHARE:g} % of an image or more, predicted as another class with {LEAST_CONFIDENCE:g} or more"
    )
    if not number:
        return f"no doubtful labels ({measure})"
    rest = f"; the table has the {listed} most doubtful" if number > listed else ""
    rest += f"; the picture shows {MOST_DOUBTFUL} of {number}" if number > MOST_DOUBTFUL else ""
    return f"{number} regions whose label may be wrong ({measure}){rest}"


def tabulate_images(counts: ImageCounts, names: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Make the table of single images, those with the smallest share of correct pixels first.

    Args:
        counts ([`ImageCounts`]): Pixel counts of every image.
        names (`Sequence` of K strings): Names of the classes.

    Returns:
        The header, and a row for each image: id, labelled pixels, accuracy, mean IoU of the classes in label or
        prediction, and the class with the lowest IoU. What has no value is empty.
    """
    pixels = counts.label_pixels.sum(axis=1)
    accuracy = np.divide(counts.intersections.sum(axis=1), pixels, out=np.full(len(pixels), np.nan), where=pixels > 0)
    shape = counts.unions.shape
    iou = np.divide(counts.intersections, counts.unions, out=np.full(shape, np.nan), where=counts.unions > 0)
    rows = []
    for index in np.argsort(accuracy, kind="stable"):  # nan comes last
        own = iou[index]
        id_ = str(counts.ids[index])
        if np.isnan(own).all():
            rows.append([id_, int(pixels[index]), "", "", "", ""])
            continue
        worst = int(np.nanargmin(own))
        values = [_number(accuracy[index]), _number(np.nanmean(own)), names[worst], _number(own[worst])]
        rows.append([id_, int(pixels[index]), *values])
    return ["id", "pixels", "accuracy", "mean_iou", "worst_class", "worst_iou"], rows


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
