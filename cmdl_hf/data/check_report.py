"""Formats the report of a data set check for the terminal."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..escaping import MAX_NAME, one_line
from .checking import DataReport, IdCount, SplitReport
from .label_table import IGNORE_INDEX, Label
from .sets.own import describe_unused, explain_ignored_class

_MOST_UNEXPECTED = 20  # most ids to list; masks with blended colours have thousands


def format_report(report: DataReport) -> str:
    """Format a report for the terminal: splits, found and expected ids, classes, warnings and all errors."""
    K = report.label_table.num_labels
    split_header = ("split", "images", "readable", "complete set", "size", "ignored %", "classes")
    splits = _table(split_header, [_split_row(split, found, K) for split, found in report.splits.items()])
    parts = [f"{one_line(report.title)}: {K} classes", *([report.shape] if report.shape else []), splits]
    parts += _id_parts(report)
    if _several_ids_make_a_class(report.expected):
        parts += _class_parts(report)
    if ids := report.shared_ids:
        name = one_line(ids[0])
        parts.append(
            f"names in more than one split ({len(ids)}), such as {name}: check that these are different images"
        )
    pixels = sum(found.pixels for found in report.splits.values())  # (256,)
    if explanation := explain_ignored_class(report.label_table, np.flatnonzero(pixels).tolist()):
        parts.append(_fill(f"WARNING: {explanation}"))
    if report.shape and "train" in report.splits and "validation" not in report.splits:
        parts.append(
            _fill(
                "there is no validation split: cmdl train sets a fifth of the training images apart "
                "(--validation-fraction), or trains on all of them (--no-validation)"
            )
        )
    if report.unused:
        parts.append(f"WARNING: {describe_unused(report.unused, limit=100)}")
    if report.errors:
        parts.append("\n".join(f"error: {one_line(error)}" for error in report.errors))
    num_images = sum(found.num_images for found in report.splits.values())
    parts.append(f"images checked: {num_images:,}, errors: {len(report.errors):,}")
    return "\n\n".join(parts)


def _split_row(split: str, found: SplitReport, num_labels: int) -> list[str]:
    num_pixels, num_present = found.pixels.sum(), np.count_nonzero(found.pixels[:num_labels])
    return [
        split,
        f"{found.num_images:,}",
        f"{len(found.readable):,}",
        "–" if found.num_expected is None else f"{found.num_expected:,}",
        _describe_sizes(found.sizes),
        f"{100 * found.pixels[IGNORE_INDEX] / num_pixels:.2f}" if num_pixels else "–",
        "withheld" if found.num_withheld else f"{num_present} of {num_labels}",
    ]


def _describe_sizes(sizes: Iterable[tuple[int, int]]) -> str:
    """Format the sizes: `480×360`, or `9: 500×375 to 640×480`, the number of sizes, the smallest and the largest."""
    texts = [f"{width}×{height}" for width, height in sorted(sizes, key=math.prod)]
    if len(texts) < 2:
        return texts[0] if texts else "–"
    return f"{len(texts)}: {texts[0]} to {texts[-1]}"


def _id_parts(report: DataReport) -> Iterator[str]:
    """Compare the ids found in the masks with the expected ids, in the order of their classes."""
    header = ("id", "name", "class", *_share_header(report), "pixels", "in images")
    expected = sorted(report.expected, key=lambda row: (row.train_id, row.raw_id))
    found = [row for row in expected if any(row in split.raw_ids for split in report.splits.values())]
    if found:
        yield _table(header, [_id_row(row, report) for row in found])
    if unexpected := report.unexpected:
        lines = [(id_, f"{count.images:,}", f"{count.pixels:,}") for id_, count in unexpected.items()]
        text = _table(("unexpected id", "in masks", "pixels"), lines[:_MOST_UNEXPECTED])
        more = len(lines) - _MOST_UNEXPECTED
        yield text + (f"\nand {more:,} more unexpected ids" if more > 0 else "")
    if absent := [row for row in expected if row not in found]:
        kinds = {
            "of classes": [_name_id(row) for row in absent if row.train_id != IGNORE_INDEX],
            "ignored anyway": [_name_id(row) for row in absent if row.train_id == IGNORE_INDEX],
        }
        texts = [f"{kind} ({len(names)}): {'; '.join(names)}" for kind, names in kinds.items() if names]
        yield "\n".join(_fill(f"expected ids never seen, {text}") for text in texts)


def _id_row(row: Label, report: DataReport) -> list[str]:
    counts = [split.raw_ids.get(row, IdCount()) for split in report.splits.values()]
    return [
        str(row.raw_id),
        _shorten(row.name),
        "ignored" if row.train_id == IGNORE_INDEX else str(row.train_id),
        *_shares([count.pixels for count in counts], report),
        f"{sum(count.pixels for count in counts):,}",
        f"{sum(count.images for count in counts):,}",
    ]


def _name_id(row: Label) -> str:
    return f"{row.raw_id} {one_line(row.name, MAX_NAME)}"


def _several_ids_make_a_class(expected: Sequence[Label]) -> bool:
    train_ids = [row.train_id for row in expected if row.train_id != IGNORE_INDEX]
    return len(set(train_ids)) < len(train_ids)


def _class_parts(report: DataReport) -> Iterator[str]:
    """Describe the classes and the ignored pixels, if several ids form one class."""
    header = ("class", "name", *_share_header(report), "pixels", "in images")
    pixels = np.stack([found.pixels for found in report.splits.values()])  # (splits, 256)
    images_with = np.sum([found.images_with for found in report.splits.values()], axis=0)  # (256,)
    names = {**report.label_table.id2label, IGNORE_INDEX: "(ignored)"}
    yield _table(
        header,
        [
            [
                str(id_),
                _shorten(name),
                *_shares(pixels[:, id_], report),
                f"{pixels[:, id_].sum():,}",
                f"{images_with[id_]:,}",
            ]
            for id_, name in names.items()
            if pixels[:, id_].any()
        ],
    )
    if absent := [name for id_, name in report.label_table.id2label.items() if not pixels[:, id_].any()]:
        yield _fill(f"classes never seen ({len(absent)}): {'; '.join(one_line(name, MAX_NAME) for name in absent)}")


def _share_header(report: DataReport) -> list[str]:
    return [f"{split} %" for split in report.splits]


def _shares(pixels: Iterable[int], report: DataReport) -> list[str]:
    """Format the pixels of every split as percentages of all pixels of the split."""
    totals = [max(1, found.pixels.sum()) for found in report.splits.values()]
    return [f"{100 * count / total:.2f}" for count, total in zip(pixels, totals, strict=True)]


def _shorten(name: str) -> str:
    return textwrap.shorten(one_line(name, MAX_NAME), 32, placeholder=" …")


def _fill(text: str) -> str:
    return textwrap.fill(text, width=110, break_on_hyphens=False)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table. Columns of numbers are right-aligned."""
    lines = [header, *rows]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_number = [all(text[:1].isdigit() or text == "–" for text in column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in lines
    )
