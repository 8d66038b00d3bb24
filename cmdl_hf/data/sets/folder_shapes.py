"""Recognises a folder of own images and masks: which files are images, which are masks, and of which split."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...files import walk_files
from ..listing import SplitFiles, index_by_id, pair_files
from ..reading import IMAGE_SUFFIXES
from .folder_tree import draw_tree
from .name_endings import SEPARATORS, Endings, find_endings_of_both, suffix_of_masks

SPLIT_OF = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Split for each name of a folder, in lower case, and for each value of the column `split` in a list of pairs."""

MASK_FOLDERS = ("masks", "labels", "annotations")
"""Names of a folder of masks beside `images`, in lower case."""

RULE = """\
DIR/images/X.jpg  and  DIR/masks/X.png                 everything is the train split
DIR/images/SPLIT/X.jpg  and  DIR/masks/SPLIT/X.png     images first
DIR/SPLIT/images/X.jpg  and  DIR/SPLIT/masks/X.png     split first
DIR/X.jpg  and  DIR/X_mask.png or DIR/X.png            one folder, also DIR/SPLIT/...
SPLIT is train, val (or valid, validation) or test. masks may be called labels or annotations. A mask has the name of
its image, or that name and one ending throughout, such as _mask, _label, _gt or _L. Images may have one ending
throughout, too, as X_sat.jpg with X_mask.png."""
"""The shapes that are recognised, as messages show them."""


@dataclass(frozen=True)
class FolderShape:
    """What was recognised.

    Args:
        name (`str`): The shape in words.
        files (`dict[str, SplitFiles]`): The files of every split.
        unused (`list[Path]`): Files beside images and masks that belong to no split.
    """

    name: str
    files: dict[str, SplitFiles]
    unused: list[Path]

    def describe(self) -> str:
        """Say in one line what was found."""
        counts = ", ".join(f"{len(files.samples):,} {split}" for split, files in self.files.items())
        return f"{self.name}: {counts}"


@dataclass(frozen=True)
class _Pile:
    """The files of one split: a folder of images and one of masks, or one folder with both."""

    images: Path
    masks: Path | None

    @property
    def folders(self) -> list[Path]:
        return [self.images] if self.masks is None else [self.images, self.masks]


@dataclass
class _Index:
    """Images and masks of a split by name, which is a path in the folder of the split without suffix.

    In one folder with both, all files count as images until `_take_apart` parts them.
    """

    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]
    is_mixed: bool


def recognise(data_dir: Path) -> FolderShape:
    """Recognise the shape of a folder of own data.

    Args:
        data_dir (`Path`): The folder, absolute.

    Raises:
        FileNotFoundError: if there is no such folder, or its shape is none of [`RULE`]. The message draws what was
            found, and names a folder above or below that has one of the shapes.
        ValueError: if a folder is no split, or two shapes, two folders of one split or of masks are there at once.
    """
    if not data_dir.is_dir():
        what = "is a file" if data_dir.exists() else "does not exist"
        raise FileNotFoundError(
            f"{data_dir} {what}; correct data_dir (--data-dir), which must be the data set's folder"
        )
    found = _find_piles(data_dir)
    if found is None:
        raise FileNotFoundError(f"{_explain(data_dir)}\nThe folder of own data must hold one of\n{RULE}")
    name, piles = found
    indices = {split: _index(pile) for split, pile in piles.items()}
    try:
        endings = _take_apart(list(indices.values()))
    except ValueError as error:
        raise ValueError(f"{data_dir}: {error}") from None
    files = {split: _pair(index, endings) for split, index in indices.items()}
    used = {
        path
        for index in indices.values()
        for paths in (*index.images.values(), *index.masks.values())
        for path in paths
    }
    return FolderShape(
        f"{name}, {endings.describe()}", files, [path for path in _list_files(name, piles) if path not in used]
    )


def _find_piles(data_dir: Path) -> tuple[str, dict[str, _Pile]] | None:
    """Find the folders of images and masks of every split; None if the shape is unknown."""
    splits = _piles_below(data_dir)
    top = _both(data_dir)
    if top is not None:
        if both := [pile.images.parent.name for pile in splits.values() if pile.masks is not None]:
            raise ValueError(
                f"{data_dir} holds images and masks of its own, and so does {both[0]} in it; move one of them away"
            )
        return _images_first(*top)
    if splits:
        is_one_folder = all(pile.masks is None for pile in splits.values())
        return ("split first, images and masks in one folder" if is_one_folder else "split first"), splits
    if _has_pairs(data_dir):
        return "flat, images and masks in one folder", {"train": _Pile(data_dir, None)}
    return None


