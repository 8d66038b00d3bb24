"""The commands `cmdl prepare` and `cmdl check-data` for data sets."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..escaping import one_line
from ..plugins import import_plugins
from .options import Plugins, logging_to_terminal
from .train import find_plugins, parse_recipe


@dataclass(kw_only=True)
class OwnMasks:
    """How own masks are turned into class ids.

    Args:
        source: rgb: masks of colours. coco: polygons and RLE of COCO's JSON files of instances.
        colors: For rgb, names and colours of the classes: .csv (name,red,green,blue, or a label table), .json or .txt.
        tolerance: For rgb, largest difference of each channel from a colour of the table. What is farther is ignored
            and counted. JPEG masks need about 40.
        annotations: For coco, the JSON files. With several, the name of each or of its folder holds its split.
        background: For coco, whether pixels of no annotation are class 0, background, or else are ignored (255).
    """

    source: Annotated[Literal["rgb", "coco"] | None, Parameter(name="--from")] = None
    colors: Path | None = None
    tolerance: int = 0
    annotations: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative=())] = ()
    background: bool = True


_OWN_MASKS = OwnMasks()


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
    masks: Annotated[OwnMasks, Parameter(name="*")] = _OWN_MASKS,
) -> None:
    """Write a public data set as Parquet with a data set card. datasets.load_dataset can read and stream it.

    cmdl prepare own --from rgb or coco writes your own images with masks of class ids instead, for cmdl train own.

    Args:
        name: ade20k, camvid, cityscapes, coco_stuff, the name of a benchmark that a plug-in registers, or own.
        data_dir: Folder with the files of the data set as its owner distributes them, or with your own images.
        out: Folder to write to. It must be new or empty.
        push: Also upload the data set to the Hub, as ORG/NAME.
        private: Whether the data set that --push creates is private. Few licences allow you to share the files.
        splits: Splits to write: train, validation, test. Default: all.
        skip_bad_files: Skip files that break a rule. The output and the data set card list them.
    """
    import_plugins(plugin)
    if name == "own":
        if push is not None or splits or skip_bad_files:
            raise ValueError("own data have neither --push, nor --splits, nor --skip-bad-files; leave them out")
        _prepare_own(data_dir, out, masks)
        return
    if masks != _OWN_MASKS:
        raise ValueError(f"--from and the options of own masks are for own data, not for {name}; leave them out")
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


def _prepare_own(data_dir: Path, out: Path, masks: OwnMasks) -> None:
    """Turn own masks into class ids, and print what was written."""
    from ..data import prepare_from_coco, prepare_from_colours

    with logging_to_terminal():
        if masks.source == "rgb" and masks.colors is not None and not masks.annotations and masks.background:
            counts = prepare_from_colours(data_dir, masks.colors, out, masks.tolerance)
        elif masks.source == "coco" and masks.annotations and masks.colors is None and not masks.tolerance:
            counts = prepare_from_coco(data_dir, masks.annotations, out, masks.background)
        else:
            raise ValueError(
                "own data need --from rgb --colors FILE [--tolerance N], or --from coco --annotations FILE "
                "[--no-background]"
            )
    for split, count in counts.items():
        print(f"{split}: {count:,} images")
    print(f"Saved to {out}: train with cmdl train own --data-dir {out} --id2label {out / 'label_table.csv'}")


def check_data(
    name: str | None = None,
    /,
    *,
    augmented: str | None = None,
    data_dir: Path | None = None,
    id2label: Path | None = None,
    plugin: Plugins = (),
    splits: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    merge_classes: Path | None = None,
    contact_sheet: Path | None = None,
) -> None:
    """Check all files of a data set, print statistics and errors, and draw some images with their labels.

    The exit status is 1 if there are errors.

    Args:
        name: ade20k, camvid, cityscapes, coco_stuff, the name of a benchmark that a plug-in registers, or the folder
            or the list of pairs of your own images and masks.
        augmented: Name of a recipe, or a YAML file. Check nothing, but draw eight training images as the transforms of
            this recipe leave them: the first eight that a run trains on. Leave out NAME: the recipe names the data
            set.
        data_dir: Folder of a public data set; with --augmented also of your own data.
        id2label: File with the class names of your own data: .txt, .json or .csv.
        splits: Splits of a public data set to check. Default: all.
        merge_classes: CSV file with the columns from and to that merges or drops classes, as for cmdl train.
        contact_sheet: PNG file that shows images beside their overlays. Default: outputs/contact_sheet.png, or
            outputs/augmented.png.
    """
    import_plugins(plugin)
    if augmented is not None and name is None:
        _draw_augmented(augmented, contact_sheet or Path("outputs/augmented.png"), data_dir, id2label, plugin)
        return
    if name is None or augmented is not None:
        raise ValueError("name a data set, to check it, or a recipe with --augmented RECIPE, to see training images")
    contact_sheet = contact_sheet or Path("outputs/contact_sheet.png")
    from ..data import check_data, format_report

    report, is_drawn = check_data(name, contact_sheet, data_dir, id2label, splits, merge_classes)
    print(format_report(report))
    if is_drawn:
        print(f"contact sheet: {contact_sheet}")
    sys.exit(1 if report.errors else 0)


def _draw_augmented(
    recipe: str, sheet: Path, data_dir: Path | None, id2label: Path | None, plugin: Sequence[str]
) -> None:
    """Draw training images of a recipe, and print their ids."""
    from ..training import draw_augmented

    words = [recipe, *(word for name in plugin for word in ("--plugin", name))]
    ids = draw_augmented(find_plugins(parse_recipe(words), recipe), sheet, data_dir, id2label)
    print(one_line(f"training images: {', '.join(ids)}"))
    print(f"contact sheet: {sheet}")
