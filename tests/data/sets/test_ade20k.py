import json

import numpy as np
import pytest

from cmdl_hf.data import LabelTable, load_benchmark


@pytest.fixture
def make_ade20k(tmp_path, write_image, write_mask):
    def make(folders=("training", "validation")):
        root = tmp_path / "ADEChallengeData2016"
        for folder in folders:
            write_image(root / "images" / folder / f"ADE_{folder}_1.jpg", size=(151, 1))
            write_mask(root / "annotations" / folder / f"ADE_{folder}_1.png", range(151), size=(151, 1))
        return root

    return make


def test_zero_is_ignored_and_the_rest_moves_down_by_one(make_ade20k, cache_dir, label_array):
    dataset = load_benchmark("ade20k", make_ade20k(), cache_dir=cache_dir)
    assert list(dataset) == ["train", "validation"]
    assert label_array(dataset["validation"][0]).ravel().tolist() == [255, *range(150)]
    assert (dataset.num_labels, dataset.id2label[149]) == (150, "flag")


def test_release_test_beside_the_folder_gives_a_split_without_labels(make_ade20k, cache_dir, write_image):
    root = make_ade20k()
    write_image(root.parent / "release_test" / "testing" / "ADE_test_1.jpg")
    test = load_benchmark("ade20k", root, cache_dir=cache_dir)["test"]
    assert (test[0]["id"], test[0]["label"]) == ("ADE_test_1", None)


def test_an_empty_split_is_named_with_the_cure(make_ade20k, cache_dir):
    root = make_ade20k(folders=["training"])
    with pytest.raises(FileNotFoundError, match=r"no files of the validation split.*splits=\['train'\]"):
        load_benchmark("ade20k", root, cache_dir=cache_dir)
    assert list(load_benchmark("ade20k", root, splits=["train"], cache_dir=cache_dir)) == ["train"]


def test_table_equals_the_source_row_by_row(shared_dir):
    source = json.loads((shared_dir / "data/tables/ade20k_150.json").read_text())
    ignored, *rows = LabelTable.of("ade20k").rows
    assert (ignored.raw_id, ignored.train_id) == (0, 255)
    assert len(rows) == len(source) == 150
    for row, label in zip(rows, source, strict=True):
        assert (row.raw_id, row.train_id, row.name) == (label["idx"], label["idx"] - 1, label["name"])
        assert list(row.colour) == label["color"]


def test_real_pairs(shared_dir, cache_dir, label_array):
    folder = shared_dir / "data/ade20k/ADEChallengeData2016"
    train = load_benchmark("ade20k", folder, splits=["train"], cache_dir=cache_dir)["train"]
    assert len(train) == 3
    counts = sum(np.bincount(label_array(sample).ravel(), minlength=256) for sample in train)
    assert counts[[1, 2, 4, 6, 255]].argsort().tolist() == [1, 4, 3, 2, 0]  # sky < other < road < tree < building
