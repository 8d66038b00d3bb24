import json
import sys

import numpy as np
import pytest

from cmdl_hf.data import BadDataError, LabelTable, load_benchmark

RAW_IDS = np.arange(183, dtype=np.uint8).reshape(3, 61)


@pytest.fixture
def make_164k(tmp_path, write_image, write_mask):
    def make(masks="annotations"):
        root = tmp_path / "coco"
        for folder in ("train2017", "val2017"):
            write_image(root / "images" / folder / "000000000009.jpg", size=(61, 3))
            write_mask(root / masks / folder / "000000000009.png", [255, *range(182)], size=(61, 3))
            write_mask(root / masks / folder / "000000000009_labelTrainIds.png", [0], size=(61, 3))
        return root

    return make


@pytest.fixture
def scipy_io():
    """What reads and writes the .mat masks of the 10k release."""
    return pytest.importorskip("scipy.io", reason="the 10k release's .mat masks need scipy")


@pytest.fixture
def make_10k(tmp_path, write_image, scipy_io):
    def make(dtype=np.uint8):
        root = tmp_path / "coco10k"
        (root / "imageLists").mkdir(parents=True)
        (root / "annotations").mkdir()
        for split, name in (("train", "COCO_train2014_1"), ("test", "COCO_train2014_2")):
            write_image(root / "images" / f"{name}.jpg", size=(61, 3))
            scipy_io.savemat(root / "annotations" / f"{name}.mat", {"S": RAW_IDS.astype(dtype), "names": ["a"]})
            (root / "imageLists" / f"{split}.txt").write_text(f"{name}\n")
        return root

    return make


def _expected(num_classes):
    if num_classes == 182:
        return [255, *range(182)]
    return [row.train_id for row in LabelTable.of("coco_stuff").rows]


@pytest.mark.parametrize("masks", ["annotations", "stuffthingmaps"])
@pytest.mark.parametrize("num_classes", [171, 182])
def test_164k(make_164k, cache_dir, label_array, masks, num_classes):
    dataset = load_benchmark("coco_stuff", make_164k(masks), cache_dir=cache_dir, num_classes=num_classes)
    assert list(dataset) == ["train", "validation"]
    assert label_array(dataset["validation"][0]).ravel().tolist() == _expected(num_classes)
    assert dataset.num_labels == len(dataset.palette) == len(dataset.id2label) == num_classes
    owner = {train_id: raw_id for raw_id, train_id in dataset.owner_table.raw_to_train.items()}
    masks = [255, *range(182)]  # what make_164k wrote
    pairs = zip(masks, _expected(num_classes), strict=True)
    assert all(owner[train_id] == raw_id for raw_id, train_id in pairs if train_id != 255)
    assert dataset.with_transform(None).owner_table == dataset.owner_table


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
@pytest.mark.parametrize("num_classes", [171, 182])
def test_10k(make_10k, cache_dir, label_array, dtype, num_classes):
    dataset = load_benchmark("coco_stuff", make_10k(dtype), cache_dir=cache_dir, num_classes=num_classes)
    assert {split: dataset[split]["id"][:] for split in dataset} == {
        "train": ["COCO_train2014_1"],
        "test": ["COCO_train2014_2"],
    }
    assert label_array(dataset["test"][0]).ravel().tolist() == _expected(num_classes)
    assert dataset.owner_table == dataset.label_table


def test_other_class_counts_are_refused(make_164k, cache_dir):
    with pytest.raises(ValueError, match="171 or 182, got 80"):
        load_benchmark("coco_stuff", make_164k(), cache_dir=cache_dir, num_classes=80)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file, cut short"])
def test_a_damaged_mat_file_is_named(make_10k, cache_dir, content):
    root = make_10k()
    (root / "annotations" / "COCO_train2014_1.mat").write_bytes(content)
    with pytest.raises(BadDataError, match=r"COCO_train2014_1\.mat.*fetch it again"):
        load_benchmark("coco_stuff", root, cache_dir=cache_dir)


def test_missing_scipy_is_named(make_10k, cache_dir, monkeypatch):
    root = make_10k()
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[coco\]'"):
        load_benchmark("coco_stuff", root, cache_dir=cache_dir)


def test_a_mat_file_of_fractions_is_refused(make_10k, cache_dir, scipy_io):
    root = make_10k()
    scipy_io.savemat(root / "annotations" / "COCO_train2014_1.mat", {"S": RAW_IDS + 0.5})
    with pytest.raises(BadDataError, match=r"ids must lie in 0..255, found 0.5 \(1 px\)"):
        load_benchmark("coco_stuff", root, cache_dir=cache_dir)


def test_table_equals_the_source_row_by_row(shared_dir):
    source = json.loads((shared_dir / "data/tables/cocostuff_171.json").read_text())
    rows = LabelTable.of("coco_stuff").rows
    assert [(str(row.raw_id), row.name) for row in rows] == list(source["labels182"].items())
    classes = [row for row in rows if row.train_id != 255]
    assert [row.train_id for row in classes] == list(range(171))
    assert [row.raw_id for row in classes] == source["train_to_id_1based"]
    assert [row.name for row in classes] == source["names171"]
    assert [list(row.colour) for row in classes] == source["palette171_mmseg"]
    ignored = {str(row.raw_id): row.name for row in rows if row.train_id == 255 and row.raw_id}
    assert ignored == source["ids_without_segmentation"]


def test_real_images_have_equal_labels_in_both_releases(shared_dir, cache_dir, label_array, scipy_io):
    data = shared_dir / "data"
    big = load_benchmark("coco_stuff", data / "coco_stuff_164k", splits=["train"], cache_dir=cache_dir)["train"]
    small = load_benchmark("coco_stuff", data / "coco_stuff_10k", cache_dir=cache_dir)
    assert (len(big), len(small["train"]), len(small["test"])) == (13, 1, 1)
    by_id = {sample["id"]: label_array(sample) for sample in big}
    for sample in (small["train"][0], small["test"][0]):
        np.testing.assert_array_equal(label_array(sample), by_id[sample["id"][-12:]])
