"""Checks every file of a data set, and lists all files that break a rule."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from accelerate.utils import tqdm
from PIL import Image

from ..files import new_file
from .contact_sheet import draw_contact_sheet, load_font
from .label_table import IGNORE_INDEX, Label, LabelTable
from .listing import Sample
from .loading import BENCHMARKS, make_builder
from .merging import ClassMerge, read_merge
from .reading import BadFileError, decode, image_value, map_ids
from .rows import spread_indices
from .sets.base import FEATURES, SegmentationBuilder
from .sets.benchmark import BenchmarkBuilder
from .sets.own import find_folder, find_pairs
from .sets.own_files import OwnFiles
from .statistics import label_histogram
from .trainable import VOID_SPLIT, explain_few_classes

_SHEET_SIZE = 12  # samples on a contact sheet


@dataclass
class IdCount:
    """Number of pixels and number of images in which an id occurs."""

    pixels: int = 0
    images: int = 0


@dataclass
class SplitReport:
    """Report of one split.

    Args:
        num_images (`int`): Number of images with a mask, or whose mask the owner withholds.
        num_expected (`int`, *optional*): Number of images of the complete split, if known.
        num_withheld (`int`): Number of images whose mask the owner withholds.
        readable (`list[Sample]`): Samples without errors.
        sizes (`Counter`): Number of readable images by width and height.
        raw_ids (`dict[Label, IdCount]`): Counts of the raw ids in readable masks, by rows of their label tables.
        pixels (`np.ndarray` of shape (256,), int64): Number of pixels of each train id, in readable samples.
        images_with (`np.ndarray` of shape (256,), int64): Number of readable samples with each train id.
    """

    num_images: int
    num_expected: int | None = None
    num_withheld: int = 0
    readable: list[Sample] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    raw_ids: dict[Label, IdCount] = field(default_factory=dict)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, dtype=np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, dtype=np.int64))


@dataclass
class DataReport:
    """Report of a data set.

    Args:
        title (`str`): Name of the data set.
        label_table (`LabelTable`): The expected classes.
        expected (`list[Label]`): Ids that the masks may hold, as rows of their label tables.
        splits (`dict[str, SplitReport]`): Reports by split.
        errors (`list[BadFileError]`): Every file that breaks a rule, has no partner or shares an id.
        shared_ids (`list[str]`): Ids that occur in several splits. This is correct only for different images.
        unused (`list[Path]`): Files of own data that belong to no split.
        shape (`str`): How the files of own data lie; empty for a benchmark.
    """

    title: str
    label_table: LabelTable
    expected: list[Label]
    splits: dict[str, SplitReport]
    errors: list[BadFileError]
    shared_ids: list[str]
    unused: list[Path] = field(default_factory=list)
    shape: str = ""

    @property
    def unexpected(self) -> dict[str, IdCount]:
        """Ids and colours in bad masks that are not allowed, those with most pixels first."""
        found: dict[str, IdCount] = {}
        for error in self.errors:
            for id_, pixels in error.unexpected_ids.items():
                _add(found.setdefault(id_, IdCount()), pixels)
        return dict(sorted(found.items(), key=lambda item: -item[1].pixels))


def check_data(
    name: str,
    contact_sheet: str | Path,
    data_dir: str | Path | None = None,
    id2label: str | Path | None = None,
    splits: Sequence[str] | None = None,
    merge_classes: str | Path | None = None,
) -> tuple[DataReport, bool]:
    """Check all files of a data set, and draw some samples.

    Args:
        name (`str`): One of `BENCHMARKS`, with `data_dir`; or the folder or the list of pairs of own data, with
            `id2label`.
        contact_sheet (`str` or `Path`): PNG file to write.
        data_dir (`str` or `Path`, *optional*): Folder of the benchmark.
        id2label (`str` or `Path`, *optional*): File with the classes of own data.
        splits (`Sequence[str]`, *optional*): Splits of the benchmark to check; by default all.
        merge_classes (`str` or `Path`, *optional*): File that merges or drops classes, see `read_merge`.

    Returns:
        `DataReport`, for [`format_report`], and whether a picture was drawn. It is drawn if there are readable samples
        with labels.

    Raises:
        FileNotFoundError: if a folder or a split is missing.
        ValueError: if the options do not fit `name`.
        ImportError: if matplotlib is not installed.
    """
    load_font()  # first, so that a missing font is reported before all files are read
    builder = _find_builder(name, data_dir, id2label, splits)
    merge = None if merge_classes is None else read_merge(merge_classes, builder.label_table)
    report = check_files(builder, merge)
    samples = list(_samples_to_draw(builder, report, merge))
    if samples:
        sheet = draw_contact_sheet(samples, report.label_table.id2label, report.label_table.palette)
        with new_file(Path(contact_sheet)) as unfinished:
            sheet.save(unfinished, "PNG")
    return report, bool(samples)


def _find_builder(
    name: str, data_dir: str | Path | None, id2label: str | Path | None, splits: Sequence[str] | None
) -> SegmentationBuilder:
    if name in BENCHMARKS:
        if data_dir is None or id2label is not None:
            raise ValueError(f"{name} needs --data-dir, and its classes are known: leave --id2label out")
        return make_builder(name, data_dir, splits=splits)
    if not Path(name).exists():
        raise FileNotFoundError(
            f"{name!r} is neither a folder, nor a list of pairs, nor one of the benchmarks {', '.join(BENCHMARKS)}"
        )
    if id2label is None or data_dir is not None or splits is not None:
        raise ValueError(
            f"own data in {name} needs --id2label, a .txt, .json or .csv file with the names of its classes; it can "
            "have neither --data-dir nor --splits"
        )
    return (find_folder if Path(name).is_dir() else find_pairs)(name, id2label)


def _samples_to_draw(
    builder: SegmentationBuilder, report: DataReport, merge: ClassMerge | None
) -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """Read readable samples with labels, spread evenly over every split."""
    labelled = {split: found.readable for split, found in report.splits.items() if found.pixels.any()}
    for split, samples in labelled.items():
        for index in spread_indices(len(samples), _SHEET_SIZE // len(labelled)):
            sample = FEATURES.decode_example(FEATURES.encode_example(builder.read_sample(samples[index])))
            label = sample["label"] if merge is None else merge.apply_to_image(sample["label"])
            yield f"{split}  {sample['id']}", sample["image"], label


def check_files(builder: SegmentationBuilder, merge: ClassMerge | None = None) -> DataReport:
    """Decode all images and masks of a data set, and collect all errors.

    Args:
        builder (`SegmentationBuilder`): The data set, from `make_builder` or `find_folder`. It is not prepared.
        merge (`ClassMerge`, *optional*): Which classes become which.

    Returns:
        `DataReport`. A data set without `errors` can be loaded. With errors, loading may also succeed, because it does
        not decode images.
    """
    expected = builder.layout.num_images if isinstance(builder, BenchmarkBuilder) else {}
    reports = {split: SplitReport(len(files.samples), expected.get(split)) for split, files in builder.files.items()}
    errors: list[BadFileError] = []
    with tqdm(total=sum(len(files.samples) for files in builder.files.values()), unit="image") as progress:
        for split, files in builder.files.items():
            progress.set_description(f"checking {split}")
            errors += files.errors()
            for sample in files.samples:
                errors += _check_sample(builder, sample, reports[split], merge)
                progress.update()
    label_table = builder.label_table if merge is None else merge.apply_to_table(builder.label_table)
    errors += _check_classes(builder.title, label_table, reports.get("train"))
    ids = Counter(sample.id for files in builder.files.values() for sample in files.samples)
    shared_ids = [id_ for id_, count in ids.items() if count > 1]
    shape = builder.shape if isinstance(builder, OwnFiles) else ""
    return DataReport(
        builder.title,
        label_table,
        _expected(builder, merge),
        reports,
        errors,
        shared_ids,
        list(builder.unused),
        shape,
    )


def _check_classes(title: str, label_table: LabelTable, train: SplitReport | None) -> list[BadFileError]:
    """Report what keeps a network from learning anything."""
    problems = [explain_few_classes(label_table)]
    if train is not None and train.pixels.any() and not train.pixels[:IGNORE_INDEX].any():
        problems.append(VOID_SPLIT)
    parts = (problem.partition("; ") for problem in problems if problem)
    return [BadFileError(Path(title), problem, cure) for problem, _, cure in parts]


def _expected(builder: SegmentationBuilder, merge: ClassMerge | None) -> list[Label]:
    """Return the ids that the masks of a data set may hold, as rows of their label tables."""
    masks = (sample.mask for files in builder.files.values() for sample in files.samples if sample.mask is not None)
    tables = dict.fromkeys(_table_of(builder, mask, merge) for mask in masks)
    return [row for table in tables for row in _pixel_rows(table)]


def _table_of(builder: SegmentationBuilder, mask: Path, merge: ClassMerge | None) -> LabelTable:
    """Return the table with the raw ids of a mask, and the classes after merging."""
    table = builder.mask_table(mask)
    return table if merge is None else merge.apply_to_ids(table)


def _pixel_rows(table: LabelTable) -> list[Label]:
    """Return the rows whose raw id can be a pixel value. The -1 of Cityscapes' licence plate cannot."""
    return [row for row in table.rows if 0 <= row.raw_id <= 255]


