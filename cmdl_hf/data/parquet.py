"""Data sets as Parquet files, which `datasets.load_dataset` reads and streams from a folder or from the Hub."""

import csv
import io
import json
from pathlib import Path

import datasets
from datasets.table import embed_table_storage

from ..files import make_folder, new_file, write_text
from .label_table import COLUMNS, LabelTable
from .sets.base import FEATURES, SegmentationDataset

CLASSES_FILE = "label_table.csv"
"""File with ids, names and colours of the classes, for `LabelTable.from_file`."""

NAMES_FILE = "id2label.json"
"""File with ids and names of the classes, as is usual on the Hub."""

_ROWS_AT_A_TIME = 100


def write_parquet(
    dataset: SegmentationDataset, output_dir: str | Path, max_shard_bytes: int = 500_000_000
) -> datasets.DatasetInfo:
    """Write a data set as Parquet files, and its classes as `CLASSES_FILE` and `NAMES_FILE`.

    The Parquet files are written to `data/`. They hold the original bytes of the images. Labels hold train ids (255 =
    ignore), which must not be mapped again.

    Args:
        dataset (`SegmentationDataset`): The data set.
        output_dir (`str` or `Path`): Folder to write. It must be empty or not exist.
        max_shard_bytes (`int`): Approximate size of one file, in bytes. A file must fit into memory.

    Returns:
        `datasets.DatasetInfo`: columns, splits and sizes of the written data set.

    Raises:
        FileExistsError: if `output_dir` holds files.

    Example:
        ```python
        write_parquet(load_benchmark("camvid", "CamVid"), "camvid_parquet")
        train = datasets.load_dataset("camvid_parquet", split="train", streaming=True)
        ```
    """
    data_dir = make_folder(new_folder(output_dir) / "data")
    splits = datasets.SplitDict()
    for split, rows in dataset.items():
        num_bytes = _write_split(split, rows, data_dir, max_shard_bytes)
        splits[split] = datasets.SplitInfo(split, num_bytes, len(rows))
    _write_classes(dataset.label_table, data_dir.parent)
    return datasets.DatasetInfo(
        features=FEATURES,
        splits=splits,
        dataset_size=sum(split.num_bytes for split in splits.values()),
        download_size=sum(path.stat().st_size for path in data_dir.iterdir()),
    )


def new_folder(folder: str | Path) -> Path:
    """Make a folder. It must be empty or not exist.

    Raises:
        FileExistsError: if the folder holds files.
        LinkError: if the folder is a link.
    """
    folder = make_folder(Path(folder))
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    return folder


def _write_split(split: str, rows: datasets.Dataset, data_dir: Path, max_shard_bytes: int) -> int:
    """Write one split, and return the size of its samples in bytes."""
    num_bytes = 0
    shards = _shards(rows, max_shard_bytes)
    for index, shard in enumerate(shards):
        embedded = (
            rows.select(shard)
            .with_format("arrow")
            .map(
                embed_table_storage,
                batched=True,
                batch_size=_ROWS_AT_A_TIME,
                keep_in_memory=True,
                desc=f"{split}, file {index + 1} of {len(shards)}",
            )
        )
        with new_file(data_dir / f"{split}-{index:05d}-of-{len(shards):05d}.parquet") as unfinished:
            embedded.to_parquet(unfinished)
        num_bytes += embedded.data.nbytes
    return num_bytes


def _shards(rows: datasets.Dataset, max_bytes: int) -> list[range]:
    """Divide the rows of a split into ranges of about `max_bytes`."""
    shards, start, num_bytes = [], 0, 0
    for index, row in enumerate(_undecoded(rows)):
        row_bytes = sum(_num_bytes(row[column]) for column in ("image", "label"))
        if index > start and num_bytes + row_bytes > max_bytes:
            shards.append(range(start, index))
            start, num_bytes = index, 0
        num_bytes += row_bytes
    return [*shards, range(start, len(rows))]


def _undecoded(rows: datasets.Dataset) -> datasets.Dataset:
    for column in ("image", "label"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _num_bytes(value: dict[str, str | bytes | None] | None) -> int:
    if value is None:
        return 0
    content = value["bytes"]
    return Path(str(value["path"])).stat().st_size if content is None else len(content)


def _write_classes(label_table: LabelTable, output_dir: Path) -> None:
    names = json.dumps(label_table.id2label, indent=2, ensure_ascii=False)
    write_text(output_dir / NAMES_FILE, names + "\n")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    writer.writerows([row.raw_id, row.train_id, row.name, *row.colour] for row in label_table.of_train_ids.rows)
    write_text(output_dir / CLASSES_FILE, table.getvalue())
