"""`cmdl prepare` and `cmdl check-data`: data sets as files."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..plugins import import_plugins
from .options import Plugins


def prepare(
    name: str,
    /,
    *,
    data_dir: Path,
    out: Path,
    plugin: Plugins = (),
    push: str | None = None,
    private: bool = True,
    splits: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    skip_bad_files: bool = False,
) -> None:
    """Write a public data set as Parquet with a card: datasets.load_dataset reads and streams it.

    Args:
        name: ade20k, camvid, cityscapes, coco_stuff, or what a plug-in registers.
        data_dir: Folder of the data set as its owner distributes it.
        out: Folder to write; must be new or empty.
        push: Also upload it to the Hub as ORG/NAME.
        private: Whether only its owners see the data set that --push makes; few owners allow to pass files on.
        splits: Splits to write, of train, validation and test; omitted, all.
        skip_bad_files: Leave out files that break a rule; they are listed here and in the card.
    """
    import_plugins(plugin)
    from ..data import prepare
    from ..hub import check_can_push_dataset, push_dataset

    if push is not None:
        check_can_push_dataset(push)
    dataset = prepare(name, data_dir, out, push, splits, skip_bad_files)
    if push is not None:
        push_dataset(out, push, private)
    for split, rows in dataset.items():
        print(f"{split}: {len(rows):,} images")
    print(f"Saved to {out}: load it with datasets.load_dataset({str(out)!r})")
    if push is not None:
        print(f"Pushed to {push}: load it with datasets.load_dataset({push!r})")


def check_data(
    name: str,
    /,
    *,
    data_dir: Path | None = None,
    id2label: Path | None = None,
    plugin: Plugins = (),
    splits: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    contact_sheet: Path = Path("outputs/contact_sheet.png"),
) -> None:
    """Look through all files of a data set, print what is in them and what is wrong, and draw some.

    The exit status is 1 if anything is wrong.

    Args:
        name: ade20k, camvid, cityscapes, coco_stuff, what a plug-in registers, or a folder of own images/ and masks/.
        data_dir: Folder of the public data set.
        id2label: File with the names of the classes of own data: .txt, .json or .csv.
        splits: Splits of the public data set to check; omitted, all.
        contact_sheet: PNG file for images beside their overlays.
    """
    import_plugins(plugin)
    from ..data import check_data, format_report

    report, is_drawn = check_data(name, contact_sheet, data_dir, id2label, splits)
    print(format_report(report))
    if is_drawn:
        print(f"contact sheet: {contact_sheet}")
    sys.exit(1 if report.errors else 0)