def _images_first(images: Path, masks: Path) -> tuple[str, dict[str, _Pile]]:
    """Find the folders of splits below images and masks, or take the files that lie directly in them."""
    below = {kind: _folders(kind) for kind in (images, masks)}
    piles: dict[str, _Pile] = {}
    for name in dict.fromkeys(name for folders in below.values() for name in folders):
        if name.lower() not in SPLIT_OF:
            path = next(folders[name] for folders in below.values() if name in folders)
            raise ValueError(
                f"{path} is not a split; the splits are {', '.join(SPLIT_OF)}: rename this folder, or move it away"
            )
        pile = _Pile(images / name, masks / name)
        _add(piles, name, pile)
    if not piles:
        return f"flat, {images.name} and {masks.name}", {"train": _Pile(images, masks)}
    return f"images first, {images.name}/SPLIT and {masks.name}/SPLIT", _in_order(piles)


def _piles_below(data_dir: Path) -> dict[str, _Pile]:
    """Find the folders of splits that hold images and masks, in two folders or in one."""
    piles: dict[str, _Pile] = {}
    others: list[Path] = []
    for name, folder in _folders(data_dir).items():
        both = _both(folder)
        if name.lower() not in SPLIT_OF:
            others += [folder] if both is not None else []
        elif both is not None:
            _add(piles, name, _Pile(*both))
        elif _has_pairs(folder):
            _add(piles, name, _Pile(folder, None))
    if piles and others:
        raise ValueError(
            f"{others[0]} is not a split; the splits are {', '.join(SPLIT_OF)}: rename this folder, or move it away"
        )
    return _in_order(piles)


def _add(piles: dict[str, _Pile], name: str, pile: _Pile) -> None:
    split = SPLIT_OF[name.lower()]
    if split in piles:
        first = piles[split].images
        other = first.parent.name if first.name.lower() == "images" else first.name
        raise ValueError(f"{other} and {name} are both the {split} split of own data; merge the two folders")
    piles[split] = pile


def _in_order(piles: Mapping[str, _Pile]) -> dict[str, _Pile]:
    return {split: piles[split] for split in dict.fromkeys(SPLIT_OF.values()) if split in piles}


def _both(folder: Path) -> tuple[Path, Path] | None:
    """Return the folder of images and the folder of masks in a folder, if both are there."""
    folders = {name.lower(): path for name, path in _folders(folder).items()}
    masks = [folders[name] for name in MASK_FOLDERS if name in folders]
    if "images" not in folders or not masks:
        return None
    if len(masks) > 1:
        masks = [path for path in masks if any(map(_is_image, walk_files(path)))] or masks[:1]
    if len(masks) > 1:
        raise ValueError(
            f"{folder} holds {' and '.join(path.name for path in masks)}, and either may be the masks; move one away"
        )
    return folders["images"], masks[0]


def _take_apart(indices: Sequence[_Index]) -> Endings:
    """Find the endings of names, one of each throughout, and take the masks out of folders that hold both."""
    mixed = [index for index in indices if index.is_mixed]
    suffixes = {suffix_of_masks(index.images) for index in mixed}
    if mixed and None not in suffixes and len(suffixes) == 1:
        (suffix,) = suffixes
        for index in mixed:
            index.masks = _select(index.images, lambda path: path.suffix.lower() == suffix)
            index.images = _select(index.images, lambda path: path.suffix.lower() != suffix)
        return Endings("", "")
    endings = Endings("", _find_ending(indices))
    if not endings.masks and not _num_same(indices):
        endings = _find_both(indices) or endings
    if endings.masks:
        for index in mixed:
            index.masks = {id_: paths for id_, paths in index.images.items() if id_.endswith(endings.masks)}
            index.images = {id_: paths for id_, paths in index.images.items() if not id_.endswith(endings.masks)}
    return endings


def _find_both(indices: Iterable[_Index]) -> Endings | None:
    return find_endings_of_both((index.images, None if index.is_mixed else index.masks) for index in indices)


def _num_same(indices: Iterable[_Index]) -> int:
    """Count the images that have a mask of the same name."""
    return sum(0 if index.is_mixed else len(index.images.keys() & index.masks.keys()) for index in indices)


def _find_ending(indices: Sequence[_Index]) -> str:
    """Return what most masks' names have beyond those of their images; nothing if most have the same name."""
    endings: Counter[str] = Counter()
    for index in indices:
        for id_ in index.images if index.is_mixed else index.masks:
            endings.update(
                id_[end:] for end in range(1, len(id_)) if id_[end] in SEPARATORS and id_[:end] in index.images
            )
    ending, count = max(endings.items(), key=lambda item: (item[1], -len(item[0])), default=("", 0))
    return ending if count > _num_same(indices) else ""


