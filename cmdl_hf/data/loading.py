"""Loads data sets by name (public benchmarks, own data or generated scenes), and checks that a model fits them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .merging import MERGE_FILE, merge_classes
from .sets.base import SegmentationDataset
from .sets.benchmark import BENCHMARKS, BenchmarkBuilder, check_benchmark, find_builder
from .sets.own import load_folder, load_pairs
from .sets.synthetic import load_synthetic
from .validation_split import divide_as_trained

logger = logging.getLogger(__name__)


def make_builder(
    name: str,
    data_dir: str | Path,
    splits: Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    **config_kwargs: Any,
) -> BenchmarkBuilder:
    """Find the files of a benchmark without reading them.

    `files` of the result lists the files, `read_sample` reads a sample. For the arguments see [`load_benchmark`].
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
    """Load a public data set from its original files. The files are not changed, and no preparation is needed.

    Args:
        name (`str`): One of `BENCHMARKS`.
        data_dir (`str` or `Path`): The folder of the data set, in one of `BENCHMARKS[name].layouts`.
        splits (`Sequence[str]`, *optional*): Any of `"train"`, `"validation"` and `"test"`; by default all splits of
            the data set. A missing split is an error.
        cache_dir (`str` or `Path`, *optional*): Folder for the prepared labels; by default the cache of `datasets`.
            If files change, the labels are prepared again.
        num_proc (`int`, *optional*): Number of processes that prepare labels.
        skip_bad_files (`bool`): Leave out files that break a rule. A warning and `bad_files` of the result list them.
        **config_kwargs: Options of a single benchmark: `num_classes=182` for `"coco_stuff"`.

    Returns:
        `SegmentationDataset`: a `DatasetDict` with the columns `image`, `label` and `id`. Labels hold train ids: the
        classes 0..K-1, and 255 for void pixels. Do not map or shift them again. Withheld labels are `None`.

    Raises:
        FileNotFoundError: if the folder, a split, an image or a mask is missing.
        BadDataError: if files break a rule, or two files have the same id.
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
        data_dir (`str` or `Path`, *optional*): Folder of the data set. For own data: the folder of `images/` and
            `masks/`, or a .csv or .jsonl list of pairs. Not used for synthetic scenes.
        id2label (`str` or `Path`, *optional*): File with the classes of own data.

    Raises:
        ValueError: if the data set is unknown, or an argument is missing or does not apply to it.
    """
    check_benchmark(benchmark)
    if id2label is not None and benchmark != "own":
        raise ValueError(
            f"id2label is for own data; the classes of benchmark {benchmark} are known, so {id2label} would not be "
            "read: leave out --id2label, or set --benchmark own"
        )
    if benchmark == "synthetic":
        if data_dir is not None:
            raise ValueError(
                f"benchmark synthetic generates its scenes, so {data_dir} would not be read: leave out --data-dir, "
                "or set --benchmark to the name of the data set in that folder"
            )
        return load_synthetic()
    if data_dir is None:
        raise ValueError(f"benchmark {benchmark} needs its folder: give --data-dir")
    if benchmark != "own":
        return load_benchmark(benchmark, data_dir)
    if id2label is None:
        raise ValueError("own data needs a file with the names of the classes: give --id2label classes.txt")
    return (load_folder if Path(data_dir).is_dir() else load_pairs)(data_dir, id2label)


def load_split(
    benchmark: str,
    split: str,
    num_labels: int,
    data_dir: str | Path | None = None,
    id2label: str | Path | None = None,
    merged_by: str | Path | None = None,
    model: str | Path = "",
) -> SegmentationDataset:
    """Load one split, to evaluate or to explore a model on it.

    Args:
        benchmark (`str`): One of `BENCHMARKS`, `"synthetic"` or `"own"`.
        split (`str`): `"train"`, `"validation"` or `"test"`. Other splits of a benchmark are not loaded.
        num_labels (`int`): Number of classes of the model. It selects COCO-Stuff with 171 or 182 classes.
        data_dir (`str` or `Path`, *optional*): See `load_data`.
        id2label (`str` or `Path`, *optional*): See `load_data`.
        merged_by (`str` or `Path`, *optional*): File that merges classes, see `merge_classes`.
        model (`str` or `Path`): Folder of the model. From own data without validation split, the images are set apart
            that its training set apart, see [`divide_as_trained`].

    Raises:
        ValueError: if the data set or the split is unknown, or as `load_data` and `merge_classes` raise it.
    """
    check_benchmark(benchmark)
    if benchmark not in BENCHMARKS or data_dir is None or id2label is not None:
        dataset = load_data(benchmark, data_dir, id2label)
    else:
        options = {} if merged_by else find_builder(benchmark).options_for(num_labels)
        dataset = load_benchmark(benchmark, data_dir, splits=[split], **options)
    lacks_validation = benchmark == "own" and "train" in dataset and "validation" not in dataset
    if lacks_validation:
        dataset = divide_as_trained(dataset, model, split, str(data_dir))
    if split not in dataset:
        raise ValueError(f"{benchmark} has the splits {', '.join(dataset)}, not {split}")
    return dataset if merged_by is None else merge_classes(dataset, merged_by)


def check_classes(config: Any, dataset: SegmentationDataset, benchmark: str, model: str | Path) -> None:
    """Refuse a model whose number of classes differs from the data set's. Log a warning if class names differ."""
    if config.num_labels != dataset.num_labels:
        raise ValueError(
            f"model and data set must have the same classes, found {config.num_labels} in {model} and "
            f"{dataset.num_labels} in {benchmark}; choose a model trained for {benchmark}, or the data set it was "
            f"trained for{_merge_hint(model)}"
        )
    names = {int(id_): name for id_, name in config.id2label.items()}
    differing = [
        id_ for id_, name in dataset.id2label.items() if _plain(names[id_]) not in (_plain(name), f"label{id_}")
    ]
    if differing:
        id_ = differing[0]
        logger.warning(
            "%d of %d classes have other names in %s than in %s, such as %d: %r and %r. Classes are compared by id: "
            "if their order differs, the scores are wrong.",
            len(differing),
            len(names),
            model,
            benchmark,
            id_,
            names[id_],
            dataset.id2label[id_],
        )


def _merge_hint(model: str | Path) -> str:
    """Name the file of merged classes in the folder of a model, if there is one."""
    file = Path(model) / MERGE_FILE
    return f". Its training merged classes: give --merge-classes {file}" if file.is_file() else ""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
