"""`cmdl prepare own`: turns masks of colours, or COCO's annotations, into own data with masks of class ids."""

import csv
import io
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..files import make_folder, new_folder_in, walk_files, write_image, write_text
from ..progress import progress_bar
from .coco_masks import CocoFile, CocoImage, check_pycocotools, class_ids, draw_mask, find_split, read_coco
from .colour_masks import ColourReader, read_colour_table
from .label_table import COLUMNS, IGNORE_INDEX, LabelTable
from .listing import absolute, index_by_id
from .parquet import CLASSES_FILE, new_folder
from .reading import IMAGE_SUFFIXES, decode_colour_mask, image_value
from .sets.folder_shapes import SPLIT_OF, recognise

logger = logging.getLogger(__name__)

MAX_UNKNOWN = 0.01
"""Largest share of pixels with unknown colours; more is refused."""


def prepare_from_colours(
    data_dir: str | Path, colors: str | Path, output_dir: str | Path, tolerance: int = 0
) -> dict[str, int]:
    """Turn own data with masks of colours into own data with masks of class ids.

    Pixels of unknown colours become 255 (ignored). They are counted and reported.

    Args:
        data_dir (`str` or `Path`): A folder of images and masks, in any shape that `load_folder` reads.
        colors (`str` or `Path`): Names and colours of the classes, see [`read_colour_table`].
        output_dir (`str` or `Path`): Folder to write: `images/` (hard links, or copies on another disk), `masks/`,
            `classes.txt`, and `label_table.csv` with the colours. It must be empty or not exist.
        tolerance (`int`): See [`ColourReader`]. Masks stored with loss (JPEG) need about 40.

    Returns:
        `dict`: number of pairs by split.

    Raises:
        FileNotFoundError: if the shape is not recognised, or an image or a mask is missing.
        ValueError: if more than 1 % of the pixels have unknown colours; the message lists the most frequent.
        BadFileError: if a file cannot be read, or image and mask differ in size.
    """
    table = read_colour_table(colors)
    reader = ColourReader(table, tolerance)
    shape = recognise(absolute(data_dir))
    if errors := [error for files in shape.files.values() for error in files.errors()]:
        raise FileNotFoundError(f"{len(errors)} file(s) have no partner; the first: {errors[0]}")
    logger.info("%s: %s", data_dir, shape.describe())
    is_flat = shape.name.startswith("flat")
    pairs = [(split, sample) for split, files in shape.files.items() for sample in files.samples]
    with _unfinished(output_dir) as folder:
        for split, sample in progress_bar(pairs, desc="masks", unit="mask"):
            if sample.mask is None:
                continue
            mask = decode_colour_mask(sample.mask)
            image_value(sample.image, None, mask.size)
            place = "" if is_flat else split
            _add(folder, place, sample.id, sample.image)
            write_image(folder / "masks" / place / f"{sample.id}.png", reader.read(mask))
        if reader.unknown_share > MAX_UNKNOWN:
            raise ValueError(
                f"{100 * reader.unknown_share:.1f} % of the pixels have colours that {colors} does not list within "
                f"tolerance {tolerance}: {reader.describe_unknown()}; add them, or raise --tolerance (masks stored as "
                "JPEG need about 40)"
            )
        _write_classes(folder, table.of_train_ids)
    if reader.unknown:
        logger.warning("ignored (255), %.3f %%: %s", 100 * reader.unknown_share, reader.describe_unknown())
    return dict(Counter("train" if is_flat else split for split, _ in pairs))