def _select(files: Mapping[str, Sequence[Path]], is_wanted: Callable[[Path], bool]) -> dict[str, list[Path]]:
    kept = {id_: [path for path in paths if is_wanted(path)] for id_, paths in files.items()}
    return {id_: paths for id_, paths in kept.items() if paths}


def _pair(index: _Index, endings: Endings) -> SplitFiles:
    images = _without_ending(index.images, endings.images, is_strict=False)
    files = pair_files(images, _without_ending(index.masks, endings.masks))
    files.masks_without_image += [
        path for id_, paths in index.masks.items() if not id_.endswith(endings.masks) for path in paths
    ]
    return files


def _without_ending(files: Mapping[str, list[Path]], ending: str, is_strict: bool = True) -> dict[str, list[Path]]:
    """Name files without their ending; strictly, those without it are left out."""
    named: dict[str, list[Path]] = {}
    for id_, paths in files.items():
        if id_.endswith(ending) or not is_strict:
            named.setdefault(id_.removesuffix(ending), []).extend(paths)
    return named


def _has_pairs(folder: Path) -> bool:
    """Whether a folder itself holds images and masks that belong together: at least half of its images."""
    index = _index(_Pile(folder, None))
    if suffix_of_masks(index.images):
        return True
    ending = _find_ending([index])
    num_pairs = sum(id_.endswith(ending) and id_.removesuffix(ending) in index.images for id_ in index.images)
    if ending and 4 * num_pairs >= len(index.images):
        return True
    try:
        return _find_both([index]) is not None
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _list_files(name: str, piles: Mapping[str, _Pile]) -> Iterator[Path]:
    """List the files that should all be used: those below images and masks, and images in folders that hold both."""
    folders = dict.fromkeys(folder for pile in piles.values() for folder in pile.folders)
    if name.startswith("images first"):
        folders = dict.fromkeys(folder.parent for folder in folders)
    mixed = {pile.images for pile in piles.values() if pile.masks is None}
    for folder in folders:
        yield from (path for path in walk_files(folder) if folder not in mixed or _is_image(path))


def _index(pile: _Pile) -> _Index:
    """Map names to the images and masks of a split. Where both lie in one folder, folders below it are left alone."""
    if pile.masks is None:
        return _Index(_by_name(pile.images, sorted(pile.images.iterdir())), {}, is_mixed=True)
    images, masks = (_by_name(folder, walk_files(folder) if folder.is_dir() else []) for folder in pile.folders)
    return _Index(images, masks, is_mixed=False)


def _by_name(folder: Path, paths: Iterable[Path]) -> dict[str, list[Path]]:
    return index_by_id(filter(_is_image, paths), lambda path: path.relative_to(folder).with_suffix("").as_posix())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _folders(folder: Path) -> dict[str, Path]:
    """Map names to the folders directly in a folder, without hidden ones."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _explain(data_dir: Path) -> str:
    """Say why a folder is refused: its level is wrong, or what it holds instead."""
    for other in _neighbours(data_dir):
        if _is_recognised(other):
            level = "above" if other in data_dir.parents else "below"
            return f"{data_dir} is the wrong level: the data set lies {level} it; name {str(other)!r} instead"
    folders = {name.lower(): name for name in _folders(data_dir)}
    masks = [folders[name] for name in MASK_FOLDERS if name in folders]
    reason = "holds no images and masks in a shape that is recognised"
    if ("images" in folders) != bool(masks):
        there, missing = (folders["images"], "masks") if "images" in folders else (masks[0], "images")
        reason = f"has {there} but not {missing}: is that folder missing or renamed?"
    return f"{data_dir} {reason}\nFound in it:\n{draw_tree(data_dir)}"


def _is_recognised(folder: Path) -> bool:
    try:
        return _find_piles(folder) is not None
    except (OSError, ValueError):
        return False


def _neighbours(folder: Path) -> Iterator[Path]:
    """Yield the folders above that may be a data set, the higher first, then the folders one and two levels below."""
    yield from (parent for parent in reversed(list(folder.parents)[:2]) if _may_be_data(parent))
    below = list(_folders(folder).values())
    yield from below
    for child in below:
        yield from _folders(child).values()


def _may_be_data(folder: Path) -> bool:
    try:
        names = {name.lower() for name in _folders(folder)}
    except OSError:
        return False
    return "images" in names or bool(names & SPLIT_OF.keys())
