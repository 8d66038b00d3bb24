import os

import numpy as np
import pytest
from PIL import Image

from cmdl_hf.data import LabelTable, make_builder
from cmdl_hf.data.checking import check_files, find_folder


@pytest.fixture
def check(cache_dir):
    """Check a tree of CamVid; returns the report and its errors as (file name, problem)."""

    def check(root, **options):
        report = check_files(make_builder("camvid", root, cache_dir=cache_dir, **options))
        return report, [(error.path.name, error.args[1]) for error in report.errors]

    return check


def test_a_sound_data_set_has_no_errors(make_camvid, check):
    report, errors = check(make_camvid())
    assert errors == []
    assert report.shared_ids == ["0016E5_00001", "0016E5_00002"]  # the fixture names every split's frames alike
    train = report.splits["train"]
    assert (train.num_images, train.num_expected, len(train.readable), train.num_withheld) == (2, 367, 2, 0)
    assert train.sizes == {(8, 6): 2}
    assert train.raw_ids == set(range(12))
    assert train.pixels.tolist() == [8] * 11 + [0] * 244 + [8]
    assert train.images_with.tolist() == [2] * 11 + [0] * 244 + [2]


def test_every_bad_file_is_listed_and_the_others_are_counted(make_camvid, write_image, write_mask, check):
    root = make_camvid(frames=[f"0016E5_0000{index}" for index in range(8)])
    images, masks = root / "train", root / "trainannot"
    (images / "0016E5_00000.png").write_bytes(b"")
    content = (images / "0016E5_00001.png").read_bytes()
    (images / "0016E5_00001.png").write_bytes(content[: len(content) // 2])
    write_mask(masks / "0016E5_00002.png", [0, 77])
    write_mask(masks / "0016E5_00003.png", [0], size=(4, 3))
    write_image(masks / "0016E5_00004.png")
    (images / "0016E5_00005.png").unlink()
    (masks / "0016E5_00006.png").unlink()
    (images / "0016E5_00000.png").with_name("note.txt").write_text("no image")
    write_mask(masks / "0016E5_00001.png", [88])  # beside a bad image

    report, errors = check(root)
    assert [name for name, _ in errors] == [
        "0016E5_00006.png",
        "0016E5_00005.png",
        "0016E5_00000.png",
        "0016E5_00001.png",
        "0016E5_00001.png",
        "0016E5_00002.png",
        "0016E5_00003.png",
        "0016E5_00004.png",
    ]
    problems = "\n".join(problem for _, problem in errors)
    for problem in (
        "the image has no mask",
        "the mask has no image",
        "cannot be decoded (0 bytes",
        "found 88 (48 px)",
        "found 77 (24 px)",
        "found 8×6 and 4×3",
        "found mode RGB",
    ):
        assert problem in problems
    train = report.splits["train"]
    assert [sample.id for sample in train.readable] == ["0016E5_00007"]
    assert train.pixels.sum() == 48
    assert {77, 88} < train.raw_ids
    assert len(report.splits["test"].readable) == 8


def test_damage_inside_an_image_is_found(make_camvid, check):
    root = make_camvid(suffix=".png")
    path = root / "val" / "0016E5_00001.png"
    content = bytearray(path.read_bytes())
    middle = content.index(b"IDAT") + 20
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(bytes(content))
    _, errors = check(root)
    assert [name for name, _ in errors] == ["0016E5_00001.png"]


def test_listed_names_without_files_are_errors(make_camvid, check):
    root = make_camvid()
    (root / "test.txt").write_text("0016E5_00001\n0016E5_00009\n")
    _, errors = check(root)
    assert errors == [("0016E5_00009", "listed, but not there")]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_listed(make_camvid, check):
    root = make_camvid()
    (root / "train" / "0016E5_00001.png").chmod(0)
    _, errors = check(root)
    assert errors == [("0016E5_00001.png", "cannot be read (Permission denied)")]


def test_what_the_disk_cannot_read_is_listed(make_camvid, check, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("cmdl_hf.data.checking.decode", fail)
    _, errors = check(make_camvid(), splits=["train"])
    assert errors == [(f"0016E5_0000{index}.png", "cannot be read (Input/output error)") for index in (1, 2)]


def test_withheld_labels_are_no_errors(tmp_path, cache_dir, write_image, write_mask):
    root = tmp_path / "cityscapes"
    for split in ("val", "test"):
        write_image(root / "leftImg8bit" / split / "berlin" / "x_leftImg8bit.png")
    write_mask(root / "gtFine" / "val" / "berlin" / "x_gtFine_labelIds.png", [0, 7, 8])
    report = check_files(make_builder("cityscapes", root, splits=["validation", "test"], cache_dir=cache_dir))
    assert report.errors == []
    assert report.splits["test"].num_withheld == 1
    assert not report.splits["test"].pixels.any()
    assert report.splits["validation"].raw_ids == {0, 7, 8}
    assert np.flatnonzero(report.splits["validation"].pixels).tolist() == [0, 1, 255]


def test_masks_of_colours_have_no_ids(tmp_path, cache_dir, write_image):
    write_image(tmp_path / "701_StillsRaw_full" / "0016E5_07959.png", size=(2, 1))
    (tmp_path / "LabeledApproved_full").mkdir()
    mask = np.array([[[128, 64, 128], [0, 0, 0]]], dtype=np.uint8)
    Image.fromarray(mask).save(tmp_path / "LabeledApproved_full" / "0016E5_07959_L.png")
    report = check_files(make_builder("camvid", tmp_path, splits=["validation"], cache_dir=cache_dir))
    assert report.errors == []
    assert report.splits["validation"].raw_ids == set()
    assert np.flatnonzero(report.splits["validation"].pixels).tolist() == [3, 255]


def test_own_folders(tmp_path, write_image, write_mask):
    for split in ("train", "val"):
        write_image(tmp_path / "images" / split / f"{split}_ü.jpg")
        write_mask(tmp_path / "masks" / split / f"{split}_ü.png", [0, 1, 255])
    report = check_files(find_folder(tmp_path, LabelTable.from_names(["leaf", "root"])))
    assert report.errors == []
    assert list(report.splits) == ["train", "validation"]
    assert report.splits["train"].num_expected is None
    assert report.shared_ids == []
    report = check_files(find_folder(tmp_path, LabelTable.from_names(["leaf"])))
    assert len(report.errors) == 2


def test_own_folders_without_masks_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match="has images but not masks"):
        find_folder(tmp_path, LabelTable.from_names(["leaf"]))
