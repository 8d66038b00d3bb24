"""Looking through every file of a data set, past those that break a rule, which are listed to the last one."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from accelerate.utils import tqdm

from .base import SegmentationBuilder
from .benchmark import BenchmarkBuilder
from .custom import _LAYOUT, _SPLIT_OF, OwnFiles, _split_folders
from .label_table import IGNORE_INDEX, LabelTable
from .listing import Sample, SplitFiles, index_by_id, list_files, locate, pair_files
from .reading import IMAGE_SUFFIXES, BadFileError, decode, image_value, open_mask
from .statistics import label_histogram


@dataclass
class SplitReport:
    """What was found in one split.

    Args:
        num_images (`int`): Images found with their masks, or without where the owner withholds these.
        num_expected (`int`, *optional*): Images of the complete split, where that is known.
        num_withheld (`int`): Images whose label the owner withholds.
        readable (`list[Sample]`): Samples without any error.
        sizes (`Counter`): Readable images by width and height.
        raw_ids (`set[int]`): Ids in the mask files, the unexpected among them. Masks that are no images of ids, but of
            colours or matrices, add none.
        pixels (`np.ndarray` of shape (256,), int64): Pixels of each id after mapping, in readable samples.
        images_with (`np.ndarray` of shape (256,), int64): Readable samples in which each id occurs.
    """

    num_images: int
    num_expected: int | None = None
    num_withheld: int = 0
    readable: list[Sample] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    raw_ids: set[int] = field(default_factory=set)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, dtype=np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, dtype=np.int64))


@dataclass
class DataReport:
    """What was found in a data set.

    Args:
        title (`str`): What the data set is called.
        label_table (`LabelTable`): The classes expected.
        splits (`dict[str, SplitReport]`): Reports by split.
        errors (`list[BadFileError]`): Every file that breaks a rule or lacks its partner.
        shared_ids (`list[str]`): Ids that occur in several splits; right only if those are different images.
    """

    title: str
    label_table: LabelTable
    splits: dict[str, SplitReport]
    errors: list[BadFileError]
    shared_ids: list[str]


def check_files(builder: SegmentationBuilder) -> DataReport:
    """Decode all images and masks of a data set, and collect what is wrong instead of stopping at it.

    Args:
        builder (`SegmentationBuilder`): The data set, by `make_builder` or [`find_folder`]; nothing is prepared.

    Returns:
        `DataReport`, without `errors` if and only if the data set would load.
    """
    expected = builder.layout.num_images if isinstance(builder, BenchmarkBuilder) else {}
    reports = {split: SplitReport(len(files.samples), expected.get(split)) for split, files in builder.files.items()}
    errors: list[BadFileError] = []
    with tqdm(total=sum(len(files.samples) for files in builder.files.values()), unit="image") as progress:
        for split, files in builder.files.items():
            progress.set_description(f"checking {split}")
            errors += _unpaired_files(files)
            for sample in files.samples:
                errors += _check_sample(builder, sample, reports[split])
                progress.update()
    ids = Counter(sample.id for files in builder.files.values() for sample in files.samples)
    shared_ids = [id_ for id_, count in ids.items() if count > 1]
    return DataReport(builder.title, builder.label_table, reports, errors, shared_ids)


def find_folder(data_dir: str | Path, label_table: LabelTable) -> OwnFiles:
    """Find own files below `images` and `masks`, as `load_folder` does, without reading them.

    Args:
        data_dir (`str` or `Path`): The folder that holds `images` and `masks`.
        label_table (`LabelTable`): The classes.

    Raises:
        FileNotFoundError: if one of the folders is missing.
        ValueError: if two files have one id.
    """
    data_dir = Path(data_dir).expanduser().absolute()
    locate(data_dir, (_LAYOUT,), "The names of an image and its mask differ in the suffix only.")
    files = {}
    for folder in _split_folders(data_dir):
        images, masks = (index_by_id(list_files(data_dir / kind / folder, IMAGE_SUFFIXES)) for kind in _LAYOUT.needs)
        files[_SPLIT_OF[folder]] = pair_files(images, masks)
    return OwnFiles(files, label_table, str(data_dir))


def _unpaired_files(files: SplitFiles) -> list[BadFileError]:
    cure = "fetch what is missing, or remove the file"
    return [
        *(BadFileError(path, "the image has no mask", cure) for path in files.images_without_mask),
        *(BadFileError(path, "the mask has no image", cure) for path in files.masks_without_image),
        *(BadFileError(Path(id_), "listed, but not there", "fetch it") for id_ in files.missing_ids),
    ]


def _check_sample(builder: SegmentationBuilder, sample: Sample, report: SplitReport) -> list[BadFileError]:
    """Count a sample in `report` unless something is wrong with it, which is returned."""
    errors: list[BadFileError] = []
    with _collecting(errors, sample.image):
        size = decode(sample.image).size
        image_value(sample.image, None, None)
    if sample.mask is not None:
        with _collecting(errors, sample.mask):
            report.raw_ids |= _raw_ids(sample.mask)
            label = builder.read_label(sample.mask)
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
    return []


@contextmanager
def _collecting(errors: list[BadFileError], path: Path) -> Iterator[None]:
    """Append to `errors` what goes wrong with a file."""
    try:
        yield
    except BadFileError as error:
        errors.append(error)
    except OSError as error:
        errors.append(BadFileError(path, f"cannot be read ({error.strerror})", "check the disk and its permissions"))


def _raw_ids(path: Path) -> set[int]:
    """The ids in a mask file as they are stored, none if it is no image of ids."""
    with suppress(BadFileError):  # whether that is an error is for the builder to say
        return {id_ for id_, count in enumerate(open_mask(path).histogram()) if count}
    return set()
