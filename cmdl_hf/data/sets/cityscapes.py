"""Cityscapes: 5000 finely annotated frames (2048×1024) of 50 cities, 19 classes.

Source of `labels/cityscapes.csv`: cityscapesscripts/helpers/labels.py of github.com/mcordts/cityscapesScripts.
"""

from pathlib import Path

from ..label_table import LabelTable
from ..listing import Layout, SplitFiles, index_by_id, list_files, pair_files, unlabelled
from ..reading import IMAGE_SUFFIXES
from .benchmark import Benchmark, BenchmarkBuilder, register_benchmark

CITYSCAPES = Benchmark(
    name="cityscapes",
    title="Cityscapes",
    label_table=LabelTable.of("cityscapes"),
    layouts=(
        Layout(
            "gtFine",
            needs=("leftImg8bit", "gtFine"),
            num_images={"train": 2975, "validation": 500, "test": 1525},
            tree="""\
DIR/
  leftImg8bit/{train,val,test}/CITY/X_leftImg8bit.png
  gtFine/{train,val}/CITY/X_gtFine_labelIds.png         or X_gtFine_labelTrainIds.png""",
        ),
    ),
    homepage="https://www.cityscapes-dataset.com (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)",
    license="Cityscapes terms of use, non-commercial",
    citation="""\
@inproceedings{cordts2016cityscapes,
  title={The Cityscapes Dataset for Semantic Urban Scene Understanding},
  author={Cordts, Marius and Omran, Mohamed and Ramos, Sebastian and Rehfeld, Timo and Enzweiler, Markus and
    Benenson, Rodrigo and Franke, Uwe and Roth, Stefan and Schiele, Bernt},
  booktitle={Proc. of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2016}
}""",
    unlabelled_splits=("test",),
    crop_size=(512, 1024),
)

_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_IMAGE_ENDING = "_leftImg8bit"
_RAW_ENDING = "_gtFine_labelIds"
_READY_ENDING = "_gtFine_labelTrainIds"


@register_benchmark
class Cityscapes(BenchmarkBuilder):
    """Builder of Cityscapes with 19 classes.

    Note:
        Labels of the test split are `None`, because the files in gtFine/test are placeholders without classes.
    """

    benchmark = CITYSCAPES

    def find_files(self) -> dict[str, SplitFiles]:
        """Find the frames of every split. Files of labelTrainIds are used if those of labelIds are missing."""
        files = {}
        for split, folder in _FOLDERS.items():
            images = self._index("leftImg8bit", folder, _IMAGE_ENDING)
            if split in self.benchmark.unlabelled_splits:
                files[split] = unlabelled(images)
                continue
            masks = self._index("gtFine", folder, _READY_ENDING) | self._index("gtFine", folder, _RAW_ENDING)
            files[split] = pair_files(images, masks)
        return files

    def mask_table(self, path: Path) -> LabelTable:
        """Return the table of labelIds, or of labelTrainIds."""
        return self.label_table.of_train_ids if path.stem.endswith(_READY_ENDING) else self.label_table

    def _index(self, kind: str, folder: str, ending: str) -> dict[str, list[Path]]:
        paths = list_files(self.data_dir / kind / folder, IMAGE_SUFFIXES, "*/*")
        return index_by_id(
            (path for path in paths if path.stem.endswith(ending)), lambda path: path.stem.removesuffix(ending)
        )
