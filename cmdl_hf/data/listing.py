"""Finding a data set's files: its folder, its layout, which mask belongs to which image."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk.

    Args:
        name (`str`): What the builder calls it.
        needs (`tuple[str, ...]`): Glob patterns relative to the data set's folder; each must match.
        num_images (`Mapping[str, int]`): Its splits, with the images each has when complete.
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
    """

    samples: list[Sample]
    images_without_mask: list[Path] = field(default_factory=list)
    masks_without_image: list[Path] = field(default_factory=list)
    missing_ids: list[str] = field(default_factory=list)

    @property
    def is_paired(self) -> bool:
        """Whether nothing lacks its partner."""
        return not (self.images_without_mask or self.masks_without_image or self.missing_ids)

    def describe_unpaired(self) -> str:
        """Say how many files lack a partner, with the first of each."""
        kinds: list[tuple[str, Sequence[Path | str]]] = [
            ("image(s) without mask", self.images_without_mask),
            ("mask(s) without image", self.masks_without_image),
            ("listed name(s) without either", self.missing_ids),
        ]
        return ", ".join(f"{len(paths)} {kind} (first: {paths[0]})" for kind, paths in kinds if paths)


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
        return f"{data_dir} {what}; data_dir must be the data set's folder"
    for folder in _neighbours(data_dir):
        if any(not layout.missing(folder) for layout in layouts):
            level = "above" if folder in data_dir.parents else "below"
            return f"{data_dir} is the wrong level: the data set lies {level} it; pass data_dir={str(folder)!r}"
    nearest = min(layouts, key=lambda layout: len(layout.missing(data_dir)))
    missing = nearest.missing(data_dir)
    if len(missing) < len(nearest.needs):
        found = [pattern for pattern in nearest.needs if pattern not in missing]
        return f"{data_dir} has {', '.join(found)} but not {', '.join(missing)}: is it half a download?"
    return f"{data_dir} holds none of {', '.join(nearest.needs)}"


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


def index_by_id(paths: Iterable[Path], id_of: Callable[[Path], str] = stem) -> dict[str, Path]:
    """Map ids to files.

    Raises:
        ValueError: if two files have one id.
    """
    index: dict[str, Path] = {}
    for path in paths:
        other = index.setdefault(id_of(path), path)
        if other != path:
            raise ValueError(f"{other} and {path} have one id, {id_of(path)!r}; remove or rename one of them")
    return index


def pair_files(images: Mapping[str, Path], masks: Mapping[str, Path], ids: Sequence[str] | None = None) -> SplitFiles:
    """Pair images and masks of one id.

    Args:
        images (`Mapping[str, Path]`): Images by id.
        masks (`Mapping[str, Path]`): Masks by id.
        ids (`Sequence[str]`, *optional*): The ids of the split in its order; without it, every id there is.

    Returns:
        The pairs, and what lacks its partner.

    Raises:
        ValueError: if `ids` holds one id twice.
    """
    ids = [*images, *(id_ for id_ in masks if id_ not in images)] if ids is None else ids
    if len(set(ids)) < len(ids):
        repeated = next(id_ for position, id_ in enumerate(ids) if id_ in ids[:position])
        raise ValueError(f"the split's list names {repeated!r} twice; remove one of the lines")
    files = SplitFiles([])
    for id_ in ids:
        image, mask = images.get(id_), masks.get(id_)
        if image and mask:
            files.samples.append(Sample(id_, image, mask))
        elif image:
            files.images_without_mask.append(image)
        elif mask:
            files.masks_without_image.append(mask)
        else:
            files.missing_ids.append(id_)
    return files


def unlabelled(images: Mapping[str, Path]) -> SplitFiles:
    """A split whose labels the owner withholds."""
    return SplitFiles([Sample(id_, image, None) for id_, image in images.items()])


def digest_files(files: Mapping[str, SplitFiles]) -> str:
    """Digest the names, sizes and modification times of all samples' files."""
    digest = hashlib.sha256()
    for split, split_files in files.items():
        for sample in split_files.samples:
            for path in (sample.image, sample.mask):
                stat = path.stat() if path else None
                digest.update(repr((split, sample.id, str(path), stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return digest.hexdigest()
