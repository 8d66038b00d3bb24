"""Public data sets: how one is described and registered, and how its files are found in its owner's folders."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import datasets

from ...registry import Registry
from ..label_table import HasClasses, LabelTable
from ..listing import Layout, SplitFiles, absolute, locate
from .base import SegmentationBuilder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark(HasClasses):
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
        resize (`tuple[int, int]`, *optional*): Shorter edge and limit of the longer edge, in pixels, that papers bring
            its images to; by default they keep their size.
        crop_size (`tuple[int, int]`, *optional*): Height and width of the windows that papers slide over its images,
            which are the crops of their training.

    Attributes:
        id2label, palette, num_labels, ignore_index: What `label_table` has.
    """

    name: str
    title: str
    label_table: LabelTable
    layouts: tuple[Layout, ...]
    homepage: str
    license: str
    citation: str
    unlabelled_splits: tuple[str, ...] = ()
    resize: tuple[int, int] | None = None
    crop_size: tuple[int, int] | None = None

    @property
    def origin(self) -> str:
        """Where the files come from, as a sentence."""
        return f"The files of {self.title} come from {self.homepage} ({self.license})."


class BenchmarkBuilder(SegmentationBuilder):
    """Builder of a public data set; a subclass says which files belong together.

    Args:
        data_dir (`str` or `Path`): The data set's folder.
        splits (`Sequence[str]`, *optional*): The splits to read; by default all, and one that is missing is an error.
        label_table (`LabelTable`, *optional*): The classes, where they are not the benchmark's usual ones.
        cache_dir (`str` or `Path`, *optional*): Where `datasets` keeps its Arrow files.

    Raises:
        FileNotFoundError: if the folder or a split is not there; it names the tree expected and the cure.
        ValueError: if the data set has no such split.
    """

    benchmark: ClassVar[Benchmark]

    def __init__(
        self,
        data_dir: str | Path,
        splits: Sequence[str] | None = None,
        label_table: LabelTable | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.data_dir = absolute(data_dir)
        self.layout = locate(self.data_dir, self.benchmark.layouts, self.benchmark.origin)
        super().__init__(
            self._select_splits(self.find_files(), splits),
            label_table or self.benchmark.label_table,
            self.benchmark.title,
            cache_dir,
            data_dir=str(self.data_dir),
        )

    @classmethod
    def options_for(cls, num_labels: int) -> dict[str, Any]:
        """The options by which the data set has as many classes as a model, where it has several numbers of them."""
        return {}

    @abstractmethod
    def find_files(self) -> dict[str, SplitFiles]:
        """Find the files of every split under `data_dir`, which has the layout `self.layout`."""

    def _select_splits(self, files: dict[str, SplitFiles], splits: Sequence[str] | None) -> dict[str, SplitFiles]:
        known = tuple(self.layout.num_images)
        if unknown := set(splits or ()) - set(known):
            raise ValueError(f"{self.benchmark.title} has the splits {', '.join(known)}, not {', '.join(unknown)}")
        optional = self.benchmark.unlabelled_splits
        wanted = splits or [split for split in known if split not in optional or not files[split].is_empty]
        for split in wanted:
            found, expected = len(files[split].samples), self.layout.num_images[split]
            if files[split].is_empty:
                present = [name for name in known if files[name].samples]
                raise FileNotFoundError(
                    f"{self.data_dir} has no files of the {split} split: is it half a download? "
                    f"To read only what is there, pass splits={present} in Python, or --splits {' '.join(present)} to "
                    "cmdl prepare and cmdl check-data.\n"
                    f"Expected is\n{self.layout.tree}\n{self.benchmark.origin}"
                )
            if found < expected:
                logger.warning("%s, %s: %d of %d images", self.benchmark.title, split, found, expected)
        return {split: files[split] for split in wanted}

    def _info(self) -> datasets.DatasetInfo:
        info = super()._info()
        info.homepage = self.benchmark.homepage
        info.license = self.benchmark.license
        info.citation = self.benchmark.citation
        return info


_BUILDERS: Registry[type[BenchmarkBuilder]] = Registry("benchmark", reserved=("own", "synthetic"))

BENCHMARKS: Registry[Benchmark] = Registry("benchmark")
"""The public data sets that `load_benchmark` knows: classes, colours, layouts, sources."""

_Builder = TypeVar("_Builder", bound=type[BenchmarkBuilder])


def register_benchmark(builder: _Builder) -> _Builder:
    """Let `load_benchmark` and `--benchmark` know a data set.

    Args:
        builder (`type[BenchmarkBuilder]`): Its builder, the only one of its file, as `datasets` names caches after
            files; `builder.benchmark` has the name.

    Returns:
        The builder, so that this can be written above its class: `@register_benchmark`.

    Raises:
        ValueError: if there is a data set of that name.

    Example:
        ```python
        @register_benchmark
        class Ponds(BenchmarkBuilder):
            benchmark = Benchmark(name="ponds", ...)

            def find_files(self): ...
        ```

        `examples/plugins/ponds.py` is a whole one.
    """
    _BUILDERS.register(builder.benchmark.name, builder)
    BENCHMARKS.register(builder.benchmark.name, builder.benchmark)
    return builder


def find_builder(name: str) -> type[BenchmarkBuilder]:
    """Look up the builder of a benchmark.

    Raises:
        ValueError: if there is none of that name.
    """
    return _BUILDERS.find(name)


def check_benchmark(name: str) -> None:
    """Refuse what is neither a benchmark nor own or generated data.

    Raises:
        ValueError: naming what is known.
    """
    if name not in _BUILDERS.reserved:
        _BUILDERS.find(name)
