"""The command `cmdl compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path


def compare(*runs: Path, out: Path = Path("outputs/comparison")) -> None:
    """Compare finished runs: mean and spread over seeds, each class, and differences with their intervals.

    Runs that differ only in the seed are one group. Groups are named after the settings that differ, and compared with
    the group of the first run. All runs must have been scored on the same images by the same protocol. The test split
    is compared in detail if all runs were scored on it, otherwise the validation split.

    Every difference has two 95 % intervals. The one over images is a paired bootstrap: how much the difference depends
    on the choice of images. The one over seeds is Welch's t: how much it depends on the choice of seeds.

    Args:
        runs: Output folders of cmdl train.
        out: Folder for comparison.md, with all tables, and comparison.png.
    """
    show(runs, out)


def show(runs: Sequence[Path], out: Path) -> None:
    """Compare runs, and print the tables and where the files are."""
    from rich.console import Console

    from ..comparison import compare

    print(f"cmdl: comparing {len(runs)} runs, with resamples of their images", file=sys.stderr, flush=True)
    comparison = compare(runs, out)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    for table in comparison.tabulate():
        console.print(table.to_rich())
    print(f"page: {out / 'comparison.md'}\npicture: {out / 'comparison.png'}")
