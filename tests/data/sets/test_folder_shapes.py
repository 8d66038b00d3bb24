import logging
from pathlib import Path

import numpy as np
import pytest

from cmdl_hf.cli import main
from cmdl_hf.data import load_folder
from cmdl_hf.data.check_report import format_report
from cmdl_hf.data.checking import check_files
from cmdl_hf.data.sets.folder_shapes import recognise
from cmdl_hf.data.sets.folder_tree import draw_tree
from cmdl_hf.data.sets.name_endings import find_endings_of_both
from cmdl_hf.data.sets.own import find_folder

NAMES = ["background", "leaf"]


@pytest.fixture
def fill(tmp_path, write_image, write_mask):
    """Write a pair of files under each name of a pattern, in which X is the name."""

    def fill(image, mask, names="ab"):
        for name in names:
            write_image(tmp_path / "own" / image.replace("X", name))
            write_mask(tmp_path / "own" / mask.replace("X", name), [0, 1])
        return tmp_path / "own"

    return fill


def _ids(shape):
    return {split: [sample.id for sample in files.samples] for split, files in shape.files.items()}


@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        ("images/X.jpg", "masks/X.png", "flat, images and masks, masks have the names of their images"),
        ("images/X.png", "labels/X.png", "flat, images and labels, masks have the names of their images"),
        ("images/X.jpg", "masks/X_mask.png", "flat, images and masks, names of masks end in _mask"),
        ("Images/X.jpg", "Annotations/X_L.png", "flat, Images and Annotations, names of masks end in _L"),
        (
            "images/X.jpg",
            "masks/X_gtFine_labelIds.png",
            "flat, images and masks, names of masks end in _gtFine_labelI",
        ),
        ("X.jpg", "X.png", "flat, images and masks in one folder, masks have the names of their images"),
        ("X.tif", "X.png", "flat, images and masks in one folder, masks have the names of their images"),
        ("X.png", "X_label.png", "flat, images and masks in one folder, names of masks end in _label"),
        ("X_1.png", "X_1-gt.png", "flat, images and masks in one folder, names of masks end in -gt"),
    ],
)
def test_flat_shapes_are_the_train_split(fill, cache_dir, caplog, image, mask, words):
    root = fill(image, mask)
    (root / "classes.txt").touch()
    with caplog.at_level(logging.INFO, logger="cmdl_hf"):
        dataset = load_folder(root, NAMES, cache_dir=cache_dir)
    assert [(name, len(rows)) for name, rows in dataset.items()] == [("train", 2)]
    assert [record.getMessage() for record in caplog.records if words in record.getMessage()] == [
        f"{root}: {recognise(root).describe()}"
    ]
    assert recognise(root).describe().endswith(": 2 train")
    assert "not used" not in caplog.text
    stems = [image.rpartition("/")[2].partition(".")[0].replace("X", name) for name in "ab"]
    assert dataset["train"]["id"][:] == stems
    assert set(np.asarray(dataset["train"][0]["label"]).ravel().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        (
            "X_sat.jpg",
            "X_mask.png",
            "flat, images and masks in one folder, names of images end in _sat, of masks in _mask",
        ),
        ("X_sat.png", "X_label.png", "in one folder, names of images end in _sat, of masks in _label"),
        ("X-photo.jpg", "X-truth.png", "in one folder, names of images end in -photo, of masks in -truth"),
        ("images/X_sat.jpg", "masks/X_mask.png", "images and masks, names of images end in _sat, of masks in _mask"),
        ("images/X_rgb.png", "masks/X_depth.png", "images and masks, names of images end in _rgb, of masks in _depth"),
        ("images/X_sat.jpg", "masks/X.png", "images and masks, names of images end in _sat, masks have none"),
        (
            "train/X_sat.jpg",
            "train/X_mask.png",
            "split first, images and masks in one folder, names of images end in _sat",
        ),
        ("images/train/in/X_sat.jpg", "masks/train/in/X_mask.png", "masks/SPLIT, names of images end in _sat"),
    ],
)
def test_images_may_have_an_ending_of_their_own(fill, image, mask, words):
    root = fill(image, mask, ["12", "7_1", "7_2"])
    shape = recognise(root)
    assert words in shape.describe()
    below = "in/" if "/in/" in image else ""
    assert _ids(shape) == {"train": [f"{below}12", f"{below}7_1", f"{below}7_2"]}
    assert check_files(find_folder(root, NAMES)).errors == []


