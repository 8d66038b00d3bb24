"""Data sets of the Hub, and folders of Parquet files, with a column of images and a column of masks."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from ...files import open_regular
from ..label_table import Classes, LabelTable, to_label_table
from ..parquet import CLASSES_FILE, NAMES_FILE
from ..reading import BadFileError, encode_png, image_value, map_ids, open_mask
from .base import FEATURES, SegmentationDataset, report_bad_files

logger = logging.getLogger(__name__)


def load_hub(
    path: str,
    id2label: Classes | None = None,
    *,
    image_column: str = "image",
    mask_column: str = "mask",
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    skip_bad_files: bool = False,
    **load_options: Any,
) -> SegmentationDataset:
    """Load a data set of the Hub, or a folder of Parquet files, with a column of images and a column of masks.

    Args:
        path (`str`): `"organisation/name"` on the Hub, or a folder, as `datasets.load_dataset` takes it.
        id2label (`str`, `Path`, `LabelTable`, `Mapping[int, str]` or `Sequence[str]`, *optional*): As in
            `load_folder`. By default the classes are read from `label_table.csv` or `id2label.json` in the data set.
            `cmdl prepare` writes these files.
        image_column (`str`): Name of the column of images.
        mask_column (`str`): Name of the column of masks, which are images of class ids. Data sets written by
            `cmdl prepare` have `"label"`.
        cache_dir (`str` or `Path`, *optional*): Folder for the files of `datasets`.
        num_proc (`int`, *optional*): Number of processes that prepare labels.
        skip_bad_files (`bool`): Leave out samples that break a rule. A warning and `bad_files` of the result list
            them.
        **load_options: Further arguments of `datasets.load_dataset`, such as `name` and `revision`; not `split` or
            `streaming`, because all splits are read.

    Returns:
        `SegmentationDataset`, as `load_benchmark` returns it, with the data set's own splits. The ids are those of the
        column `id`, or else are made from split and row. If a split has no masks at all, all its labels are `None`.

    Raises:
        BadDataError: if samples break a rule, for example if some samples of a split have no mask.
        FileNotFoundError: if `id2label` is not given and the data set has no file of classes.
        ValueError: if a column is missing or is not a column of images, the classes cannot be read, or `split` or
            `streaming` is given.
    """
    for option in ("split", "streaming"):
        if value := load_options.get(option):
            raise ValueError(
                f"load_hub reads and checks every split of {path}, so {option}={value!r} cannot be used: leave "
                f"{option} out, and select a split of the result, such as load_hub(...)['train']"
            )
    label_table = _find_classes(path, load_options) if id2label is None else to_label_table(id2label)
    cache = None if cache_dir is None else str(cache_dir)
    splits, bad_files = {}, []
    for split, rows in datasets.load_dataset(path, cache_dir=cache, num_proc=num_proc, **load_options).items():
        for column in (image_column, mask_column):
            if not isinstance(rows.features.get(column), datasets.Image):
                raise ValueError(f"{path} must have a column {column!r} of images; its columns are {rows.features}")
        folders = _own_folders(path, rows.info.builder_name, cache, load_options)
        read = _read_rows(rows, split, (image_column, mask_column), label_table, folders, num_proc)
        errors = read["error"][:]
        bad_files += [BadFileError(Path(error[0]), *error[1:]) for error in errors if error]
        splits[split] = read.remove_columns("error").select([row for row, error in enumerate(errors) if not error])
    report_bad_files(bad_files, path, skip_bad_files and all(map(len, splits.values())))
    return SegmentationDataset(splits, label_table, bad_files)


def _find_classes(path: str, load_options: Mapping[str, Any]) -> LabelTable:
    """Read the classes from a file in the data set."""
    for name in (CLASSES_FILE, NAMES_FILE):
        if file := _find_file(path, name, load_options):
            return LabelTable.from_file(file)
    raise FileNotFoundError(
        f"{path} has neither {CLASSES_FILE} nor {NAMES_FILE} with the classes of its masks; pass id2label, the names "
        "of the classes or a file of them"
    )


def _find_file(path: str, name: str, load_options: Mapping[str, Any]) -> Path | None:
    """Find a file of a data set, and download it if necessary; `None` if there is no such file."""
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    options = {key: load_options[key] for key in ("revision", "token") if key in load_options}
    try:
        return Path(hf_hub_download(path, name, repo_type="dataset", **options))
    except EntryNotFoundError:
        return None


def _read_rows(
    rows: datasets.Dataset,
    split: str,
    columns: tuple[str, str],
    label_table: LabelTable,
    folders: tuple[Path, ...],
    num_proc: int | None,
) -> datasets.Dataset:
    """Read a split with the columns of `FEATURES`, and a column `error` with the problem of each bad row."""
    for column in columns:
        rows = rows.cast_column(column, datasets.Image(decode=False))
    image_column, mask_column = columns
    is_withheld = rows.data.column(mask_column).null_count == len(rows)
    if is_withheld:
        logger.info("no sample of %s has a mask: its labels are None", split)
    return rows.map(
        partial(
            _read_row,
            split=split,
            image_column=image_column,
            mask_column=None if is_withheld else mask_column,
            mapping=label_table.raw_to_train,
            folders=folders,
        ),
        with_indices=True,
        remove_columns=rows.column_names,
        features=datasets.Features(FEATURES | {"error": datasets.List(datasets.Value("string"))}),
        num_proc=num_proc,
    )


def _read_row(
    row: dict[str, Any],
    index: int,
    split: str,
    image_column: str,
    mask_column: str | None,
    mapping: Mapping[int, int],
    folders: tuple[Path, ...],
) -> dict[str, Any]:
    """Read a row of a data set with the columns of `FEATURES`. The column `error` holds its problem, or None."""
    id_ = str(row.get("id", f"{split}_{index:06d}"))
    label, size = None, None
    try:
        if mask_column is not None:
            mask_path, mask = _image_bytes(row, mask_column, id_, folders)
            mapped = map_ids(open_mask(mask_path, mask), mapping, mask_path)
            label, size = {"path": None, "bytes": encode_png(mapped)}, mapped.size
        image = image_value(*_image_bytes(row, image_column, id_, folders), size)
    except BadFileError as error:
        return {"image": None, "label": None, "id": id_, "error": [str(part) for part in error.args]}
    return {"image": image, "label": label, "id": id_, "error": None}


def _own_folders(
    path: str, builder_name: str | None, cache_dir: str | None, load_options: Mapping[str, Any]
) -> tuple[Path, ...]:
    """The folders that files of a data set may lie in: what the user named, or what `datasets` fetched for it.

    A row may name any path, and whoever made the data set chose it: another file of this machine would end up in the
    data, and with them on the Hub.
    """
    folders = [Path(folder) for folder in (path, load_options.get("data_dir")) if folder and Path(folder).is_dir()]
    if not folders:
        folders = [Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type="dataset")]
    if (builder_name or "").endswith("folder"):  # whose paths are from datasets, which unpacks archives there
        folders.append(Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "downloads")
    return tuple(folder.resolve() for folder in folders)


def _image_bytes(
    row: Mapping[str, Any], column: str, id_: str, folders: tuple[Path, ...]
) -> tuple[Path, bytes | None]:
    """Return a name for messages, and the bytes of an undecoded image."""
    value = row[column]
    if value is None:
        raise BadFileError(Path(id_), f"the column {column!r} is empty", "fill it, or leave the row out")
    name = Path(id_) / column
    if value["bytes"] is not None:
        return name, value["bytes"]
    path = Path(value["path"]).resolve()
    if not any(path.is_relative_to(folder) for folder in folders):
        raise BadFileError(
            name,
            f"names the file {value['path']}, which lies outside the data set",
            "write the bytes of images into the rows, as datasets' embed_external_files does",
        )
    with open_regular(path) as stream:
        return name, stream.read()