def _check_sample(
    builder: SegmentationBuilder, sample: Sample, report: SplitReport, merge: ClassMerge | None
) -> list[BadFileError]:
    """Check a sample. Count it in `report` if it has no errors; otherwise return the errors."""
    errors: list[BadFileError] = []
    with _collecting(errors, sample.image):
        size = decode(sample.image).size
        image_value(sample.image, None, None)
    if sample.mask is not None:
        with _collecting(errors, sample.mask):
            raw = builder.read_ids(sample.mask)
            table = _table_of(builder, sample.mask, merge)
            label = map_ids(raw, table.raw_to_train, sample.mask)
        if not errors:
            with _collecting(errors, sample.image):
                image_value(sample.image, None, label.size)
    if errors:
        return errors
    report.readable.append(sample)
    report.sizes[size] += 1
    if sample.mask is None:
        report.num_withheld += 1
    else:
        histogram = label_histogram(label)
        report.pixels += histogram
        report.images_with += histogram > 0
        raw_histogram = raw.histogram()
        for row in _pixel_rows(table):
            if raw_histogram[row.raw_id]:
                _add(report.raw_ids.setdefault(row, IdCount()), raw_histogram[row.raw_id])
    return []


def _add(count: IdCount, pixels: int) -> None:
    """Count one more image."""
    count.pixels += pixels
    count.images += 1


@contextmanager
def _collecting(errors: list[BadFileError], path: Path) -> Iterator[None]:
    """Append the errors of a file to `errors` instead of raising them."""
    try:
        yield
    except BadFileError as error:
        errors.append(error)
    except OSError as error:
        errors.append(BadFileError(path, f"cannot be read ({error.strerror})", "check the disk and its permissions"))
