"""COCO-Stuff: things and stuff in COCO's images, 171 classes; the 10k release (.mat masks) and the 164k release (PNG).

Source of `labels/coco_stuff.csv`: labels.txt of github.com/nightrome/cocostuff. It has the ids 1..182, of which 11
have no segmentation. The 171 classes are numbered without gaps, as usual. The colours are those of mmsegmentation's
palette. Raw ids are those of the 10k release. A mask of the 164k release holds the raw id minus 1, and 255 for
unlabelled.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from ...extras import install_command
from ...files import open_regular
from ..label_table import IGNORE_INDEX, LabelTable
from ..listing import Layout, SplitFiles, index_by_id, list_files, pair_files, read_stems
from ..reading import IMAGE_SUFFIXES, BadFileError, ids_to_image
from .benchmark import Benchmark, BenchmarkBuilder, register_benchmark

_10K = Layout(
    "10k",
    needs=("images", "annotations", "imageLists"),
    num_images={"train": 9000, "test": 1000},
    tree="""\
DIR/                                        COCO-Stuff 10k
  images/X.jpg
  annotations/X.mat
  imageLists/{train,test}.txt""",
)
_164K = Layout(
    "164k",
    needs=("images/*2017", "annotations/*2017"),
    num_images={"train": 118287, "validation": 5000},
    tree="""\
DIR/                                        COCO-Stuff 164k
  images/{train2017,val2017}/X.jpg
  annotations/{train2017,val2017}/X.png     or stuffthingmaps/""",
)
_164K_AS_ZIPPED = replace(_164K, needs=("images/*2017", "stuffthingmaps/*2017"))

COCO_STUFF = Benchmark(
    name="coco_stuff",
    title="COCO-Stuff",
    label_table=LabelTable.of("coco_stuff"),
    layouts=(_10K, _164K, _164K_AS_ZIPPED),
    homepage="https://github.com/nightrome/cocostuff",
    license="annotations CC BY 4.0, images under Flickr's terms of use",
    citation="""\
@inproceedings{caesar2018coco,
  title={COCO-Stuff: Thing and stuff classes in context},
  author={Caesar, Holger and Uijlings, Jasper and Ferrari, Vittorio},
  booktitle={Proc. of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2018}
}""",
    resize=(512, 2048),
    crop_size=(512, 512),
)

ALL_LABELS = LabelTable(
    tuple(replace(row, train_id=row.raw_id - 1 if row.raw_id else IGNORE_INDEX) for row in COCO_STUFF.label_table.rows)
)
"""All 182 classes. The 11 classes without segmentation are black."""

_FOLDERS_164K = {"train": "train2017", "validation": "val2017"}


@register_benchmark
class CocoStuff(BenchmarkBuilder):
    """Builder of COCO-Stuff. The folder layout determines the release.

    Args:
        data_dir (`str` or `Path`): The data set's folder.
        splits (`Sequence[str]`, *optional*): The splits to read.
        cache_dir (`str` or `Path`, *optional*): Where `datasets` keeps its Arrow files.
        num_classes (`int`): 171, or 182 to keep the classes without segmentation.

    Note:
        The 10k release has the splits train and test (both with labels), the 164k release train and validation.
    """

    benchmark = COCO_STUFF

    def __init__(
        self,
        data_dir: str | Path,
        splits: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        num_classes: int = 171,
    ) -> None:
        tables = {171: COCO_STUFF.label_table, 182: ALL_LABELS}
        if num_classes not in tables:
            raise ValueError(f"num_classes of COCO-Stuff must be 171 or 182, got {num_classes}")
        super().__init__(data_dir, splits, tables[num_classes], cache_dir)

    @classmethod
    def options_for(cls, num_labels: int) -> dict[str, Any]:
        """Select 182 classes for a model with 182 classes."""
        return {"num_classes": 182} if num_labels == 182 else {}

    def find_files(self) -> dict[str, SplitFiles]:
        """Find the files of every split of the release that `data_dir` holds."""
        if self.layout is _10K:
            return self._find_10k_files()
        masks_dir = self.data_dir / ("annotations" if self.layout is _164K else "stuffthingmaps")
        files = {}
        for split, folder in _FOLDERS_164K.items():
            images = index_by_id(list_files(self.data_dir / "images" / folder, IMAGE_SUFFIXES))
            # other tools write masks of train ids (X_labelTrainIds.png) into the same folder
            masks = index_by_id(path for path in list_files(masks_dir / folder, (".png",)) if "_" not in path.stem)
            files[split] = pair_files(images, masks)
        return files

    @property
    def owner_table(self) -> LabelTable:
        """The table of the 10k release, or of the 164k release, whose masks hold other ids."""
        return self.label_table if self.layout is _10K else _less_one(self.label_table)

    def mask_table(self, path: Path) -> LabelTable:
        """Return the table of the release."""
        return self.owner_table

    def read_ids(self, path: Path) -> Image.Image:
        """Read a mask of either release."""
        return _read_mat(path) if self.layout is _10K else super().read_ids(path)

    def _find_10k_files(self) -> dict[str, SplitFiles]:
        images = index_by_id(list_files(self.data_dir / "images", IMAGE_SUFFIXES))
        masks = index_by_id(list_files(self.data_dir / "annotations", (".mat",)))
        files = {}
        for split in _10K.num_images:
            list_file = self.data_dir / "imageLists" / f"{split}.txt"
            files[split] = pair_files(images, masks, read_stems(list_file) if list_file.is_file() else [])
        return files


@cache
def _less_one(table: LabelTable) -> LabelTable:
    """Return the table with the ids of 164k masks: raw ids minus 1, and 255 for unlabelled."""
    return LabelTable(tuple(replace(row, raw_id=(row.raw_id - 1) % 256) for row in table.rows))


def _read_mat(path: Path) -> Image.Image:
    """Read the matrix S of a .mat file (integers of any dtype) as an image (mode L)."""
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(f"COCO-Stuff 10k has .mat masks, which need scipy: {install_command('coco')}") from error
    with open_regular(path) as stream:
        content = stream.read()
    try:
        ids = loadmat(io.BytesIO(content), variable_names=["S"])["S"]
    except Exception as error:  # scipy raises errors of a dozen unrelated types on damaged files
        raise BadFileError(
            path, f"cannot be read as a .mat file with a matrix S ({len(content)} bytes: {error})", "fetch it again"
        ) from error
    return ids_to_image(ids, path)
