import json

import numpy as np
import pytest
from PIL import Image

from cmdl_hf.data import BENCHMARKS, LabelTable, load_benchmark


@pytest.fixture
def make_cityscapes(tmp_path, write_image, write_mask):
    def make(kind="labelIds", ids=range(34)):
        root = tmp_path / "cityscapes"
        for folder, city in (("train", "aachen"), ("val", "frankfurt"), ("test", "berlin")):
            frame = f"{city}_000000_000019"
            write_image(root / "leftImg8bit" / folder / city / f"{frame}_leftImg8bit.png", size=(9, 4))
            write_mask(root / "gtFine" / folder / city / f"{frame}_gtFine_{kind}.png", ids, size=(9, 4))
            write_mask(root / "gtFine" / folder / city / f"{frame}_gtFine_instanceIds.png", [0], size=(9, 4))
        return root

    return make


def test_label_ids_become_19_train_ids(make_cityscapes, cache_dir, label_array):
    dataset = load_benchmark("cityscapes", make_cityscapes(), cache_dir=cache_dir)
    assert dataset["train"]["id"][:] == ["aachen_000000_000019"]
    raw_to_train = BENCHMARKS["cityscapes"].label_table.raw_to_train
    expected = [raw_to_train[raw] for raw in np.resize(np.arange(34), 36).tolist()]
    assert label_array(dataset["validation"][0]).ravel().tolist() == expected
    assert dataset.num_labels == 19


def test_withheld_labels_of_the_test_split_are_none(make_cityscapes, cache_dir):
    test = load_benchmark("cityscapes", make_cityscapes(), cache_dir=cache_dir)["test"]
    assert test[0]["label"] is None
    assert test[0]["image"].size == (9, 4)


def test_ready_train_ids_are_taken_as_they_are(make_cityscapes, cache_dir, label_array):
    root = make_cityscapes("labelTrainIds", [*range(19), 255])
    label = label_array(load_benchmark("cityscapes", root, cache_dir=cache_dir)["train"][0])
    assert label.ravel()[:20].tolist() == [*range(19), 255]


def test_label_ids_are_preferred_to_ready_train_ids(make_cityscapes, cache_dir, label_array):
    make_cityscapes("labelTrainIds", [18])
    label = label_array(
        load_benchmark("cityscapes", make_cityscapes("labelIds", [7]), cache_dir=cache_dir)["train"][0]
    )
    assert set(label.ravel().tolist()) == {0}


def test_absent_test_images_are_no_error(make_cityscapes, cache_dir):
    root = make_cityscapes()
    next((root / "leftImg8bit" / "test").glob("*/*.png")).unlink()
    assert list(load_benchmark("cityscapes", root, cache_dir=cache_dir)) == ["train", "validation"]


def test_table_equals_the_source_row_by_row(shared_dir):
    source = json.loads((shared_dir / "data/tables/cityscapes_labels.json").read_text())
    rows = LabelTable.of("cityscapes").rows
    assert len(rows) == len(source) == 35
    for row, label in zip(rows, source, strict=True):
        train_id = label["trainId"] if label["trainId"] >= 0 else 255
        assert (row.raw_id, row.train_id, row.name) == (label["id"], train_id, label["name"])
        assert list(row.colour) == label["color"]


def test_real_frame(shared_dir, cache_dir, label_array):
    folder = shared_dir / "data/cityscapes"
    dataset = load_benchmark("cityscapes", folder, splits=["validation"], cache_dir=cache_dir)
    assert dataset["validation"]["id"][:] == ["frankfurt_000000_000294"]
    label = label_array(dataset["validation"][0])
    ready = next(folder.rglob("*_labelTrainIds.png"))
    # resized apart from labelIds by those who published them: 0.23 % of the pixels differ
    assert (label == np.asarray(Image.open(ready))).mean() == pytest.approx(0.9977, abs=2e-4)
