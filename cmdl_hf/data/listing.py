"""Finds the files of a data set: its folder, its layout, and pairs of images and masks."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files import read_utf8
from .reading import BadFileError


@dataclass(frozen=True)
class Layout:
    """Folder layout of a data set on disk.

    Args:
        name (`str`): Name of the layout.
        needs (`tuple[str, ...]`): Glob patterns relative to the folder of the data set. Each must match.
        num_images (`Mapping[str, int]`): Number of images of each complete split.
        tree (`str`): The folders and files, as error messages show them.
    """

    name: str
    needs: tuple[str, ...]
    num_images: Mapping[str, int]
    tree: str

    def missing(self, folder: Path) -> list[str]:
        """Return the patterns that match nothing in `folder`."""
        return [pattern for pattern in self.needs if next(folder.glob(pattern), None) is None]


@dataclass(frozen=True)
class Sample:
    """An image and its mask. `mask` is `None` if the owner withholds the labels."""

    id: str
    image: Path
    mask: Path | None


@dataclass
class SplitFiles:
    """The files of one split.

    Args:
        samples (`list[Sample]`): Pairs, in the split's order.
        images_without_mask (`list[Path]`): Images whose mask is missing.
        masks_without_image (`list[Path]`): Masks whose image is missing.
        missing_ids (`list[str]`): Names in the split's list without image and mask.
        id_errors (`list[BadFileError]`): Files that share an id, and names that occur several times in the split's
            list. They are not in the other lists.
    """

    samples: list[Sample]
    images_without_mask: list[Path] = field(default_factory=list)
    masks_without_image: list[Path] = field(default_factory=list)
    missing_ids: list[str] = field(default_factory=list)
    id_errors: list[BadFileError] = field(default_factory=list)

    @property
    def is_paired(self) -> bool:
        """Whether every image has a mask and every mask has an image."""
        return not (self.images_without_mask or self.masks_without_image or self.missing_ids)

    @property
    def is_empty(self) -> bool:
        """Whether there are no files at all."""
        return not (self.samples or self.errors())

    def errors(self) -> list[BadFileError]:
        """Return the reasons why files do not belong to a sample."""
        cure = "add the missing file, or remove this file"
        return [
            *self.id_errors,
            *(BadFileError(path, "the image has no mask", cure) for path in self.images_without_mask),
            *(BadFileError(path, "the mask has no image", cure) for path in self.masks_without_image),
            *(
                BadFileError(Path(id_), "listed, but missing", "add the files, or remove the name from the list")
                for id_ in self.missing_ids
            ),
        ]

    def describe_unpaired(self) -> str:
        """Describe how many files have no partner, with the first of each kind."""
        kinds: list[tuple[str, Sequence[Path | str]]] = [
            ("image(s) without mask", self.images_without_mask),
            ("mask(s) without image", self.masks_without_image),
            ("listed name(s) without either", self.missing_ids),
        ]
        return ", ".join(f"{len(paths)} {kind} (first: {paths[0]})" for kind, paths in kinds if paths)


def absolute(path: str | Path) -> Path:
    """Return the absolute form of a path.

    This function is not in the modules of the builders, because `datasets` replaces `Path` there by its own class,
    which reads `::` in a name as part of a URL.
    """
    return Path(path).expanduser().absolute()


def locate(data_dir: Path, layouts: Sequence[Layout], origin: str) -> Layout:
    """Recognise the layout of a folder.

    Args:
        data_dir (`Path`): The folder of the data set.
        layouts (`Sequence[Layout]`): Layouts to try, in this order.
        origin (`str`): Source of the files, for the message.

    Returns:
        The first complete layout.

    Raises:
        FileNotFoundError: if the folder does not exist or is incomplete. If a folder above or below it is the right
            one, the message names that folder.
    """
    if data_dir.is_dir():
        for layout in layouts:
            if not layout.missing(data_dir):
                return layout
    expected = "\nor\n".join(layout.tree for layout in layouts)
    reason = _why_not(data_dir, layouts)
    raise FileNotFoundError(f"{reason}\nThe folder of the data set must hold\n{expected}\n{origin}")


def _why_not(data_dir: Path, layouts: Sequence[Layout]) -> str:
    if not data_dir.is_dir():
        what = "is a file" if data_dir.exists() else "does not exist"
        return f"{data_dir} {what}; correct data_dir (--data-dir), which must be the data set's folder"
    for folder in _neighbours(data_dir):
        if any(not layout.missing(folder) for layout in layouts):
            level = "above" if folder in data_dir.parents else "below"
            return f"{data_dir} is the wrong level: the data set lies {level} it; name {str(folder)!r} instead"
    nearest = min(layouts, key=lambda layout: len(layout.missing(data_dir)))
    missing = nearest.missing(data_dir)
    if len(missing) < len(nearest.needs):
        found = [pattern for pattern in nearest.needs if pattern not in missing]
        return f"{data_dir} has {', '.join(found)} but not {', '.join(missing)}: is the download incomplete?"
    return f"{data_dir} holds none of {', '.join(nearest.needs)}"


def _neighbours(folder: Path) -> Iterator[Path]:
    """Yield the three folders above `folder`, then the folders one and two levels below it."""
    yield from list(folder.absolute().parents)[:3]
    below = sorted(child for child in folder.iterdir() if child.is_dir())
    yield from below
    for child in below:
        yield from sorted(grandchild for grandchild in child.iterdir() if grandchild.is_dir())


def list_files(folder: Path, suffixes: Sequence[str], pattern: str = "*") -> list[Path]:
    """Return the files of `folder` with one of `suffixes` (any case), sorted, without hidden files."""
    return sorted(
        path for path in folder.glob(pattern) if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def read_stems(list_file: Path) -> list[str]:
    """Read the names in a split's list: the stem of the first entry of each line, which may be a name or a path."""
    lines = read_utf8(list_file).splitlines()
    return [Path(line.split()[0]).stem for line in lines if line.strip()]


