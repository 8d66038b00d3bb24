"""Base classes of all data sets: the builder that reads the files, and the `DatasetDict` that it returns."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from ..label_table import HasClasses, LabelTable
from ..listing import Sample, SplitFiles, digest_files
from ..reading import LEAVING_OUT, BadDataError, BadFileError, encode_png, image_value, list_errors, map_ids, open_mask

logger = logging.getLogger(__name__)

FEATURES = datasets.Features(
    {"image": datasets.Image(mode="RGB"), "label": datasets.Image(), "id": datasets.Value("string")}
)


class SegmentationDataset(HasClasses, datasets.DatasetDict):
    """A `DatasetDict` with names and colours of its classes.

    Each split has the columns `image` (RGB), `label` and `id` (string). A label is an 8-bit image of train ids: the
    classes 0..K-1, and 255 for void pixels. Labels that the owner withholds are `None`.

    Args:
        splits (`Mapping[str, Dataset]`): Data sets by split.
        label_table (`LabelTable`): The classes.
        bad_files (`Sequence[BadFileError]`): Files that were left out because of `skip_bad_files`, with the reasons.
        owner_table (`LabelTable`, *optional*): The classes with the raw ids that the owner's evaluation server
            expects, if these differ from the raw ids of `label_table`.

    Attributes:
        id2label, palette, num_labels, ignore_index: Those of `label_table`.
        validation_fraction (`float`, *optional*): Share of the training images that `set_apart_validation` set apart.
        merged_classes (`dict[str, str]`): What `merge_classes` made of each class that its file names.
    """

    validation_fraction: float | None = None

    def __init__(
        self,
        splits: Mapping[str, datasets.Dataset],
        label_table: LabelTable,
        bad_files: Sequence[BadFileError] = (),
        owner_table: LabelTable | None = None,
    ) -> None:
        super().__init__(splits)
        self.label_table = label_table
        self.owner_table = owner_table or label_table
        self.bad_files = list(bad_files)
        self.merged_classes: dict[str, str] = {}

    def with_splits(
        self,
        splits: Mapping[str, datasets.Dataset],
        label_table: LabelTable | None = None,
        owner_table: LabelTable | None = None,
    ) -> "SegmentationDataset":
        """Return a data set with other splits, and other classes if tables are given; all else is as here."""
        other = SegmentationDataset(
            splits, label_table or self.label_table, self.bad_files, owner_table or self.owner_table
        )
        other.validation_fraction = self.validation_fraction
        other.merged_classes = dict(self.merged_classes)
        return other


@dataclass
class SegmentationConfig(datasets.BuilderConfig):
    """Configuration of a builder.

    Args:
        listing (`str`): Digest of the files and of their classes. Different digests have different caches.
    """

    listing: str = ""


class SegmentationBuilder(datasets.GeneratorBasedBuilder):
    """Reads pairs of images and masks. Only this class maps raw ids (the values in mask files) to train ids.

    Images are stored as paths, labels as PNG bytes of train ids. A subclass must be the only builder of its module,
    because `datasets` names caches after modules.

    Args:
        files (`Mapping[str, SplitFiles]`): The files of every split.
        label_table (`LabelTable`): The classes.
        title (`str`): Name of the data set in messages.
        cache_dir (`str` or `Path`, *optional*): Folder for the Arrow files of `datasets`.
        **config_kwargs: Fields of the configuration.

    Attributes:
        unused (`Sequence[Path]`): Files of own data that belong to no split.
    """

    unused: Sequence[Path] = ()
    MISSING_CURE = "If the download is incomplete, fetch the rest"
    VERSION = datasets.Version("1.0.0")  # raise it if the same files result in another data set
    BUILDER_CONFIG_CLASS = SegmentationConfig

    def __init__(
        self,
        files: Mapping[str, SplitFiles],
        label_table: LabelTable,
        title: str,
        cache_dir: str | Path | None = None,
        **config_kwargs: Any,
    ) -> None:
        self.files = dict(files)
        self.label_table = label_table
        self.title = title
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            listing=f"{digest_files(self.files)}-{label_table.digest}",
            **config_kwargs,
        )

    @property
    def owner_table(self) -> LabelTable:
        """The table with the raw ids that the owner's evaluation server expects."""
        return self.label_table

    def mask_table(self, path: Path) -> LabelTable:
        """Return the table with the raw ids of a mask."""
        return self.label_table

    def read_ids(self, path: Path) -> Image.Image:
        """Read a mask as an image (mode L) of raw ids.

        Raises:
            BadFileError: if the file breaks a rule.
        """
        return open_mask(path)

    def read_label(self, path: Path) -> Image.Image:
        """Read a mask as an image (mode L) of train ids.

        Raises:
            BadFileError: if the file breaks a rule.
        """
        return map_ids(self.read_ids(path), self.mask_table(path).raw_to_train, path)

    def read_sample(self, sample: Sample) -> dict[str, Any]:
        """Read and check one sample.

        Raises:
            BadFileError: if its image or its mask breaks a rule.
        """
        if sample.mask is None:
            return {"image": image_value(sample.image, None, None), "label": None, "id": sample.id}
        label = self.read_label(sample.mask)
        return {
            "image": image_value(sample.image, None, label.size),
            "label": {"path": None, "bytes": encode_png(label)},
            "id": sample.id,
        }

    def load(self, num_proc: int | None = None, skip_bad_files: bool = False) -> SegmentationDataset:
        """Prepare the data set, or load it from the cache. Every file is either loaded or reported.

        Args:
            num_proc (`int`, *optional*): Number of processes that read files.
            skip_bad_files (`bool`): Leave out files that break a rule, have no partner or share an id. A warning and
                `bad_files` of the result list them with the reasons.

        Raises:
            FileNotFoundError: if an image has no mask, or a mask has no image.
            BadDataError: if files break a rule or share an id; with `skip_bad_files`, only if no file of a split
                remains.
        """
        if not skip_bad_files:
            self._refuse_id_errors()
            self._refuse_unpaired_files()
            self._refuse_bad_first_samples()
        try:
            self.download_and_prepare(num_proc=num_proc)
        except DatasetGenerationError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise OSError(
                f"{self.title} cannot be prepared in {self.cache_dir}: {error.__cause__}; check the disk, or name "
                "another place in the variable HF_DATASETS_CACHE"
            ) from error
        bad_files = [error for files in self.files.values() for error in files.errors()] + self._unprepared_files()
        has_samples = all(self.info.splits[split].num_examples for split in self.files)
        report_bad_files(bad_files, self.title, skip_bad_files and has_samples)
        splits = {split: self.as_dataset(split) for split in self.files}
        return SegmentationDataset(splits, self.label_table, bad_files, self.owner_table)

    def _refuse_id_errors(self) -> None:
        if errors := [error for files in self.files.values() for error in files.id_errors]:
            raise BadDataError(errors)

    def _refuse_unpaired_files(self) -> None:
        unpaired = [
            f"{split}: beside {len(files.samples)} pairs there are {files.describe_unpaired()}"
            for split, files in self.files.items()
            if not files.is_paired
        ]
        if unpaired:
            raise FileNotFoundError(
                f"{self.title} is incomplete.\n"
                + "\n".join(unpaired)
                + f"\n{self.MISSING_CURE}, or move these files away; {LEAVING_OUT}."
            )

    def _refuse_bad_first_samples(self) -> None:
        """Read the first sample of every split, to find errors that all files have, such as masks of a wrong kind."""
        for files in self.files.values():
            for sample in files.samples[:1]:
                try:
                    self.read_sample(sample)
                except BadFileError as error:
                    raise BadDataError([error]) from None

    def _unprepared_files(self) -> list[BadFileError]:
        """Return the reasons why samples are not in the prepared data set.

        The prepared data set is compared with the files, because it may come from other processes or from the cache.
        """
        errors = []
        for split, files in self.files.items():
            if self.info.splits[split].num_examples == len(files.samples):
                continue
            prepared = set(self.as_dataset(split)["id"]) if self.info.splits[split].num_examples else set()
            errors += [self._reason(sample) for sample in files.samples if sample.id not in prepared]
        return errors

    def _reason(self, sample: Sample) -> BadFileError:
        try:
            self.read_sample(sample)
        except BadFileError as error:
            return error
        return BadFileError(sample.image, "could not be used when the cache was made", f"remove {self.cache_dir}")

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=f"{self.title}, {self.label_table.num_labels} classes", features=FEATURES
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"samples": files.samples})
            for split, files in self.files.items()
        ]

    def _generate_examples(self, samples: list[Sample]) -> Iterator[tuple[str, dict[str, Any]]]:
        for sample in samples:
            try:
                example = self.read_sample(sample)
            except BadFileError as error:
                logger.warning("bad file: %s", error)  # `load` reports it
            else:
                yield sample.id, example


def report_bad_files(bad_files: Sequence[BadFileError], title: str, can_skip: bool) -> None:
    """Log all files that are left out of a data set, or refuse them.

    Raises:
        BadDataError: if there are bad files and `can_skip` is false.
    """
    if bad_files and not can_skip:
        raise BadDataError(bad_files)
    if bad_files:
        logger.warning("%s, left out: %s", title, list_errors(bad_files, limit=len(bad_files)))
