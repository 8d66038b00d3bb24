"""Finding a data set's files: its folder, its layout, which mask belongs to which image."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .reading import BadFileError

_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk.

    Args:
        name (`str`): What the builder calls it.
        needs (`tuple[str, ...]`): Glob patterns relative to the data set's folder; each must match.
        num_images (`Mapping[str, int]`): Its splits, with the images each has when complete; empty for own data.
        tree (`str`): The layout as drawn in error messages.
    """

    name: str
    needs: tuple[str, ...]
    num_images: Mapping[str, int]
    tree: str

    def missing(self, folder: Path) -> list[str]:
        """The patterns that match nothing in `folder`."""
        return [pattern for pattern in self.needs if next(folder.glob(pattern), None) is None]


@dataclass(frozen=True)
class Sample:
    """An image and its mask; `mask` is `None` where the owner withholds the labels."""

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
        missing_ids (`list[str]`): Names in the split's list for which there is neither.
        id_errors (`list[BadFileError]`): Files that have one id, and names that the split's list has several times;
            they are in none of the other lists.
    """

    samples: list[Sample]
    images_without_mask: list[Path] = field(default_factory=list)
    masks_without_image: list[Path] = field(default_factory=list)
    missing_ids: list[str] = field(default_factory=list)
    id_errors: list[BadFileError] = field(default_factory=list)

    @property
    def is_paired(self) -> bool:
        """Whether nothing lacks its partner."""
        return not (self.images_without_mask or self.masks_without_image or self.missing_ids)

    @property
    def is_empty(self) -> bool:
        """Whether there are no files at all, neither good nor bad."""
        return not (self.samples or self.errors())

    def errors(self) -> list[BadFileError]:
        """Why files are in none of the samples."""
        cure = "add what is missing, or remove the file"
        return [
            *self.id_errors,
            *(BadFileError(path, "the image has no mask", cure) for path in self.images_without_mask),
            *(BadFileError(path, "the mask has no image", cure) for path in self.masks_without_image),
            *(
                BadFileError(Path(id_), "listed, but not there", "add it, or remove it from the list")
                for id_ in self.missing_ids
            ),
        ]

    def describe_unpaired(self) -> str:
        """Say how many files lack a partner, with the first of each."""
        kinds: list[tuple[str, Sequence[Path | str]]] = [
            ("image(s) without mask", self.images_without_mask),
            ("mask(s) without image", self.masks_without_image),
            ("listed name(s) without either", self.missing_ids),
        ]
        return ", ".join(f"{len(paths)} {kind} (first: {paths[0]})" for kind, paths in kinds if paths)


def absolute(path: str | Path) -> Path:
    """The absolute form of a path the caller named.

    Paths are made in this module rather than in those of builders, where `datasets` replaces `Path` by a class of its
    own that takes `::` in a name for an address.
    """
    return Path(path).expanduser().absolute()


def locate(data_dir: Path, layouts: Sequence[Layout], origin: str) -> Layout:
    """Recognise the layout of a folder.

    Args:
        data_dir (`Path`): The folder the caller named.
        layouts (`Sequence[Layout]`): Layouts to try, in this order.
        origin (`str`): Where the files come from, for the message.

    Returns:
        The first layout of which nothing is missing.

    Raises:
        FileNotFoundError: if there is no such folder, if one above or below it is the right one (which it names), or
            if parts are missing.
    """
    if data_dir.is_dir():
        for layout in layouts:
            if not layout.missing(data_dir):
                return layout
    expected = "\nor\n".join(layout.tree for layout in layouts)
    reason = _why_not(data_dir, layouts)
    raise FileNotFoundError(f"{reason}\nThe folder looked for is the one that holds\n{expected}\n{origin}")


def _why_not(data_dir: Path, layouts: Sequence[Layout]) -> str:
    if not data_dir.is_dir():
        what = "is a file" if data_dir.exists() else "does not exist"
        return f"{data_dir} {what}; correct data_dir (--data-dir), which must be the data set's folder"
    for folder in _neighbours(data_dir):
        layout = next((layout for layout in layouts if not layout.missing(folder)), None)
        if layout is None:
            continue
        if splits := _splits_beside(folder, layout):
            kinds = " and ".join(layout.needs)
            return (
                f"{folder.parent} has {kinds} below each of {', '.join(splits)}, but the splits must lie below "
                f"{kinds}: move {splits[0]}/{layout.needs[0]} to {layout.needs[0]}/{splits[0]}, and so on"
            )
        level = "above" if folder in data_dir.parents else "below"
        return f"{data_dir} is the wrong level: the data set lies {level} it; name {str(folder)!r} instead"
    nearest = min(layouts, key=lambda layout: len(layout.missing(data_dir)))
    missing = nearest.missing(data_dir)
    if len(missing) < len(nearest.needs):
        found = [pattern for pattern in nearest.needs if pattern not in missing]
        question = "is it half a download?" if nearest.num_images else "is that folder missing, or named otherwise?"
        return f"{data_dir} has {', '.join(found)} but not {', '.join(missing)}: {question}"
    return f"{data_dir} holds none of {', '.join(nearest.needs)}"


def _splits_beside(folder: Path, layout: Layout) -> list[str]:
    """The folders of splits at this level, each of which would pass for own data by itself."""
    if layout.num_images:
        return []
    return [name for name in _SPLIT_FOLDERS if not layout.missing(folder.parent / name)]


def _neighbours(folder: Path) -> Iterator[Path]:
    """The three folders above `folder`, then those one and two levels below it."""
    yield from list(folder.absolute().parents)[:3]
    below = sorted(child for child in folder.iterdir() if child.is_dir())
    yield from below
    for child in below:
        yield from sorted(grandchild for grandchild in child.iterdir() if grandchild.is_dir())


def list_files(folder: Path, suffixes: Sequence[str], pattern: str = "*") -> list[Path]:
    """The files of `folder` with one of `suffixes` in either case, sorted; hidden files are none of the data set's."""
    return sorted(
        path for path in folder.glob(pattern) if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def read_stems(list_file: Path) -> list[str]:
    """The names in a split's list: the stem of each line's first entry, be it a bare name or a path of its own."""
    lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    return [Path(line.split()[0]).stem for line in lines if line.strip()]


def stem(path: Path) -> str:
    """The id of a file that is named after its sample."""
    return path.stem


def index_by_id(paths: Iterable[Path], id_of: Callable[[Path], str] = stem) -> dict[str, list[Path]]:
    """Map ids to the files that have them, one each if all is well."""
    index: dict[str, list[Path]] = {}
    for path in paths:
        index.setdefault(id_of(path), []).append(path)
    return index


def pair_files(
    images: Mapping[str, Sequence[Path]], masks: Mapping[str, Sequence[Path]], ids: Sequence[str] | None = None
) -> SplitFiles:
    """Pair images and masks of one id.

    Args:
        images (`Mapping[str, Sequence[Path]]`): Images by id.
        masks (`Mapping[str, Sequence[Path]]`): Masks by id.
        ids (`Sequence[str]`, *optional*): The ids of the split in its order; without it, every id there is.

    Returns:
        The pairs, what lacks its partner, and what shares its id.
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
        yield BadFileError(path, f"it and {first} have one id, {id_!r}", "remove or rename one of them")


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
    """A split whose labels the owner withholds."""
    files = SplitFiles([])
    for id_, paths in images.items():
        files.id_errors += _shared_id(id_, paths)
        if len(paths) == 1:
            files.samples.append(Sample(id_, paths[0], None))
    return files


def digest_files(files: Mapping[str, SplitFiles]) -> str:
    """Digest the names, sizes and modification times of all samples' files."""
    digest = hashlib.sha256()
    for split, split_files in files.items():
        for sample in split_files.samples:
            for path in (sample.image, sample.mask):
                stat = path.stat() if path else None
                digest.update(repr((split, sample.id, str(path), stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return digest.hexdigest()
