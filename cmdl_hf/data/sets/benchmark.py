"""Public data sets: their description, their builder, and their registry."""

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
    """Description of a public data set.

    Args:
        name (`str`): Name for `load_benchmark` and `--benchmark`.
        title (`str`): The owner's name of the data set.
        label_table (`LabelTable`): Ids, names and colours of the classes.
        layouts (`tuple[Layout, ...]`): Folder layouts of the original files.
        homepage (`str`): Source of the files.
        license (`str`): Licence in one line.
        citation (`str`): Citation as BibTeX.
        unlabelled_splits (`tuple[str, ...]`): Splits whose labels the owner withholds. They may be absent; if they are
            present, their labels are `None`.
        resize (`tuple[int, int]`, *optional*): Usual image size in papers: length of the shorter edge and upper limit
            of the longer edge, in pixels. By default images keep their size.
        crop_size (`tuple[int, int]`, *optional*): Usual height and width of training crops in papers, also used as
            the window of sliding-window inference.

    Attributes:
        id2label, palette, num_labels, ignore_index: Those of `label_table`.
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
        """A sentence that names the source of the files."""
        return f"The files of {self.title} come from {self.homepage} ({self.license})."


class BenchmarkBuilder(SegmentationBuilder):
    """Builder of a public data set. A subclass defines which files belong together.

    Args:
        data_dir (`str` or `Path`): Folder of the data set.
        splits (`Sequence[str]`, *optional*): Splits to read; by default all. A missing split is an error.
        label_table (`LabelTable`, *optional*): The classes, if they differ from the benchmark's usual ones.
        cache_dir (`str` or `Path`, *optional*): Folder for the Arrow files of `datasets`.

    Raises:
        FileNotFoundError: if the folder or a split is missing. The message shows the expected folders and the cure.
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
        """Return the builder options that select a number of classes, for data sets with several variants."""
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
                    f"{self.data_dir} has no files of the {split} split: is the download incomplete? "
                    f"To read only the other splits, pass splits={present} in Python, or --splits {' '.join(present)} "
                    "to cmdl prepare and cmdl check-data.\n"
                    f"Expected folders:\n{self.layout.tree}\n{self.benchmark.origin}"
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
    """Register a data set, for `load_benchmark` and for `--benchmark`.

    Args:
        builder (`type[BenchmarkBuilder]`): Builder of the data set; `builder.benchmark` holds the name. It must be the
            only builder in its file, because `datasets` names caches after files.

    Returns:
        The builder, so that this function can be used as a decorator: `@register_benchmark`.

    Raises:
        ValueError: if the name is already registered.

    Example:
        ```python
        @register_benchmark
        class Ponds(BenchmarkBuilder):
            benchmark = Benchmark(name="ponds", ...)

            def find_files(self): ...
        ```

        For a complete example see `examples/plugins/oxford_pets.py`.
    """
    _BUILDERS.register(builder.benchmark.name, builder)
    BENCHMARKS.register(builder.benchmark.name, builder.benchmark)
    return builder


def find_builder(name: str) -> type[BenchmarkBuilder]:
    """Look up the builder of a benchmark.

    Raises:
        ValueError: if the name is not registered.
    """
    return _BUILDERS.find(name)


def check_benchmark(name: str) -> None:
    """Refuse a name that is neither a benchmark nor `"own"` or `"synthetic"`.

    Raises:
        ValueError: if the name is unknown. The message lists the known names.
    """
    if name not in _BUILDERS.reserved:
        _BUILDERS.find(name)
