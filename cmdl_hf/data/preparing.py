"""`cmdl prepare`: writes a public data set as Parquet files with a data set card."""

from collections.abc import Sequence
from pathlib import Path

from ..files import write_text
from .dataset_card import make_dataset_card
from .loading import make_builder
from .parquet import new_folder, write_parquet
from .sets.base import SegmentationDataset


def prepare(
    name: str,
    data_dir: str | Path,
    output_dir: str | Path,
    repo_id: str | None = None,
    splits: Sequence[str] | None = None,
    skip_bad_files: bool = False,
) -> SegmentationDataset:
    """Write a public data set as Parquet files with a data set card, for `datasets.load_dataset` and the Hub.

    Args:
        name (`str`): One of `BENCHMARKS`.
        data_dir (`str` or `Path`): Folder of the data set, with the owner's original files.
        output_dir (`str` or `Path`): Folder to write. It must be empty or not exist.
        repo_id (`str`, *optional*): Repository `"organisation/name"` on the Hub for the example in the card; by
            default the name of the folder.
        splits (`Sequence[str]`, *optional*): Splits to write; by default all.
        skip_bad_files (`bool`): Leave out files that break a rule. The card lists them.

    Returns:
        `SegmentationDataset`: the written data set.

    Raises:
        FileExistsError: if `output_dir` holds files.
        FileNotFoundError, ValueError: as `load_benchmark` raises them.
    """
    builder = make_builder(name, data_dir, splits=splits)
    output_dir = new_folder(output_dir)
    dataset = builder.load(skip_bad_files=skip_bad_files)
    info = write_parquet(dataset, output_dir)
    card = make_dataset_card(dataset, info, builder.benchmark, builder.layout, repo_id or output_dir.absolute().name)
    write_text(output_dir / "README.md", str(card))
    return dataset
