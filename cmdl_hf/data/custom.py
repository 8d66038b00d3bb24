"""Own data: folders of images and masks, a list of pairs, or a data set of the Hub."""

import csv
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from .base import FEATURES, SegmentationBuilder, SegmentationDataset, report_bad_files
from .label_table import LabelTable
from .listing import Layout, SplitFiles, index_by_id, list_files, locate, pair_files
from .reading import IMAGE_SUFFIXES, BadFileError, encode_png, image_value, map_ids, open_mask

Classes = str | Path | LabelTable | Mapping[int, str] | Sequence[str]
"""The classes of own data: a file that `LabelTable.from_file` reads, their names, or a table."""

_SPLIT_OF = {"": "train", "train": "train", "val": "validation", "validation": "validation", "test": "test"}
"""The split that a folder's name, or an entry of a list, means."""

_LAYOUT = Layout(
    "folders",
    needs=("images", "masks"),
    num_images={},
    tree="""\
DIR/
  images/X.jpg    or images/{train,val,test}/X.jpg
  masks/X.png     or masks/{train,val,test}/X.png""",
)


class OwnFiles(SegmentationBuilder):
    """Builder of own images and masks."""


def load_folder(
    data_dir: str | Path,
    id2label: Classes,
    *,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    skip_bad_files: bool = False,
) -> SegmentationDataset:
    """Load own data from the folders `images` and `masks`, whose files of one stem belong together.

    Args:
        data_dir (`str` or `Path`): The folder that holds `images` and `masks`. Below both there may be folders
            `train`, `val` (or `validation`) and `test`; without them everything is the train split.
        id2label (`str`, `Path`, `LabelTable`, `Mapping[int, str]` or `Sequence[str]`): The classes: a .txt, .json or
            .csv file, or the names. Masks hold the ids 0..K-1, and 255 where a pixel is to be ignored; a table of raw
            and train ids (`LabelTable`) maps others.
        cache_dir (`str` or `Path`, *optional*): Where the prepared labels are kept.
        num_proc (`int`, *optional*): Processes that prepare.
        skip_bad_files (`bool`): Leave out files that break a rule; they are counted and listed in a warning and in
            `bad_files` of the result.

    Returns:
        `SegmentationDataset`, as `load_benchmark` returns it.

    Raises:
        FileNotFoundError: if the folders or the partner of a file are missing.
        BadDataError: if files break a rule.
        ValueError: if two files have one id, or the classes cannot be read.

    Example:
        ```python
        >>> from cmdl_hf.data import load_folder

        >>> dataset = load_folder("my_data", id2label="my_data/classes.txt")
        >>> dataset["train"].train_test_split(test_size=0.2)
        ```
    """
    data_dir = Path(data_dir).expanduser().absolute()
    locate(data_dir, (_LAYOUT,), "The names of an image and its mask differ in the suffix only.")
    files: dict[str, SplitFiles] = {}
    for folder in _split_folders(data_dir):
        images = index_by_id(list_files(data_dir / "images" / folder, IMAGE_SUFFIXES))
        masks = index_by_id(list_files(data_dir / "masks" / folder, IMAGE_SUFFIXES))
        files[_SPLIT_OF[folder]] = pair_files(images, masks)
    return _load_files(files, id2label, data_dir, cache_dir, num_proc, skip_bad_files)


def load_pairs(
    pairs_file: str | Path,
    id2label: Classes,
    *,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    skip_bad_files: bool = False,
) -> SegmentationDataset:
    """Load own data from a list of images and masks.

    Args:
        pairs_file (`str` or `Path`): A .csv file, or a .jsonl file of an object per line, with the columns `image` and
            `mask` (paths, relative ones from the list's folder) and, if wanted, `split` (`train`, `val` or
            `validation`, `test`; without it everything is the train split).
        id2label (`str`, `Path`, `LabelTable`, `Mapping[int, str]` or `Sequence[str]`): As in `load_folder`.
        cache_dir (`str` or `Path`, *optional*): Where the prepared labels are kept.
        num_proc (`int`, *optional*): Processes that prepare.
        skip_bad_files (`bool`): Leave out files that break a rule, counted and listed.

    Returns:
        `SegmentationDataset`, as `load_benchmark` returns it. The ids are the images' paths without suffix.

    Raises:
        FileNotFoundError: if the list or a file it names is missing.
        BadDataError: if files break a rule.
        ValueError: if the list lacks a column, names an image twice or another split, or the classes cannot be read.
    """
    pairs_file = Path(pairs_file).expanduser().absolute()
    rows_of: dict[str, list[dict[str, str]]] = {}
    for row in _read_rows(pairs_file):
        folder = row.get("split") or ""
        if folder not in _SPLIT_OF:
            raise ValueError(f"{pairs_file}: {folder!r} is no split; known are {', '.join(filter(None, _SPLIT_OF))}")
        rows_of.setdefault(_SPLIT_OF[folder], []).append(row)
    files = {split: _pair_rows(rows, pairs_file.parent) for split, rows in rows_of.items()}
    return _load_files(files, id2label, pairs_file, cache_dir, num_proc, skip_bad_files)


