"""Data sets as `datasets.DatasetDict`s of image, label and id: public benchmarks, own files, generated scenes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .ade20k import Ade20k
from .base import SegmentationDataset
from .benchmark import Benchmark, BenchmarkBuilder
from .camvid import CamVid
from .cityscapes import Cityscapes
from .coco_stuff import CocoStuff
from .custom import load_folder, load_pairs
from .hub import load_hub
from .label_table import Label, LabelTable
from .reading import BadDataError, BadFileError
from .synthetic import load_synthetic

_BUILDERS: dict[str, type[BenchmarkBuilder]] = {
    builder.benchmark.name: builder for builder in (Cityscapes, Ade20k, CocoStuff, CamVid)
}

BENCHMARKS: dict[str, Benchmark] = {name: builder.benchmark for name, builder in _BUILDERS.items()}
"""The public data sets `load_benchmark` knows: classes, colours, layouts, sources."""

__all__ = [
    "BENCHMARKS",
    "BadDataError",
    "BadFileError",
    "Benchmark",
    "Label",
    "LabelTable",
    "SegmentationDataset",
    "load_benchmark",
    "load_folder",
    "load_hub",
    "load_pairs",
    "load_synthetic",
    "make_builder",
]


def make_builder(
    name: str,
    data_dir: str | Path,
    splits: Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    **config_kwargs: Any,
) -> BenchmarkBuilder:
    """Find a benchmark's files without reading them: `files` of the result lists them, `read_sample` reads one.

    Args are those of [`load_benchmark`].
    """
    if name not in _BUILDERS:
        raise ValueError(f"there is no benchmark {name!r}; known are {', '.join(_BUILDERS)}")
    return _BUILDERS[name](data_dir, splits=splits, cache_dir=cache_dir, **config_kwargs)


def load_benchmark(
    name: str,
    data_dir: str | Path,
    *,
    splits: Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    skip_bad_files: bool = False,
    **config_kwargs: Any,
) -> SegmentationDataset:
    """Load a public data set from the files its owner distributes; nothing to prepare, nothing edited on disk.

    Args:
        name (`str`): One of `BENCHMARKS`.
        data_dir (`str` or `Path`): The folder of the data set, in any of `BENCHMARKS[name].layouts`.
        splits (`Sequence[str]`, *optional*): Of `"train"`, `"validation"` and `"test"`; by default all the data set
            has. A split that is missing is an error.
        cache_dir (`str` or `Path`, *optional*): Where the prepared labels are kept; by default where `datasets`
            keeps everything. A changed folder is prepared anew.
        num_proc (`int`, *optional*): Processes that prepare.
        skip_bad_files (`bool`): Leave out files that break a rule; they are counted and listed in a warning and in
            `bad_files` of the result.
        **config_kwargs: Options of a single benchmark: `num_classes=182` for `"coco_stuff"`.

    Returns:
        `SegmentationDataset`: a `DatasetDict` with the columns `image`, `label` (train ids, 255 = ignore, not to be
        reduced again) and `id`. Labels that the owner withholds are `None`.

    Raises:
        FileNotFoundError: if the folder, a split or the partner of a file is missing.
        BadDataError: if files break a rule, or two of them have one id.
        ValueError: if the benchmark or a split is unknown.
        TypeError: if the benchmark has no such option.

    Example:
        ```python
        >>> from cmdl_hf.data import load_benchmark

        >>> camvid = load_benchmark("camvid", data_dir="CamVid")
        >>> camvid["train"][0]["label"], camvid.id2label[3]
        ```
    """
    builder = make_builder(name, data_dir, splits=splits, cache_dir=cache_dir, **config_kwargs)
    return builder.load(num_proc=num_proc, skip_bad_files=skip_bad_files)
