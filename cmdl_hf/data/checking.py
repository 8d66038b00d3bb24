"""Looking through every file of a data set, past those that break a rule, which are listed to the last one."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from accelerate.utils import tqdm

from .base import SegmentationBuilder
from .benchmark import BenchmarkBuilder
from .label_table import IGNORE_INDEX, Label, LabelTable
from .listing import Sample
from .reading import BadFileError, decode, image_value, map_ids
from .statistics import label_histogram


@dataclass
class IdCount:
    """How often an id occurs: in how many pixels, and in the masks of how many images."""

    pixels: int = 0
    images: int = 0


@dataclass
class SplitReport:
    """What was found in one split.

    Args:
        num_images (`int`): Images found with their masks, or without where the owner withholds these.
        num_expected (`int`, *optional*): Images of the complete split, where that is known.
        num_withheld (`int`): Images whose label the owner withholds.
        readable (`list[Sample]`): Samples without any error.
        sizes (`Counter`): Readable images by width and height.
        raw_ids (`dict[Label, IdCount]`): What readable masks hold, by rows of their label tables.
        pixels (`np.ndarray` of shape (256,), int64): Pixels of each id after mapping, in readable samples.
        images_with (`np.ndarray` of shape (256,), int64): Readable samples in which each id occurs.
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
    """What was found in a data set.

    Args:
        title (`str`): What the data set is called.
        label_table (`LabelTable`): The classes expected.
        expected (`list[Label]`): Rows of the tables of all masks: what these may hold.
        splits (`dict[str, SplitReport]`): Reports by split.
        errors (`list[BadFileError]`): Every file that breaks a rule, lacks its partner or shares its id.
        shared_ids (`list[str]`): Ids that occur in several splits; right only if those are different images.
    """

    title: str
    label_table: LabelTable
    expected: list[Label]
    splits: dict[str, SplitReport]
    errors: list[BadFileError]
    shared_ids: list[str]

    @property
    def unexpected(self) -> dict[str, IdCount]:
        """The ids and colours that no mask may hold, of bad masks; those of most pixels first."""
        found: dict[str, IdCount] = {}
        for error in self.errors:
            for id_, pixels in error.unexpected_ids.items():
                _add(found.setdefault(id_, IdCount()), pixels)
        return dict(sorted(found.items(), key=lambda item: -item[1].pixels))


def check_files(builder: SegmentationBuilder) -> DataReport:
    """Decode all images and masks of a data set, and collect what is wrong instead of stopping at it.

    Args:
        builder (`SegmentationBuilder`): The data set, by `make_builder` or `find_folder`; nothing is prepared.

    Returns:
        `DataReport`. Without `errors` the data set loads; with some it may, because images are not decoded to load.
    """
    expected = builder.layout.num_images if isinstance(builder, BenchmarkBuilder) else {}
    reports = {split: SplitReport(len(files.samples), expected.get(split)) for split, files in builder.files.items()}
    errors: list[BadFileError] = []
    with tqdm(total=sum(len(files.samples) for files in builder.files.values()), unit="image") as progress:
        for split, files in builder.files.items():
            progress.set_description(f"checking {split}")
            errors += files.errors()
            for sample in files.samples:
                errors += _check_sample(builder, sample, reports[split])
                progress.update()
    ids = Counter(sample.id for files in builder.files.values() for sample in files.samples)
    shared_ids = [id_ for id_, count in ids.items() if count > 1]
    return DataReport(builder.title, builder.label_table, _expected(builder), reports, errors, shared_ids)


def _expected(builder: SegmentationBuilder) -> list[Label]:
    """What the masks of a data set may hold."""
    masks = (sample.mask for files in builder.files.values() for sample in files.samples if sample.mask is not None)
    tables = dict.fromkeys(builder.mask_table(mask) for mask in masks)
    return [row for table in tables for row in _pixel_rows(table)]


def _pixel_rows(table: LabelTable) -> list[Label]:
    """The rows whose raw id can be a pixel's value; that of Cityscapes' licence plate, -1, cannot."""
    return [row for row in table.rows if 0 <= row.raw_id <= 255]


def _check_sample(builder: SegmentationBuilder, sample: Sample, report: SplitReport) -> list[BadFileError]:
    """Count a sample in `report` unless something is wrong with it, which is returned."""
    errors: list[BadFileError] = []
    with _collecting(errors, sample.image):
        size = decode(sample.image).size
        image_value(sample.image, None, None)
    if sample.mask is not None:
        with _collecting(errors, sample.mask):
            raw = builder.read_ids(sample.mask)
            table = builder.mask_table(sample.mask)
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
    """Append to `errors` what goes wrong with a file."""
    try:
        yield
    except BadFileError as error:
        errors.append(error)
    except OSError as error:
        errors.append(BadFileError(path, f"cannot be read ({error.strerror})", "check the disk and its permissions"))
