"""What `cmdl prepare` does: a public data set as Parquet files with a card."""

from collections.abc import Sequence
from pathlib import Path

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
    """Write a public data set as Parquet with a card, for `datasets.load_dataset` and the Hub.

    Args:
        name (`str`): One of `BENCHMARKS`.
        data_dir (`str` or `Path`): The folder of the data set as its owner distributes it.
        output_dir (`str` or `Path`): Folder to write, for `datasets.load_dataset`; it must not exist or be empty.
        repo_id (`str`, *optional*): `"organisation/name"` on the Hub that the card's example loads; by default the
            name of the folder.
        splits (`Sequence[str]`, *optional*): Splits to write; by default all.
        skip_bad_files (`bool`): Leave out files that break a rule; the card lists them.

    Returns:
        `SegmentationDataset`: what was written.

    Raises:
        FileExistsError: if `output_dir` holds files.
        FileNotFoundError, ValueError: as `load_benchmark` raises them.
    """
    builder = make_builder(name, data_dir, splits=splits)
    output_dir = new_folder(output_dir)
    dataset = builder.load(skip_bad_files=skip_bad_files)
    info = write_parquet(dataset, output_dir)
    card = make_dataset_card(dataset, info, builder.benchmark, builder.layout, repo_id or output_dir.absolute().name)
    card.save(output_dir / "README.md")
    return dataset