def prepare_from_coco(
    data_dir: str | Path,
    annotations: Sequence[str | Path],
    output_dir: str | Path,
    has_background: bool = True,
) -> dict[str, int]:
    """Turn images with COCO's instance annotations into own data with masks of class ids.

    Categories are numbered in the order of their ids. Smaller instances lie on top of larger ones, by the areas that
    are drawn. Crowds are ignored (255) where no other instance lies.

    Args:
        data_dir (`str` or `Path`): Folder that holds the images, in any folders.
        annotations (`Sequence` of `str` or `Path`): JSON files of instances. With several, the name of each or of its
            folder must hold its split, such as `instances_train2017.json` or `valid/_annotations.coco.json`.
        output_dir (`str` or `Path`): As in [`prepare_from_colours`].
        has_background (`bool`): Pixels of no annotation are class 0, `background`; without it, 255.

    Returns:
        `dict`: number of pairs by split.

    Raises:
        FileNotFoundError: if a JSON file or an image is missing.
        ValueError: if a JSON file breaks a rule; the message names the file and the entry.
        ImportError: if pycocotools is not installed.
    """
    check_pycocotools()
    files = {_name_split(Path(path), len(annotations) > 1): read_coco(Path(path)) for path in annotations}
    if len(files) < len(annotations):
        raise ValueError("two files of annotations are of one split; merge them")
    first = next(iter(files.values()))
    for each in files.values():
        if each.categories != first.categories:
            raise ValueError(f"{each.path} has other categories than {first.path}; make them alike")
    train_ids, names = class_ids(first.categories, has_background)
    found = {split: _find_images(absolute(data_dir), each, split) for split, each in files.items()}
    with _unfinished(output_dir) as folder:
        for split, pairs in found.items():
            for image, path in progress_bar(pairs, desc="masks", unit="mask"):
                image_value(path, None, image.size)
                mask = draw_mask(image, train_ids, 0 if has_background else IGNORE_INDEX)
                _add(folder, split, path.stem, path)
                write_image(folder / "masks" / split / f"{path.stem}.png", mask)
        _write_classes(folder, LabelTable.from_names(names))
    return {split or "train": len(pairs) for split, pairs in found.items()}


def _name_split(path: Path, has_splits: bool) -> str:
    if not has_splits:
        return ""
    name = find_split(path, tuple(SPLIT_OF))
    if name is None:
        raise ValueError(f"neither {path.name} nor its folder names a split ({', '.join(SPLIT_OF)}); rename the file")
    return SPLIT_OF[name]


def _find_images(data_dir: Path, coco: CocoFile, split: str) -> list[tuple[CocoImage, Path]]:
    """Find the image of each entry below a folder by its name; a name never leads out of the folder."""
    if not data_dir.is_dir():
        raise FileNotFoundError(f"{data_dir} is no folder; correct the path of the images (--data-dir)")
    index = index_by_id((path for path in walk_files(data_dir) if path.suffix.lower() in IMAGE_SUFFIXES), _name)
    pairs, missing, stems = [], [], set[str]()
    for image in coco.images:
        paths = index.get(Path(image.file_name).name, [])
        if len(paths) > 1:
            parts = {name for name, each in SPLIT_OF.items() if each == split}
            paths = [path for path in paths if path.as_posix().endswith(f"/{image.file_name}")] or paths
            near = [path for path in paths if parts & {part.lower() for part in path.parent.parts}]
            paths = near if len(near) == 1 else [path for path in paths if path.parent == coco.path.parent] or paths
        if not paths:
            missing.append(image.file_name)
        elif len(paths) > 1 or paths[0].stem in stems:
            raise ValueError(f"{coco.path}: several images are called {paths[0].name}; give them different names")
        else:
            stems.add(paths[0].stem)
            pairs.append((image, paths[0]))
    if missing:
        raise FileNotFoundError(
            f"{coco.path} lists {len(missing)} image(s) that are not below {data_dir}, such as {missing[0]!r}; add "
            "them, correct --data-dir, or remove the entries"
        )
    return pairs


def _name(path: Path) -> str:
    return path.name


@contextmanager
def _unfinished(output_dir: str | Path) -> Iterator[Path]:
    """Give a folder that takes the place of `output_dir`, which must be new or empty, when the block ends well."""
    output_dir = new_folder(output_dir)
    folder = new_folder_in(output_dir.absolute().parent, ".writing-")
    try:
        yield folder
        output_dir.rmdir()
        os.replace(folder, output_dir)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _add(folder: Path, split: str, id_: str, image: Path) -> None:
    """Link or copy an image."""
    target = folder / "images" / split / f"{id_}{image.suffix.lower()}"
    make_folder(target.parent)
    try:
        os.link(image.resolve(), target)
    except OSError:  # another disk
        shutil.copyfile(image, target)


def _write_classes(folder: Path, table: LabelTable) -> None:
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in table.id2label.values()))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([COLUMNS, *((row.raw_id, row.train_id, row.name, *row.colour) for row in table.rows)])
    write_text(folder / CLASSES_FILE, text.getvalue())
