"""Data sets by name: a public benchmark, own data or generated scenes, and whether a model fits them."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from .sets.base import SegmentationDataset
from .sets.benchmark import BENCHMARKS, BenchmarkBuilder, check_benchmark, find_builder
from .sets.own import load_folder, load_pairs
from .sets.synthetic import load_synthetic

logger = logging.getLogger(__name__)


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
    return find_builder(name)(data_dir, splits=splits, cache_dir=cache_dir, **config_kwargs)


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


def load_data(
    benchmark: str, data_dir: str | Path | None = None, id2label: str | Path | None = None
) -> SegmentationDataset:
    """Load a data set by name.

    Args:
        benchmark (`str`): One of `BENCHMARKS`, `"synthetic"` or `"own"`.
        data_dir (`str` or `Path`, *optional*): Its folder; for own data the folder of `images/` and `masks/`, or a
            .csv or .jsonl list of pairs. Generated scenes have none.
        id2label (`str` or `Path`, *optional*): File with the classes of own data.

    Raises:
        ValueError: if there is no such data set, or what it needs was not given, or what it does not read was.
    """
    check_benchmark(benchmark)
    if id2label is not None and benchmark != "own":
        raise ValueError(
            f"id2label is for own data; benchmark {benchmark} has classes of its own, so {id2label} would not be "
            "read: leave out --id2label, or give --benchmark own"
        )
    if benchmark == "synthetic":
        if data_dir is not None:
            raise ValueError(
                f"benchmark synthetic generates its scenes, so {data_dir} would not be read: leave out --data-dir, "
                "or give --benchmark and the name of the data set there"
            )
        return load_synthetic()
    if data_dir is None:
        raise ValueError(f"benchmark {benchmark} needs its folder: give --data-dir")
    if benchmark != "own":
        return load_benchmark(benchmark, data_dir)
    if id2label is None:
        raise ValueError("own data need a file with the names of the classes: give --id2label classes.txt")
    return (load_folder if Path(data_dir).is_dir() else load_pairs)(data_dir, id2label)


def load_split(
    benchmark: str,
    split: str,
    num_labels: int,
    data_dir: str | Path | None = None,
    id2label: str | Path | None = None,
) -> SegmentationDataset:
    """Load the split that a model is scored on or looked into with.

    Args:
        benchmark (`str`): One of `BENCHMARKS`, `"synthetic"` or `"own"`.
        split (`str`): `"train"`, `"validation"` or `"test"`; of a benchmark only this one is loaded.
        num_labels (`int`): Classes of the model, which tell how many COCO-Stuff has, 171 or 182.
        data_dir (`str` or `Path`, *optional*): See `load_data`.
        id2label (`str` or `Path`, *optional*): See `load_data`.

    Raises:
        ValueError: if there is no such data set or split, or as `load_data` raises it.
    """
    check_benchmark(benchmark)
    if benchmark not in BENCHMARKS or data_dir is None or id2label is not None:
        dataset = load_data(benchmark, data_dir, id2label)
    else:
        options = find_builder(benchmark).options_for(num_labels)
        dataset = load_benchmark(benchmark, data_dir, splits=[split], **options)
    if split not in dataset:
        raise ValueError(f"{benchmark} has the splits {', '.join(dataset)}, not {split}")
    return dataset


def check_classes(config: Any, dataset: SegmentationDataset, benchmark: str, model: str | Path) -> None:
    """Refuse a model with another number of classes than the data set, and log it if they have other names."""
    if config.num_labels != dataset.num_labels:
        raise ValueError(
            f"model and data set must have the same classes, found {config.num_labels} in {model} and "
            f"{dataset.num_labels} in {benchmark}; choose a model trained for {benchmark}, or the data set it was "
            "trained for"
        )
    names = {int(id_): name for id_, name in config.id2label.items()}
    differing = [
        id_ for id_, name in dataset.id2label.items() if _plain(names[id_]) not in (_plain(name), f"label{id_}")
    ]
    if differing:
        id_ = differing[0]
        logger.warning(
            "%d of %d classes have other names in %s than in %s, such as %d: %r and %r. Classes are compared by id; "
            "if their order differs, the scores mean nothing.",
            len(differing),
            len(names),
            model,
            benchmark,
            id_,
            names[id_],
            dataset.id2label[id_],
        )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def ids_digest(rows: datasets.Dataset) -> str:
    """Tell a split from others by the ids of its images."""
    return hashlib.sha256("\n".join(map(str, rows["id"][:])).encode()).hexdigest()[:16]