def test_the_endings_of_all_splits_are_the_same(fill):
    for split, names in (("train", "abc"), ("val", "d")):
        root = fill(f"{split}/X_sat.jpg", f"{split}/X_mask.png", names)
    assert _ids(recognise(root)) == {"train": ["a", "b", "c"], "validation": ["d"]}


@pytest.mark.parametrize(
    ("shape", "others"),
    [
        (("X_sat.jpg", "X_mask.png"), ["X_label.png"]),
        (("X_sat.jpg", "X_mask.png"), ["X_infrared.jpg"]),
        (("images/X_sat.jpg", "masks/X_mask.png"), ["masks/X_label.png"]),
        (("images/X_sat.jpg", "masks/X_mask.png"), ["images/X_infrared.jpg"]),
    ],
)
def test_endings_that_pair_in_several_ways_are_refused(fill, write_image, shape, others):
    root = fill(*shape, "abc")
    for other in others:
        for name in "abc":
            write_image(root / other.replace("X", name))
    with pytest.raises(
        ValueError, match=r"own.*: names of images and masks pair in several ways, as X_\w+ with X_\w+ or"
    ):
        recognise(root)


def test_an_image_or_mask_without_its_ending_has_no_partner(fill, write_image):
    root = fill("images/X_sat.jpg", "masks/X_mask.png", "abcd")
    (root / "images/d_sat.jpg").rename(root / "images/d_infrared.jpg")
    with pytest.raises(
        FileNotFoundError, match=r"1 image\(s\) without mask .*d_infrared\.jpg.*1 mask\(s\) without.*d_mask"
    ):
        load_folder(root, NAMES)


@pytest.mark.parametrize("names", [["img_1.jpg", "img_2.png"], ["a_x.jpg", "a_y.jpg", "b_x.jpg", "b_y.jpg"]])
def test_photos_with_endings_are_not_taken_for_data(write_image, tmp_path, names):
    for name in names:
        write_image(tmp_path / "own" / name)
    with pytest.raises(FileNotFoundError, match="no images and masks in a shape that is recognised"):
        recognise(tmp_path / "own")


def test_many_numbered_files_are_paired_at_once():
    names = [f"drive_{number:04}" for number in range(300)]
    files = {f"{name}_sat": [Path(f"{name}_sat.jpg")] for name in names}
    masks = {f"{name}_mask": [Path(f"{name}_mask.png")] for name in names}
    assert find_endings_of_both([(files, masks)]) == ("_sat", "_mask")
    assert find_endings_of_both([(files | masks, None)]) == ("_sat", "_mask")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        ("images/SPLIT/X.jpg", "masks/SPLIT/X.png", "images first"),
        ("SPLIT/images/X.jpg", "SPLIT/masks/X.png", "split first"),
        ("SPLIT/images/in/X.jpg", "SPLIT/labels/in/X_mask.png", "split first, names of masks end in _mask"),
        (
            "SPLIT/X.jpg",
            "SPLIT/X_mask.png",
            "split first, images and masks in one folder, names of masks end in _mask",
        ),
        ("SPLIT/X.jpg", "SPLIT/X.png", "split first, images and masks in one folder"),
    ],
)
def test_split_first_and_images_first(fill, image, mask, words, name):
    for split in ("test", name, "train"):
        root = fill(image.replace("SPLIT", split), mask.replace("SPLIT", split), "ab" if split == "train" else "c")
    shape = recognise(root)
    folder = "in/" if "/in/" in image else ""
    assert _ids(shape) == {
        "train": [f"{folder}a", f"{folder}b"],
        "validation": [f"{folder}c"],
        "test": [f"{folder}c"],
    }
    assert shape.describe().startswith(words)
    assert shape.describe().endswith(": 2 train, 1 validation, 1 test")
    assert check_files(find_folder(root, NAMES)).errors == []
    assert shape.unused == []


def test_the_report_of_a_check_says_what_was_recognised(fill):
    text = format_report(check_files(find_folder(fill("train/images/X.jpg", "train/masks/X_L.png"), NAMES)))
    assert "split first, names of masks end in _L: 2 train" in text
    assert "there is no validation split" in " ".join(text.split())


def test_one_ending_throughout_others_have_no_image(fill, write_mask):
    root = fill("images/X.jpg", "masks/X_mask.png", "abc")
    (root / "masks/c_mask.png").rename(root / "masks/c_label.png")
    with pytest.raises(
        FileNotFoundError, match=r"1 image\(s\) without mask .*c\.jpg.*1 mask\(s\) without.*c_label\.png"
    ):
        load_folder(root, NAMES)