def stem(path: Path) -> str:
    """Return the name of a file without suffix, as its id."""
    return path.stem


def index_by_id(paths: Iterable[Path], id_of: Callable[[Path], str] = stem) -> dict[str, list[Path]]:
    """Map each id to its files. There should be one file for each id."""
    index: dict[str, list[Path]] = {}
    for path in paths:
        index.setdefault(id_of(path), []).append(path)
    return index


def pair_files(
    images: Mapping[str, Sequence[Path]], masks: Mapping[str, Sequence[Path]], ids: Sequence[str] | None = None
) -> SplitFiles:
    """Pair images and masks with the same id.

    Args:
        images (`Mapping[str, Sequence[Path]]`): Images by id.
        masks (`Mapping[str, Sequence[Path]]`): Masks by id.
        ids (`Sequence[str]`, *optional*): The ids of the split, in its order; by default all ids.

    Returns:
        The pairs, the files without partner, and the files that share an id.
    """
    files = SplitFiles([])
    for id_, count in Counter([*dict.fromkeys((*images, *masks))] if ids is None else ids).items():
        found = images.get(id_, ()), masks.get(id_, ())
        if errors := [error for paths in found for error in _shared_id(id_, paths)]:
            files.id_errors += errors
        elif count > 1:
            problem = f"the split's list names it {count} times"
            files.id_errors.append(BadFileError(Path(id_), problem, "remove the other lines"))
        else:
            _pair(id_, *found, files)
    return files


def _shared_id(id_: str, paths: Sequence[Path]) -> Iterator[BadFileError]:
    for path in paths[1:]:
        first = f"{paths[0].parent.name}/{paths[0].name}"
        yield BadFileError(path, f"this file and {first} have the same id {id_!r}", "remove or rename one of them")


def _pair(id_: str, images: Sequence[Path], masks: Sequence[Path], files: SplitFiles) -> None:
    """Add at most one image and at most one mask to `files`."""
    if images and masks:
        files.samples.append(Sample(id_, images[0], masks[0]))
    elif images:
        files.images_without_mask.append(images[0])
    elif masks:
        files.masks_without_image.append(masks[0])
    else:
        files.missing_ids.append(id_)


def unlabelled(images: Mapping[str, Sequence[Path]]) -> SplitFiles:
    """List the files of a split whose labels the owner withholds."""
    files = SplitFiles([])
    for id_, paths in images.items():
        files.id_errors += _shared_id(id_, paths)
        if len(paths) == 1:
            files.samples.append(Sample(id_, paths[0], None))
    return files


def digest_files(files: Mapping[str, SplitFiles]) -> str:
    """Return a digest of the names, sizes and modification times of the files of all samples; some may be missing."""
    digest = hashlib.sha256()
    for split, split_files in files.items():
        for sample in split_files.samples:
            for path in (sample.image, sample.mask):
                stat = path.stat() if path and path.exists() else None
                digest.update(repr((split, sample.id, str(path), stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return digest.hexdigest()
