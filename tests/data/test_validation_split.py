import json
import random

import numpy as np
import pytest

from cmdl_hf.data import SegmentationDataset, load_folder, load_split, load_synthetic, set_apart_validation
from cmdl_hf.data.validation_split import choose_validation, divide_as_trained


def _chosen(ids, present, fraction=0.2):
    return {ids[index] for index in np.flatnonzero(choose_validation(ids, np.asarray(present, dtype=bool), fraction))}


@pytest.mark.parametrize("num_images", [10, 37, 200])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_classes_that_all_images_have_leave_the_share_exact(num_images, fraction):
    ids = [f"photo {index}" for index in range(num_images)]
    chosen = _chosen(ids, np.ones((num_images, 3)), fraction)
    assert abs(len(chosen) - fraction * num_images) <= 1


def test_every_class_of_two_images_or_more_is_on_both_sides():
    rng = np.random.default_rng(0)
    for trial in range(30):
        present = rng.random((60, 12)) < np.geomspace(0.02, 0.9, 12)
        is_apart = choose_validation([f"{trial}/{index}" for index in range(60)], present, 0.2)
        counts = present.sum(axis=0)
        assert (present[is_apart].any(axis=0) == (counts > 1)).all()
        assert (present[~is_apart].any(axis=0) == (counts > 0)).all()
        common = counts > 20
        shares = present[is_apart].sum(axis=0)[common] / counts[common]
        assert (np.abs(shares - 0.2) < 0.15).all()


def test_neither_the_order_of_the_files_nor_a_seed_changes_the_choice():
    rng = np.random.default_rng(1)
    present = {f"image {index}": rng.random(5) < 0.4 for index in range(50)}
    expected = _chosen(list(present), np.stack(list(present.values())))
    for seed in range(5):
        random.seed(seed)
        ids = random.sample(list(present), len(present))
        assert _chosen(ids, np.stack([present[id_] for id_ in ids])) == expected
    renamed = _chosen([f"other {id_}" for id_ in present], np.stack(list(present.values())))
    assert {id_.removeprefix("other ") for id_ in renamed} != expected


@pytest.mark.parametrize(
    ("present", "num_apart"),
    [([[1], [1]], 1), ([[1, 0], [0, 1]], 1), ([[0], [0], [0], [0], [0]], 1), ([[1, 0]] * 2 + [[0, 1]] * 2, 2)],
)
def test_there_is_always_an_image_on_either_side(present, num_apart):
    assert len(_chosen([str(index) for index in range(len(present))], present)) == num_apart


def test_a_thousand_classes_and_images_take_no_time():
    present = np.random.default_rng(2).random((5000, 150)) < 0.1
    assert 900 < choose_validation([str(index) for index in range(5000)], present, 0.2).sum() < 1100


@pytest.fixture(scope="module")
def scenes():
    whole = load_synthetic(num_train=10, num_validation=1, num_test=2, size=(32, 32), num_labels=4)
    return SegmentationDataset({"train": whole["train"], "test": whole["test"]}, whole.label_table)


def test_the_split_is_said_and_the_others_stay(scenes, caplog):
    divided = set_apart_validation(scenes, 0.3, "my photos")
    assert {name: len(rows) for name, rows in divided.items()} == {"train": 7, "validation": 3, "test": 2}
    assert sorted(divided["train"]["id"][:] + divided["validation"]["id"][:]) == sorted(scenes["train"]["id"][:])
    assert (divided.validation_fraction, scenes.validation_fraction) == (0.3, None)
    assert divided.id2label == scenes.id2label
    assert "my photos has no validation split: 3 of its 10 training images (30 %) are set apart" in caplog.text


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_a_share_outside_of_0_and_1_is_refused(scenes, fraction):
    with pytest.raises(ValueError, match=r"validation_fraction must lie in \(0, 1\), found .*--no-validation"):
        set_apart_validation(scenes, fraction)


def test_what_cannot_be_divided_is_refused(scenes):
    one = scenes.with_splits({"train": scenes["train"].select([0])})
    with pytest.raises(
        ValueError, match="has one training image, so none can be set apart for validation; add images"
    ):
        set_apart_validation(one)
    with pytest.raises(ValueError, match="must have a train split and no validation split, found train, validation"):
        set_apart_validation(set_apart_validation(scenes))


def test_a_model_is_scored_on_the_images_that_its_run_set_apart(
    photos, write_image, write_mask, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for index in range(8):
        write_image(photos / f"images/{index}.jpg")
        write_mask(photos / f"masks/{index}.png", [0, 1])
    (tmp_path / "classes.txt").write_text("leaf\nroot\n")
    options = ("own", "validation", 2, photos, tmp_path / "classes.txt", None)
    run = tmp_path / "run"
    run.mkdir()

    def record(benchmark, **facts):
        (run / "run.json").write_text(json.dumps({"recipe": {"benchmark": benchmark}, **facts}))

    expected = set_apart_validation(load_folder(photos, ["leaf", "root"]), 0.5)["validation"]["id"][:]
    record("own", set_apart={"fraction": 0.5})
    assert load_split(*options, run)["validation"]["id"][:] == expected
    assert len(load_split(*options, "a/name")["validation"]) == 2  # a fifth of ten
    for facts in ({}, {"set_apart": None}):
        record("own", **facts)
        with pytest.raises(ValueError, match="own has the splits train, not validation"):
            load_split(*options, run)
    assert len(load_split("own", "train", *options[2:], "a/name")["train"]) == 10
    record("camvid")
    assert len(load_split(*options, run)["validation"]) == 2

    record("own", set_apart={"fraction": 0.5})
    (run / "validation_ids.txt").write_text("3\n5\nno longer there\n")
    assert load_split(*options, run)["validation"]["id"][:] == ["3", "5"]
    write_image(photos / "images/new.jpg")  # the split stays, though the folder has grown
    write_mask(photos / "masks/new.png", [0, 1])
    assert load_split(*options, run)["validation"]["id"][:] == ["3", "5"]
    (run / "validation_ids.txt").write_text("of other data\n")
    with pytest.raises(ValueError, match=r"has none of the 1 images that the training of .* set apart for validation"):
        load_split(*options, run)
    assert len(load_split("own", "train", *options[2:], run)["train"]) == 11  # the cure that the message names


DAMAGED = ["{", "[1]", '{"recipe": 3}', '{"recipe": {"benchmark": "own"}, "set_apart": {"fraction": "x"}}', "\x00"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_run_is_named(scenes, tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json.*; restore the file, or move it away"):
        divide_as_trained(scenes, tmp_path, "validation")
