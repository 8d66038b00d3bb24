"""An example of your own benchmark: the Oxford-IIIT Pet data set, with the classes pet and background.

    cmdl check-data oxford_pets --data-dir path/to/pets --plugin examples/plugins/oxford_pets.py
    cmdl train own --benchmark oxford_pets --data-dir path/to/pets --plugin examples/plugins/oxford_pets.py

Reference: "Cats and Dogs" (CVPR 2012), https://www.robots.ox.ac.uk/~vgg/data/pets/.
"""

from pathlib import Path

from cmdl_hf.data import (
    Benchmark,
    BenchmarkBuilder,
    LabelTable,
    Layout,
    SplitFiles,
    index_by_id,
    list_files,
    pair_files,
    read_stems,
    register_benchmark,
)

OXFORD_PETS = Benchmark(
    name="oxford_pets",
    title="Oxford-IIIT Pet",
    label_table=LabelTable.from_file(Path(__file__).with_name("oxford_pets.csv")),  # trimaps contain 1, 2 and 3
    layouts=(
        Layout(
            "owner's",
            needs=("images", "annotations/trimaps"),
            num_images={"train": 3680, "test": 3669},
            tree="""\
DIR/
  images/X.jpg
  annotations/trimaps/X.png
  annotations/{trainval,test}.txt""",
        ),
    ),
    homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    license="CC BY-SA 4.0",
    citation="@inproceedings{parkhi2012cats, title={Cats and Dogs}, author={Parkhi, Omkar M. and Vedaldi, Andrea and "
    "Zisserman, Andrew and Jawahar, C. V.}, booktitle={CVPR}, year={2012}}",
)


@register_benchmark
class OxfordPets(BenchmarkBuilder):
    """Builder of the Oxford-IIIT Pet data set; the border between pet and background is ignored."""

    benchmark = OXFORD_PETS

    def find_files(self) -> dict[str, SplitFiles]:
        """Find the files of both splits, in the order of the split lists."""
        images = index_by_id(list_files(self.data_dir / "images", (".jpg",)))
        masks = index_by_id(list_files(self.data_dir / "annotations" / "trimaps", (".png",)))
        lists = {"train": "trainval.txt", "test": "test.txt"}
        return {
            split: pair_files(images, masks, read_stems(self.data_dir / "annotations" / name))
            for split, name in lists.items()
        }