def load_hub(
    path: str,
    id2label: Classes,
    *,
    image_column: str = "image",
    mask_column: str = "mask",
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    skip_bad_files: bool = False,
    **load_options: Any,
) -> SegmentationDataset:
    """Load a data set of the Hub, or a folder of Parquet files, that has a column of images and one of masks.

    Args:
        path (`str`): What `datasets.load_dataset` takes: `"organisation/name"`, or a folder.
        id2label (`str`, `Path`, `LabelTable`, `Mapping[int, str]` or `Sequence[str]`): As in `load_folder`.
        image_column (`str`): Name of the column of images.
        mask_column (`str`): Name of the column of masks, images of class ids.
        cache_dir (`str` or `Path`, *optional*): Where `datasets` keeps its files.
        num_proc (`int`, *optional*): Processes that prepare.
        skip_bad_files (`bool`): Leave out samples that break a rule, counted and listed.
        **load_options: Further arguments of `datasets.load_dataset`, such as `name` and `revision`.

    Returns:
        `SegmentationDataset`, as `load_benchmark` returns it, with the data set's own splits. The ids are its column
        `id` where it has one, else split and row.

    Raises:
        BadDataError: if samples break a rule.
        ValueError: if a column is missing or holds no images, or the classes cannot be read.
    """
    label_table = _label_table(id2label)
    cache = None if cache_dir is None else str(cache_dir)
    splits, bad_files = {}, []
    for split, rows in datasets.load_dataset(path, cache_dir=cache, num_proc=num_proc, **load_options).items():
        for column in (image_column, mask_column):
            if not isinstance(rows.features.get(column), datasets.Image):
                raise ValueError(f"{path} must have a column {column!r} of images; its columns are {rows.features}")
            rows = rows.cast_column(column, datasets.Image(decode=False))
        read = rows.map(
            partial(_read_row, split=split, columns=(image_column, mask_column), mapping=label_table.raw_to_train),
            with_indices=True,
            remove_columns=rows.column_names,
            features=datasets.Features(FEATURES | {"error": datasets.List(datasets.Value("string"))}),
            num_proc=num_proc,
        )
        errors = read["error"][:]
        bad_files += [BadFileError(Path(error[0]), *error[1:]) for error in errors if error]
        splits[split] = read.remove_columns("error").select([row for row, error in enumerate(errors) if not error])
    report_bad_files(bad_files, path, skip_bad_files and all(map(len, splits.values())))
    return SegmentationDataset(splits, label_table, bad_files)


def _load_files(
    files: Mapping[str, SplitFiles],
    id2label: Classes,
    source: Path,
    cache_dir: str | Path | None,
    num_proc: int | None,
    skip_bad_files: bool,
) -> SegmentationDataset:
    if not any(split_files.samples for split_files in files.values()):
        unpaired = "; ".join(split_files.describe_unpaired() for split_files in files.values())
        raise FileNotFoundError(f"{source} gives no pair of an image and a mask, but {unpaired or 'no files at all'}")
    builder = OwnFiles(files, _label_table(id2label), str(source), cache_dir)
    return builder.load(num_proc=num_proc, skip_bad_files=skip_bad_files)


def _label_table(id2label: Classes) -> LabelTable:
    if isinstance(id2label, LabelTable):
        return id2label
    if isinstance(id2label, str | Path):
        return LabelTable.from_file(id2label)
    return LabelTable.from_names(id2label)


def _split_folders(data_dir: Path) -> list[str]:
    """The folders of splits below images/ or masks/; an empty name where the files lie there themselves."""
    folders = [
        folder for folder in _SPLIT_OF if folder and any((data_dir / kind / folder).is_dir() for kind in _LAYOUT.needs)
    ]
    if {"val", "validation"} <= set(folders):
        raise ValueError(f"{data_dir} has both val and validation below images and masks; merge them")
    return folders or [""]


def _read_rows(pairs_file: Path) -> list[dict[str, str]]:
    text = pairs_file.read_text(encoding="utf-8-sig")
    if pairs_file.suffix.lower() == ".csv":
        rows: list[dict[str, str]] = list(csv.DictReader(text.splitlines()))
    elif pairs_file.suffix.lower() == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        raise ValueError(f"{pairs_file}: pairs are read from .csv and .jsonl files")
    for number, row in enumerate(rows, start=1):
        if not row.get("image") or not row.get("mask"):
            raise ValueError(f"{pairs_file}: entry {number} must have an image and a mask, found {row}")
    return rows


def _pair_rows(rows: Sequence[Mapping[str, str]], folder: Path) -> SplitFiles:
    ids = [Path(row["image"]).with_suffix("").as_posix() for row in rows]
    images = {id_: folder / row["image"] for id_, row in zip(ids, rows, strict=True)}
    masks = {id_: folder / row["mask"] for id_, row in zip(ids, rows, strict=True)}
    return pair_files(_existing(images), _existing(masks), ids)


def _existing(paths: Mapping[str, Path]) -> dict[str, Path]:
    return {id_: path for id_, path in paths.items() if path.is_file()}


def _read_row(
    row: dict[str, Any], index: int, split: str, columns: tuple[str, str], mapping: Mapping[int, int]
) -> dict[str, Any]:
    """Read a row of a data set as `FEATURES` have it, or say in `error` what is wrong."""
    image_column, mask_column = columns
    id_ = str(row.get("id", f"{split}_{index:06d}"))
    try:
        mask_path, mask = _image_bytes(row, mask_column, id_)
        label = map_ids(open_mask(mask_path, mask), mapping, mask_path)
        value = image_value(*_image_bytes(row, image_column, id_), label.size)
    except BadFileError as error:
        return {"image": None, "label": None, "id": id_, "error": [str(part) for part in error.args]}
    return {"image": value, "label": {"path": None, "bytes": encode_png(label)}, "id": id_, "error": None}


def _image_bytes(row: Mapping[str, Any], column: str, id_: str) -> tuple[Path, bytes | None]:
    """The file of an undecoded image; or what messages call it, and its bytes."""
    value = row[column]
    if value is None:
        raise BadFileError(Path(id_), f"the column {column!r} is empty", "fill it, or leave the row out")
    if value["bytes"] is None:
        return Path(value["path"]), None
    return Path(id_) / column, value["bytes"]
