"""The commands `cmdl prepare` and `cmdl check-data` for data sets."""

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
    """Write a public data set as Parquet with a data set card. datasets.load_dataset can read and stream it.

    Args:
        name: ade20k, camvid, cityscapes, coco_stuff, or the name of a benchmark that a plug-in registers.
        data_dir: Folder with the files of the data set as its owner distributes them.
        out: Folder to write to. It must be new or empty.
        push: Also upload the data set to the Hub, as ORG/NAME.
        private: Whether the data set that --push creates is private. Few licences allow you to share the files.
        splits: Splits to write: train, validation, test. Default: all.
        skip_bad_files: Skip files that break a rule. The output and the data set card list them.
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
    """Check all files of a data set, print statistics and errors, and draw some images with their labels.

    The exit status is 1 if there are errors.

    Args:
        name: ade20k, camvid, cityscapes, coco_stuff, the name of a benchmark that a plug-in registers, or a folder
            with your own images/ and masks/.
        data_dir: Folder of a public data set.
        id2label: File with the class names of your own data: .txt, .json or .csv.
        splits: Splits of a public data set to check. Default: all.
        contact_sheet: PNG file that shows images beside their overlays.
    """
    import_plugins(plugin)
    from ..data import check_data, format_report

    report, is_drawn = check_data(name, contact_sheet, data_dir, id2label, splits)
    print(format_report(report))
    if is_drawn:
        print(f"contact sheet: {contact_sheet}")
    sys.exit(1 if report.errors else 0)