def test_names_that_only_look_like_endings_are_names(fill):
    root = fill("images/X.jpg", "masks/X.png", ["a", "a_1", "a_2", "a_1_1"])
    assert _ids(recognise(root)) == {"train": ["a", "a_1", "a_1_1", "a_2"]}


def test_photos_without_masks_are_not_taken_for_data(write_image, tmp_path):
    for name in ("a", "a_1", "b", "c", "d"):
        write_image(tmp_path / "own" / f"{name}.jpg")
    with pytest.raises(FileNotFoundError, match="no images and masks in a shape that is recognised") as caught:
        recognise(tmp_path / "own")
    assert "5 file(s): a.jpg, a_1.jpg, ..." in str(caught.value)


def test_two_files_of_which_either_may_be_the_mask_are_refused(fill):
    with pytest.raises(FileNotFoundError, match="is recognised"):
        recognise(fill("X.tif", "X.bmp"))


def test_what_is_not_recognised_is_drawn_with_the_rule(fill):
    root = fill("photos/X.jpg", "truth/X.png", "abc")
    (root / "notes\x1b[2J.txt").touch()
    with pytest.raises(FileNotFoundError) as caught:
        recognise(root)
    message = str(caught.value)
    assert "  1 file(s): notes\\x1b[2J.txt\n  photos/\n    3 file(s): a.jpg, b.jpg, ...\n  truth/\n" in message
    assert "DIR/SPLIT/images/X.jpg  and  DIR/SPLIT/masks/X.png     split first" in message


def test_a_tree_is_short(tmp_path):
    for outer in range(20):
        for inner in range(20):
            (tmp_path / f"{outer:02}/{inner:02}/x/y").mkdir(parents=True)
    lines = draw_tree(tmp_path).splitlines()
    assert len(lines) == 31
    assert "y/" not in "".join(lines)


@pytest.mark.parametrize("given", ["train/images", "..", "test/masks"])
def test_a_wrong_level_of_a_split_first_folder_names_all_of_it(fill, given):
    for split in ("train", "val", "test"):
        root = fill(f"{split}/images/X.jpg", f"{split}/masks/X.png")
    with pytest.raises(FileNotFoundError, match="wrong level") as caught:
        load_folder((root / given).resolve(), NAMES)
    assert f"name {str(root)!r} instead" in str(caught.value)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([("labels/X.jpg", "labels/X_1.png")], "holds masks and labels, and either may be the masks; move one away"),
        ([("train/images/X.jpg", "train/masks/X.png")], "images and masks of its own, and so does train in it"),
        ([("images/val/X.jpg", "masks/valid/X.png")], "val and valid are both the validation split"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(fill, others, message):
    root = fill("images/X.jpg", "masks/X.png")
    for image, mask in others:
        fill(image, mask)
    with pytest.raises(ValueError, match=message):
        recognise(root)


def test_text_files_of_boxes_do_not_make_labels_the_masks(fill):
    root = fill("images/X.jpg", "masks/X.png")
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text("0 0.5 0.5 1 1")
    assert recognise(root).describe().startswith("flat, images and masks,")


@pytest.mark.parametrize("name", ["extra", "dev"])
def test_a_folder_beside_splits_that_is_none_is_named(fill, name):
    for split in ("train", name):
        root = fill(f"{split}/images/X.jpg", f"{split}/masks/X.png")
    with pytest.raises(ValueError, match=rf"own/{name} is not a split; the splits are train, .*: rename"):
        recognise(root)


def test_images_below_a_folder_of_both_are_named_as_unused(fill, write_image):
    root = fill("X.jpg", "X.png")
    below = write_image(root / "overlays/c.png")
    (root / "classes.txt").touch()
    assert recognise(root).unused == [below]


def test_check_data_reads_a_list_of_pairs_too(fill, tmp_path, capsys):
    root = fill("images/X.jpg", "masks/X.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    (root / "pairs.csv").write_text(
        "image,mask,split\nimages/a.jpg,masks/a.png,train\nimages/b.jpg,masks/b.png,valid\n"
    )
    arguments = [root / "pairs.csv", "--id2label", root / "classes.txt", "--contact-sheet", tmp_path / "sheet.png"]
    with pytest.raises(SystemExit) as caught:
        main(["check-data", *map(str, arguments)])
    assert caught.value.code == 0
    assert "list of pairs: 1 train, 1 validation" in capsys.readouterr().out
