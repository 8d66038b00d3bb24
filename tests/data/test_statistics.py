import math

import numpy as np
import pytest
from PIL import Image

from cmdl_hf.data import TrainTransform, class_pixel_counts, class_weights, load_benchmark, load_synthetic


@pytest.fixture
def forbid_reading(monkeypatch):
    def refuse(label):
        raise AssertionError("a label was read")

    return lambda: monkeypatch.setattr(Image.Image, "histogram", refuse)


def test_counts_equal_brute_force_without_void():
    scenes = load_synthetic(num_train=20, num_validation=1, num_test=1, size=(24, 32), num_labels=5)
    labels = np.stack([np.asarray(sample["label"]) for sample in scenes["train"]])
    assert (labels == 255).any()
    counts = class_pixel_counts(scenes["train"], 5)
    assert counts == [int((labels == id_).sum()) for id_ in range(5)]
    assert all(type(count) is int for count in counts)


def test_a_second_count_reads_no_label(make_camvid, cache_dir, forbid_reading):
    root = make_camvid()
    first = class_pixel_counts(load_benchmark("camvid", root, cache_dir=cache_dir)["train"], 11)
    dataset = load_benchmark("camvid", root, cache_dir=cache_dir)["train"]
    forbid_reading()
    assert class_pixel_counts(dataset, 11) == first == [8] * 11


def test_a_transform_plays_no_part():
    train = load_synthetic(num_train=2, num_validation=1, num_test=1, size=(16, 16), num_labels=4)["train"]
    transformed = train.with_transform(TrainTransform((4, 4)))
    assert class_pixel_counts(transformed, 4) == class_pixel_counts(train, 4)


def test_a_changed_data_set_is_counted_anew(make_camvid, write_mask, cache_dir):
    root = make_camvid()
    class_pixel_counts(load_benchmark("camvid", root, cache_dir=cache_dir)["train"], 11)
    write_mask(root / "trainannot" / "0016E5_00001.png", [3, 11])
    dataset = load_benchmark("camvid", root, cache_dir=cache_dir)["train"]
    assert class_pixel_counts(dataset, 11)[2:5] == [4, 28, 4]
    assert class_pixel_counts(dataset.select([0]), 11)[2:5] == [0, 24, 0]


def test_labels_that_cannot_be_counted_are_refused():
    train = load_synthetic(num_train=1, num_validation=1, num_test=1, size=(16, 16), num_labels=4)["train"]
    with pytest.raises(ValueError, match=r"must lie in 0..0 or be 255 \(void\), found 1 \(\d+ px\)"):
        class_pixel_counts(train, 1)
    withheld = train.map(lambda sample: {"label": None}, features=train.features)
    with pytest.raises(ValueError, match="choose a split with labels"):
        class_pixel_counts(withheld, 4)


def test_weights_are_enets():
    weights = class_weights([50, 40, 10, 0])
    assert weights == pytest.approx([1 / math.log(1.52), 1 / math.log(1.42), 1 / math.log(1.12), 1 / math.log(1.02)])
    assert weights == sorted(weights)
    assert class_weights([10, 90], offset=1.2)[0] == pytest.approx(1 / math.log(1.3))


@pytest.mark.parametrize(
    ("counts", "offset", "message"),
    [([0, 0], 1.02, "not all 0"), ([-1, 2], 1.02, "at least 0"), ([1, 2], 1.0, "offset must be above 1")],
)
def test_weights_need_pixels_and_an_offset(counts, offset, message):
    with pytest.raises(ValueError, match=message):
        class_weights(counts, offset)
