import os

import numpy as np
import pytest
from PIL import Image

from cmdl_hf.data import Label, LabelTable, make_builder
from cmdl_hf.data.check_report import format_report
from cmdl_hf.data.checking import IdCount, check_files
from cmdl_hf.data.sets.own import find_folder


@pytest.fixture
def check(cache_dir):
    """Check a tree of CamVid; returns the report and its errors as (file name, problem)."""

    def check(root, **options):
        report = check_files(make_builder("camvid", root, cache_dir=cache_dir, **options))
        return report, [(error.path.name, error.args[1]) for error in report.errors]

    return check


def _raw_ids(found):
    return {row.raw_id: (count.pixels, count.images) for row, count in found.raw_ids.items()}


def test_a_sound_data_set_has_no_errors(make_camvid, check):
    report, errors = check(make_camvid())
    assert errors == []
    assert report.shared_ids == ["0016E5_00001", "0016E5_00002"]  # the fixture names every split's frames alike
    train = report.splits["train"]
    assert (train.num_images, train.num_expected, len(train.readable), train.num_withheld) == (2, 367, 2, 0)
    assert train.sizes == {(8, 6): 2}
    assert _raw_ids(train) == dict.fromkeys(range(12), (8, 2))
    assert [(row.raw_id, row.train_id) for row in report.expected] == [*((id_, id_) for id_ in range(11)), (11, 255)]
    assert report.unexpected == {}
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
    assert report.unexpected == {"88": IdCount(48, 1), "77": IdCount(24, 1)}
    assert _raw_ids(train) == dict.fromkeys(range(12), (4, 1))
    assert len(report.splits["test"].readable) == 8


def test_all_files_of_one_id_are_listed(make_camvid, write_image, check):
    root = make_camvid()
    for split in ("train", "val"):
        for frame in ("0016E5_00001", "0016E5_00002"):
            write_image(root / split / f"{frame}.jpg")
    (root / "test.txt").write_text("0016E5_00001\n0016E5_00001\n")
    _, errors = check(root)
    assert errors == [
        *(
            (f"{frame}.png", f"this file and {split}/{frame}.jpg have the same id {frame!r}")
            for split in ("train", "val")
            for frame in ("0016E5_00001", "0016E5_00002")
        ),
        ("0016E5_00001", "the split's list names it 2 times"),
    ]


def test_an_unexpected_id_is_counted_over_all_masks(make_camvid, write_mask, check):
    root = make_camvid()
    write_mask(root / "trainannot" / "0016E5_00001.png", [0, 77])
    write_mask(root / "valannot" / "0016E5_00001.png", [0, 77, 12])
    report, _ = check(root)
    assert report.unexpected == {"77": IdCount(24 + 16, 2), "12": IdCount(16, 1)}


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
    assert errors == [("0016E5_00009", "listed, but missing")]


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
    assert _raw_ids(report.splits["validation"]) == dict.fromkeys((0, 7, 8), (16, 1))
    assert min(row.raw_id for row in report.expected) == 0  # the licence plate's -1 is no pixel value
    assert np.flatnonzero(report.splits["validation"].pixels).tolist() == [0, 1, 255]


def test_ready_train_ids_are_set_against_their_own_table(tmp_path, cache_dir, write_image, write_mask):
    write_image(tmp_path / "leftImg8bit/val/bonn/x_leftImg8bit.png")
    write_mask(tmp_path / "gtFine/val/bonn/x_gtFine_labelTrainIds.png", [0, 18, 255])
    report = check_files(make_builder("cityscapes", tmp_path, splits=["validation"], cache_dir=cache_dir))
    assert [row.raw_id for row in report.expected] == [*range(19), 255]
    assert _raw_ids(report.splits["validation"]) == dict.fromkeys((0, 18, 255), (16, 1))


def test_masks_of_colours_are_read_as_the_labels_they_show(tmp_path, cache_dir, write_image):
    masks = {
        "0016E5_07959": [[128, 64, 128], [128, 64, 128], [0, 0, 0]],
        "0016E5_07961": [[1, 2, 3], [1, 2, 3], [0, 0, 0]],
    }
    (tmp_path / "LabeledApproved_full").mkdir()
    for frame, colours in masks.items():
        write_image(tmp_path / "701_StillsRaw_full" / f"{frame}.png", size=(3, 1))
        pixels = np.array([colours], dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "LabeledApproved_full" / f"{frame}_L.png")
    report = check_files(make_builder("camvid", tmp_path, splits=["validation"], cache_dir=cache_dir))
    found = report.splits["validation"]
    assert {row.name: (count.pixels, count.images) for row, count in found.raw_ids.items()} == {
        "Road": (2, 1),
        "Void": (1, 1),
    }
    assert np.flatnonzero(found.pixels).tolist() == [3, 255]
    assert len(report.expected) == 32
    assert report.unexpected == {"#010203": IdCount(2, 1)}


def test_ids_of_matrices_are_counted(tmp_path, cache_dir, write_image):
    scipy_io = pytest.importorskip("scipy.io", reason="the 10k release's .mat masks need scipy")
    for folder in ("annotations", "imageLists"):
        (tmp_path / folder).mkdir()
    for name, ids in (("a", [1.0, 1.0, 0.0]), ("b", [1.0, 0.5, 200.0])):
        write_image(tmp_path / "images" / f"{name}.jpg", size=(3, 1))
        scipy_io.savemat(tmp_path / "annotations" / f"{name}.mat", {"S": np.array([ids])})
    (tmp_path / "imageLists" / "train.txt").write_text("a\nb\n")
    report = check_files(make_builder("coco_stuff", tmp_path, splits=["train"], cache_dir=cache_dir))
    assert _raw_ids(report.splits["train"]) == {1: (2, 1), 0: (1, 1)}
    assert report.unexpected == {"0.5": IdCount(1, 1)}


def test_own_folders(tmp_path, write_image, write_mask):
    for split in ("train", "val"):
        write_image(tmp_path / "images" / split / f"{split}_ü.jpg")
        write_mask(tmp_path / "masks" / split / f"{split}_ü.png", [0, 1, 255])
    report = check_files(find_folder(tmp_path, ["leaf", "root"]))
    assert report.errors == []
    assert list(report.splits) == ["train", "validation"]
    assert report.splits["train"].num_expected is None
    assert report.shared_ids == []
    report = check_files(find_folder(tmp_path, ["leaf"]))
    assert len(report.errors) == 3  # two masks, and one class alone


def test_rows_of_a_table_that_no_pixel_can_hold_are_left_out(photos):
    table = LabelTable(
        (Label(0, 0, "sky", (0, 0, 0)), Label(1, 1, "road", (1, 1, 1)), Label(300, 1, "far", (2, 2, 2)))
    )
    report = check_files(find_folder(photos, table))
    assert [row.raw_id for row in report.expected] == [0, 1]
    assert _raw_ids(report.splits["train"]) == {0: (48, 2), 1: (48, 2)}


def test_own_folders_without_masks_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match="has images but not masks"):
        find_folder(tmp_path, ["leaf"])


def test_files_that_are_not_used_are_named_in_the_report(photos):
    (photos / "images" / "c.heic").touch()
    report = check_files(find_folder(photos, ["leaf", "root"]))
    assert report.unused == [photos / "images" / "c.heic"]
    assert f"WARNING: 1 file(s) beside images and masks are not used: {photos}/images/c.heic;" in format_report(report)
