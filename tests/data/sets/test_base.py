"""What a data set is made of: nothing stale, nothing lost in silence."""

import logging
import os
import shutil

import pytest

from cmdl_hf.data import BadDataError, load_benchmark, load_folder
from cmdl_hf.data.sets.camvid import CamVid


def _load(root, cache_dir, **options):
    return load_benchmark("camvid", root, cache_dir=cache_dir, **options)


def test_non_ascii_names(make_camvid, cache_dir):
    root = make_camvid("stems", frames=("Straße_é", "東京"))
    root = root.rename(root.with_name("Bilder für Übung"))
    dataset = _load(root, cache_dir)
    assert sorted(dataset["test"]["id"][:]) == ["Straße_é", "東京"]
    assert dataset["test"][0]["image"].size == (8, 6)


def test_all_files_of_one_id_are_named(make_camvid, cache_dir):
    root = make_camvid(suffix=".jpg")
    for folder, frame in (("train", "0016E5_00001"), ("train", "0016E5_00002"), ("test", "0016E5_00001")):
        shutil.copy(root / folder / f"{frame}.jpg", root / folder / f"{frame}.jpeg")
    with pytest.raises(BadDataError, match=r"3 file\(s\) cannot be used") as caught:
        _load(root, cache_dir)
    for pair in (
        "train/0016E5_00001.jpg: this file and train/0016E5_00001.jpeg have the same id '0016E5_00001'; remove or",
        "train/0016E5_00002.jpg: this file and train/0016E5_00002.jpeg",
        "test/0016E5_00001.jpg: this file and test/0016E5_00001.jpeg",
    ):
        assert pair in str(caught.value)


def test_files_of_one_id_are_left_out_and_listed_on_request(make_camvid, cache_dir):
    root = make_camvid(suffix=".jpg")
    shutil.copy(root / "train" / "0016E5_00001.jpg", root / "train" / "0016E5_00001.jpeg")
    dataset = _load(root, cache_dir, skip_bad_files=True)
    assert dataset["train"]["id"][:] == ["0016E5_00002"]
    assert [error.path.name for error in dataset.bad_files] == ["0016E5_00001.jpg"]


def test_ids_that_a_list_repeats_are_refused(make_camvid, cache_dir):
    root = make_camvid("stems")
    (root / "val.txt").write_text("0016E5_00001\n0016E5_00002\n0016E5_00001\n")
    with pytest.raises(BadDataError, match="0016E5_00001: the split's list names it 2 times; remove the other lines"):
        _load(root, cache_dir)


def test_a_folder_with_colons_in_its_name_is_read_every_time(make_camvid, cache_dir):
    root = make_camvid()
    root = root.rename(root.with_name("drive::1"))
    for _ in range(2):  # `datasets`' own Path, by which it replaces ours in builders, cuts such names
        assert len(_load(root, cache_dir)["train"]) == 2


def test_the_cache_serves_an_unchanged_folder(make_camvid, cache_dir, monkeypatch):
    root = make_camvid()
    _load(root, cache_dir)
    monkeypatch.setattr(CamVid, "_generate_examples", None)
    assert len(_load(root, cache_dir)["train"]) == 2


def test_a_changed_mask_is_read_anew(make_camvid, cache_dir, write_mask, label_array):
    root = make_camvid()
    _load(root, cache_dir)
    path = root / "trainannot" / "0016E5_00001.png"
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    write_mask(path, range(11, -1, -1))
    os.utime(path, ns=(time + 1, time + 1))
    assert abs(path.stat().st_size - size) < 8  # the time alone must do
    assert label_array(_load(root, cache_dir)["train"][0])[0, 0] == 255


def test_an_added_frame_is_read(make_camvid, cache_dir, write_image, write_mask):
    root = make_camvid(lists=None)
    _load(root, cache_dir)
    write_image(root / "train" / "0016E5_00003.png")
    write_mask(root / "trainannot" / "0016E5_00003.png", [0])
    assert len(_load(root, cache_dir)["train"]) == 3


def test_data_sets_of_one_cache_do_not_collide(make_camvid, photos, cache_dir):
    camvid = _load(make_camvid(), cache_dir)
    own = load_folder(photos, ["sky", "road"], cache_dir=cache_dir)
    assert camvid["train"]["id"][:] != own["train"]["id"][:]
    assert _load(make_camvid(), cache_dir)["train"]["id"][:] == camvid["train"]["id"][:]


def _spoil(root):
    (root / "train" / "0016E5_00002.png").write_bytes(b"")
    (root / "valannot" / "0016E5_00001.png").unlink()
    return root


@pytest.mark.parametrize("num_proc", [None, 2])
def test_bad_files_are_left_out_counted_and_listed(make_camvid, cache_dir, caplog, num_proc):
    root = _spoil(make_camvid())
    for _ in ("prepared", "cached"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="cmdl_hf"):
            dataset = _load(root, cache_dir, skip_bad_files=True, num_proc=num_proc)
        assert {split: len(dataset[split]) for split in dataset} == {"train": 1, "validation": 1, "test": 2}
        names = {f"{error.path.parent.name}/{error.path.name}" for error in dataset.bad_files}
        assert names == {"train/0016E5_00002.png", "val/0016E5_00001.png"}
        assert "CamVid, left out: 2 file(s)" in caplog.text
        assert "val/0016E5_00001.png: the image has no mask" in caplog.text


def test_what_was_left_out_once_is_refused_when_not_asked_for(make_camvid, cache_dir):
    root = make_camvid()
    (root / "train" / "0016E5_00002.png").write_bytes(b"")
    _load(root, cache_dir, skip_bad_files=True)
    with pytest.raises(BadDataError, match=r"1 file\(s\) cannot be used(?s:.*)skip_bad_files=True"):
        _load(root, cache_dir)


def test_every_bad_file_is_listed_not_only_the_first(make_camvid, cache_dir):
    root = make_camvid(frames=[f"0016E5_{number:05d}" for number in range(14)])
    for path in sorted((root / "train").iterdir())[1:]:
        path.write_bytes(b"")
    with pytest.raises(BadDataError, match=r"13 file\(s\) cannot be used(?s:.*)and 3 more") as caught:
        _load(root, cache_dir)
    assert len(caught.value.errors) == 13


def test_a_split_without_any_good_file_is_refused_even_so(make_camvid, cache_dir):
    root = make_camvid()
    for path in (root / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadDataError, match=r"2 file\(s\)"):
        _load(root, cache_dir, skip_bad_files=True)


def test_a_good_data_set_lists_nothing(make_camvid, cache_dir):
    assert _load(make_camvid(), cache_dir).bad_files == []


def test_classes_survive_a_transform(make_camvid, cache_dir):
    dataset = _load(make_camvid(), cache_dir).with_transform(lambda batch: {"id": batch["id"]})
    assert dataset.num_labels == 11
    assert dataset["train"][0] == {"id": "0016E5_00001"}
