"""ADE20K as in the scene parsing challenge (ADEChallengeData2016): 22,210 labelled images, 150 classes.

Source of `labels/ade20k.csv`: objectInfo150.txt of the release, with the colours of the challenge's colour table in
github.com/CSAILVision/sceneparsing.
"""

from ..label_table import LabelTable
from ..listing import Layout, SplitFiles, index_by_id, list_files, pair_files, unlabelled
from ..reading import IMAGE_SUFFIXES
from .benchmark import Benchmark, BenchmarkBuilder, register_benchmark

ADE20K = Benchmark(
    name="ade20k",
    title="ADE20K",
    label_table=LabelTable.of("ade20k"),
    layouts=(
        Layout(
            "challenge",
            needs=("images/training", "annotations/training"),
            num_images={"train": 20210, "validation": 2000, "test": 3352},
            tree="""\
ADEChallengeData2016/
  images/{training,validation}/X.jpg
  annotations/{training,validation}/X.png
release_test/testing/X.jpg                  beside ADEChallengeData2016, optional: the test images""",
        ),
    ),
    homepage="http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip, release_test.zip)",
    license="images for non-commercial research and education, annotations BSD-3-Clause",
    citation="""\
@inproceedings{zhou2017scene,
  title={Scene Parsing through ADE20K Dataset},
  author={Zhou, Bolei and Zhao, Hang and Puig, Xavier and Fidler, Sanja and Barriuso, Adela and Torralba, Antonio},
  booktitle={Proc. of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2017}
}""",
    unlabelled_splits=("test",),
    resize=(512, 2048),
    crop_size=(512, 512),
)

_FOLDERS = {"train": "training", "validation": "validation"}


@register_benchmark
class Ade20k(BenchmarkBuilder):
    """Builder of ADE20K with 150 classes. The value 0 in the masks ("other") is ignored.

    Note:
        Labels of the test split are `None`, because they are not published.
    """

    benchmark = ADE20K

    def find_files(self) -> dict[str, SplitFiles]:
        """Find the images of every split."""
        files = {}
        for split, folder in _FOLDERS.items():
            images = index_by_id(list_files(self.data_dir / "images" / folder, IMAGE_SUFFIXES))
            masks = index_by_id(list_files(self.data_dir / "annotations" / folder, (".png",)))
            files[split] = pair_files(images, masks)
        test_dir = self.data_dir.parent / "release_test" / "testing"
        return files | {"test": unlabelled(index_by_id(list_files(test_dir, IMAGE_SUFFIXES)))}
