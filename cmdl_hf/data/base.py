"""What all data sets share: their description, the builder that reads them once, and the `DatasetDict` they become."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
from PIL import Image

from .label_table import IGNORE_INDEX, LabelTable
from .listing import Layout, Sample, SplitFiles, digest_files, locate
from .reading import BadDataError, BadFileError, encode_png, image_value, list_errors, map_ids, open_mask

logger = logging.getLogger(__name__)

FEATURES = datasets.Features(
    {"image": datasets.Image(mode="RGB"), "label": datasets.Image(), "id": datasets.Value("string")}
)


@dataclass(frozen=True)
class Benchmark:
    """A public data set: its classes, its layouts on disk, its owner.

    Args:
        name (`str`): The name `load_benchmark` knows it by.
        title (`str`): The owner's name of it.
        label_table (`LabelTable`): Classes, names and colours.
        layouts (`tuple[Layout, ...]`): The layouts its owners distribute.
        homepage (`str`): Where the files come from.
        license (`str`): Its terms in a line.
        citation (`str`): BibTeX.
        unlabelled_splits (`tuple[str, ...]`): Splits whose labels the owner withholds. They may be absent; where they
            are there, their labels are `None`.
    """

    name: str
    title: str
    label_table: LabelTable
    layouts: tuple[Layout, ...]
    homepage: str
    license: str
    citation: str
    unlabelled_splits: tuple[str, ...] = ()
    ignore_index: int = IGNORE_INDEX

    @property
    def id2label(self) -> dict[int, str]:
        """Name of every class."""
        return self.label_table.id2label

    @property
    def palette(self) -> list[list[int]]:
        """K rows of red, green, blue."""
        return self.label_table.palette

    @property
    def num_labels(self) -> int:
        """Number of classes K."""
        return self.label_table.num_labels

    @property
    def origin(self) -> str:
        """Where the files come from, as a sentence."""
        return f"The files of {self.title} come from {self.homepage} ({self.license})."


class SegmentationDataset(datasets.DatasetDict):
    """A `DatasetDict` that knows its classes.

    Each split has the columns `image` (RGB), `label` (8-bit image of train ids, 255 = ignore, already mapped; `None`
    where the owner withholds it) and `id` (string).

    Args:
        splits (`Mapping[str, Dataset]`): Data sets by split.
        label_table (`LabelTable`): The classes.
        bad_files (`Sequence[BadFileError]`): Files left out on request, with the reasons.
    """

    def __init__(
        self,
        splits: Mapping[str, datasets.Dataset],
        label_table: LabelTable,
        bad_files: Sequence[BadFileError] = (),
    ) -> None:
        super().__init__(splits)
        self.label_table = label_table
        self.bad_files = list(bad_files)
        self.ignore_index = IGNORE_INDEX

    @property
    def id2label(self) -> dict[int, str]:
        """Name of every class."""
        return self.label_table.id2label

    @property
    def palette(self) -> list[list[int]]:
        """K rows of red, green, blue."""
        return self.label_table.palette

    @property
    def num_labels(self) -> int:
        """Number of classes K."""
        return self.label_table.num_labels


@dataclass
class SegmentationConfig(datasets.BuilderConfig):
    """Configuration of a builder.

    Args:
        listing (`str`): Digest of the files and the label table: what differs is cached apart.
    """

    listing: str = ""


class SegmentationBuilder(datasets.GeneratorBasedBuilder):
    """Reads a data set from the files its owner distributes; raw ids become train ids here and nowhere else.

    Images are kept as paths, labels as PNG bytes of train ids. A subclass says which files belong together
    (`find_files`) and, where masks are not plain files of ids, how to read one (`read_label`). It must be the only
    builder of its module, because `datasets` names caches after modules.

    Args:
        data_dir (`str` or `Path`): The data set's folder.
        splits (`Sequence[str]`, *optional*): The splits to read; by default all, and one that is missing is an error.
        cache_dir (`str` or `Path`, *optional*): Where `datasets` keeps its Arrow files.
        **config_kwargs: Fields of the configuration.

    Raises:
        FileNotFoundError: if the folder or a split is not there; it names the tree expected and the cure.
        ValueError: if two files have one id.
    """

    VERSION = datasets.Version("1.0.0")  # to be raised whenever the same files give another data set
    BUILDER_CONFIG_CLASS = SegmentationConfig
    benchmark: ClassVar[Benchmark]

    def __init__(
        self,
        data_dir: str | Path,
        splits: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        **config_kwargs: Any,
    ) -> None:
        self.data_dir = Path(data_dir).expanduser().absolute()
        self.layout = locate(self.data_dir, self.benchmark.layouts, self.benchmark.origin)
        self.files = self._select_splits(self.find_files(), splits)
        config_kwargs["listing"] = f"{self.benchmark.label_table.digest}-{digest_files(self.files)}"
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir), data_dir=str(self.data_dir), **config_kwargs
        )

    @property
    def label_table(self) -> LabelTable:
        """The classes of the data set that is built."""
        return self.benchmark.label_table

    def find_files(self) -> dict[str, SplitFiles]:
        """Find the files of every split under `data_dir`, which has the layout `self.layout`."""
        raise NotImplementedError

    def read_label(self, path: Path) -> Image.Image:
        """Read a mask as an image (mode L) of train ids.

        Raises:
            BadFileError: if the file breaks a rule.
        """
        return map_ids(open_mask(path), self.label_table.raw_to_train, path)

    def read_sample(self, sample: Sample) -> dict[str, Any]:
        """Read and check one sample.

        Raises:
            BadFileError: if its image or its mask breaks a rule.
        """
        if sample.mask is None:
            return {"image": image_value(sample.image, None), "label": None, "id": sample.id}
        label = self.read_label(sample.mask)
        return {
            "image": image_value(sample.image, label.size),
            "label": {"path": None, "bytes": encode_png(label)},
            "id": sample.id,
        }

    def load(self, num_proc: int | None = None, skip_bad_files: bool = False) -> SegmentationDataset:
        """Prepare the data set, or take it from the cache, and account for every file.

        Args:
            num_proc (`int`, *optional*): Processes that read files.
            skip_bad_files (`bool`): Leave out files that break a rule and images or masks without partner, log their
                number and the reasons, and list them in `bad_files` of the result.

        Raises:
            FileNotFoundError: if an image or a mask lacks its partner.
            BadDataError: if files break a rule, or every file of a split does.
        """
        unpaired = self._unpaired_files(skip_bad_files)
        if not skip_bad_files:
            self._check_first_samples()
        self.download_and_prepare(num_proc=num_proc)
        bad_files = unpaired + self._bad_files()
        is_empty = any(self.info.splits[split].num_examples == 0 for split in self.files)
        if bad_files and (is_empty or not skip_bad_files):
            raise BadDataError(bad_files)
        if bad_files:
            logger.warning("%s, left out: %s", self.benchmark.title, list_errors(bad_files, limit=len(bad_files)))
        splits = {split: self.as_dataset(split) for split in self.files}
        return SegmentationDataset(splits, self.label_table, bad_files)

    def _select_splits(self, files: dict[str, SplitFiles], splits: Sequence[str] | None) -> dict[str, SplitFiles]:
        known = tuple(self.layout.num_images)
        if unknown := set(splits or ()) - set(known):
            raise ValueError(f"{self.benchmark.title} has the splits {', '.join(known)}, not {', '.join(unknown)}")
        optional = self.benchmark.unlabelled_splits
        wanted = splits or [split for split in known if files[split].samples or split not in optional]
        for split in wanted:
            if not files[split].samples and files[split].is_paired:
                present = [name for name in known if files[name].samples]
                raise FileNotFoundError(
                    f"{self.data_dir} has no files of the {split} split: is it half a download? "
                    f"To read only what is there, pass splits={present}.\n"
                    f"Expected is\n{self.layout.tree}\n{self.benchmark.origin}"
                )
            expected = self.layout.num_images[split]
            if len(files[split].samples) < expected:
                logger.warning(
                    "%s, %s: %d of %d images", self.benchmark.title, split, len(files[split].samples), expected
                )
        return {split: files[split] for split in wanted}

    def _unpaired_files(self, skip_bad_files: bool) -> list[BadFileError]:
        errors = []
        for split, files in self.files.items():
            if files.is_paired:
                continue
            if not skip_bad_files:
                raise FileNotFoundError(
                    f"{self.benchmark.title}, {split}: beside {len(files.samples)} pairs there are "
                    f"{files.describe_unpaired()}: is it half a download? Fetch the rest, or pass "
                    f"skip_bad_files=True to leave these out.\n{self.benchmark.origin}"
                )
            cure = "fetch the rest of the data set"
            errors += [BadFileError(path, "the image has no mask", cure) for path in files.images_without_mask]
            errors += [BadFileError(path, "the mask has no image", cure) for path in files.masks_without_image]
            errors += [BadFileError(Path(id_), "the list's name has no image", cure) for id_ in files.missing_ids]
        return errors

    def _check_first_samples(self) -> None:
        """Refuse at once what is wrong with every file, such as masks of the wrong kind."""
        for files in self.files.values():
            for sample in files.samples[:1]:
                try:
                    self.read_sample(sample)
                except BadFileError as error:
                    raise BadDataError([error]) from None

    def _bad_files(self) -> list[BadFileError]:
        """The reasons why samples are not in the prepared data set.

        Found by comparison, not remembered while preparing, so that other processes and caches change nothing.
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
        return BadFileError(sample.image, "was bad when the cache was made", f"remove {self.cache_dir}")

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=f"{self.benchmark.title}, {self.label_table.num_labels} classes",
            features=FEATURES,
            homepage=self.benchmark.homepage,
            license=self.benchmark.license,
            citation=self.benchmark.citation,
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
                logger.warning("bad file: %s", error)  # `load` accounts for it
            else:
                yield sample.id, example
