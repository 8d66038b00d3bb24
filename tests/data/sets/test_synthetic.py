import numpy as np
import pytest

from cmdl_hf.data import load_synthetic
from cmdl_hf.data.sets.synthetic.scenes import ALL_LABELS, generate_scene
from cmdl_hf.data.sets.synthetic.textures import APPEARANCES, texture_stack


def _scenes(count, num_labels=8, size=(64, 80)):
    pairs = [generate_scene(np.random.default_rng([0, index]), size, num_labels) for index in range(count)]
    return [(np.asarray(image), np.asarray(label)) for image, label in pairs]


def test_splits_columns_and_classes():
    dataset = load_synthetic(num_train=3, num_validation=2, num_test=1, size=(32, 48), num_labels=5)
    assert {split: len(dataset[split]) for split in dataset} == {"train": 3, "validation": 2, "test": 1}
    sample = dataset["train"][0]
    assert list(sample) == ["image", "label", "id"]
    assert (sample["image"].mode, sample["label"].mode) == ("RGB", "L")
    assert sample["image"].size == sample["label"].size == (48, 32)
    assert dataset.num_labels == len(dataset.palette) == 5
    assert dataset.id2label[4] == "car"


def test_nothing_is_written_to_disk():
    assert all(not split.cache_files for split in load_synthetic(1, 1, 1, size=(16, 16)).values())


def test_equal_seeds_give_equal_images_and_a_larger_set_begins_with_the_smaller():
    small = load_synthetic(2, 1, 1, size=(32, 32), seed=3)
    large = load_synthetic(4, 1, 1, size=(32, 32), seed=3)
    other = load_synthetic(2, 1, 1, size=(32, 32), seed=4)
    for index in range(2):
        for column in ("image", "label"):
            np.testing.assert_array_equal(small["train"][index][column], large["train"][index][column])
        assert (np.asarray(small["train"][index]["image"]) != np.asarray(other["train"][index]["image"])).any()


def test_splits_hold_different_scenes():
    dataset = load_synthetic(1, 1, 1, size=(32, 32))
    images = [np.asarray(dataset[split][0]["image"]).tobytes() for split in dataset]
    assert len(set(images)) == 3


@pytest.mark.parametrize("num_labels", [2, 3, 8, 20])
def test_every_class_occurs_and_void_is_a_small_share(num_labels):
    counts = sum(np.bincount(label.ravel(), minlength=256) for _, label in _scenes(40, num_labels))
    assert np.flatnonzero(counts).tolist() == [*range(num_labels), 255]
    assert 0.005 < counts[255] / counts.sum() < 0.05


@pytest.mark.parametrize("size", [(16, 16), (50, 120), (121, 67)])
def test_any_size(size):
    ((image, label),) = _scenes(1, size=size)
    assert image.shape == (*size, 3)
    assert label.shape == size


def test_every_class_has_several_appearances():
    names, textures = texture_stack()
    assert list(APPEARANCES) == list(ALL_LABELS.id2label.values())
    for looks in APPEARANCES.values():
        assert len(set(looks)) >= 3
        assert {look.texture for look in looks} <= set(names)
    assert textures.min() >= 0
    assert textures.max() <= 1


def test_colour_alone_does_not_tell_the_classes_apart():
    def bins(image):
        return (image // 32).astype(int) @ [64, 8, 1]

    votes = np.zeros((512, 8))
    for image, label in _scenes(60)[20:]:
        np.add.at(votes, (bins(image)[label < 8], label[label < 8]), 1)
    confusion = np.zeros((8, 8))
    for image, label in _scenes(20):
        np.add.at(confusion, (label[label < 8], votes.argmax(1)[bins(image)][label < 8]), 1)
    iou = confusion.diagonal() / (confusion.sum(0) + confusion.sum(1) - confusion.diagonal())
    assert iou.mean() < 0.45


@pytest.mark.parametrize(("options", "message"), [({"num_labels": 1}, "2..20, got 1"), ({"num_labels": 21}, "got 21")])
def test_impossible_class_counts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_synthetic(1, 1, 1, **options)


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match=r"at least 16×16 pixels, got 8×64"):
        load_synthetic(1, 1, 1, size=(8, 64))
