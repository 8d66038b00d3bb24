import json
import logging

import numpy as np
import pytest
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from cmdl_hf.data import BadDataError, Label, LabelTable, load_folder, load_pairs
from cmdl_hf.data.checking import check_files
from cmdl_hf.data.sets.own import find_folder

NAMES = ["background", "leaf", "root"]


@pytest.fixture
def make_folder(tmp_path, write_image, write_mask):
    def make(folders=("train", "val"), stems=("a", "b")):
        root = tmp_path / "plants"
        for folder in folders:
            for stem in stems:
                write_image(root / "images" / folder / f"{stem}.jpg")
                write_mask(root / "masks" / folder / f"{stem}.png", [0, 1, 2, 255])
        return root

    return make


@pytest.mark.parametrize("folders", [("train", "val"), ("train", "validation", "test")])
def test_folders_of_splits(make_folder, cache_dir, label_array, folders):
    dataset = load_folder(make_folder(folders), NAMES, cache_dir=cache_dir)
    assert list(dataset) == ["train", "validation", "test"][: len(folders)]
    assert dataset.id2label == dict(enumerate(NAMES))
    assert np.unique(label_array(dataset["validation"][1])).tolist() == [0, 1, 2, 255]


def test_without_folders_of_splits_everything_is_the_train_split(make_folder, cache_dir):
    dataset = load_folder(make_folder([""]), NAMES, cache_dir=cache_dir)
    assert {split: dataset[split]["id"][:] for split in dataset} == {"train": ["a", "b"]}


@pytest.mark.parametrize("form", [lambda path: path, str])
def test_a_file_names_the_classes_every_time(make_folder, cache_dir, tmp_path, form):
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(NAMES))
    for _ in range(2):  # `datasets` replaces Path in a builder's module when the first builder is made
        assert load_folder(make_folder(), form(path), cache_dir=cache_dir).id2label == dict(enumerate(NAMES))


def test_a_table_maps_other_ids(make_folder, cache_dir, label_array):
    table = LabelTable(
        (
            Label(0, 255, "background", (0, 0, 0)),
            Label(1, 0, "leaf", (0, 255, 0)),
            Label(2, 0, "stem", (0, 128, 0)),
            Label(255, 1, "edge", (255, 255, 255)),
        )
    )
    dataset = load_folder(make_folder(), table, cache_dir=cache_dir)
    assert label_array(dataset["train"][0]).ravel()[:4].tolist() == [255, 0, 0, 1]


def test_other_classes_are_not_served_from_the_cache(make_folder, cache_dir):
    root = make_folder()
    load_folder(root, NAMES, cache_dir=cache_dir)
    with pytest.raises(BadDataError, match=r"ids must lie in 0..1, 255, found 2 \(12 px\)"):
        load_folder(root, NAMES[:2], cache_dir=cache_dir)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("masks", "has images but not masks: is that folder"), ("images", "has masks but not images: is that folder")],
)
def test_a_missing_folder_is_named(make_folder, cache_dir, missing, message):
    root = make_folder()
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=message):
        load_folder(root, NAMES, cache_dir=cache_dir)


def test_a_split_without_masks_is_named(make_folder, cache_dir):
    root = make_folder()
    (root / "masks" / "val").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"validation: beside 0 pairs there are 2 image\(s\) without mask"):
        load_folder(root, NAMES, cache_dir=cache_dir)


def test_empty_folders_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(FileNotFoundError, match="has neither images nor masks of train; add files"):
        load_folder(tmp_path, NAMES)


def test_empty_folders_of_a_split_are_named(make_folder):
    root = make_folder(["train"])
    for kind in ("images", "masks"):
        (root / kind / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="of validation; add files, or remove the empty folders"):
        load_folder(root, NAMES)


def test_an_empty_list_is_named(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,mask\n")
    with pytest.raises(FileNotFoundError, match=r"pairs.csv has neither images nor masks of any split"):
        load_pairs(tmp_path / "pairs.csv", NAMES)


def test_two_folders_of_one_split_are_refused(make_folder):
    with pytest.raises(ValueError, match="val and validation are both the validation split of own data; merge"):
        load_folder(make_folder(["val", "validation"]), NAMES)


@pytest.mark.parametrize("splits", [["train"], [""]])
def test_a_folder_that_is_no_split_is_not_passed_over(make_folder, splits):
    folder = make_folder(splits)
    (folder / "masks" / ".cache").mkdir()
    load_folder(folder, NAMES)
    (folder / "masks" / "dev").mkdir()
    with pytest.raises(ValueError, match=r"masks/dev is not a split; the splits are train, training, .*: rename"):
        load_folder(folder, NAMES)


def test_folders_below_a_split_are_read(make_folder, write_image, write_mask, cache_dir):
    root = make_folder()
    write_image(root / "images/train/city/a.jpg")
    write_mask(root / "masks/train/city/a.png", [1])
    elsewhere = write_image(root.parent / "disk/x.y.jpg").parent
    (root / "images/train/linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(root / "images/train/linked")
    write_mask(root / "masks/train/linked/x.y.png", [2])
    write_image(root / "images/train/.hidden/b.jpg")
    dataset = load_folder(root, NAMES, cache_dir=cache_dir)
    assert sorted(dataset["train"]["id"]) == ["a", "b", "city/a", "linked/x.y"]
    (root / "masks/train/city/a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 image\(s\) without mask \(first: .*train/city/a\.jpg"):
        load_folder(root, NAMES, cache_dir=cache_dir)


@pytest.mark.parametrize(
    ("image", "mask", "mode"), [(".ppm", ".pgm", "L"), (".webp", ".gif", "L"), (".JPE", ".PBM", "1")]
)
def test_every_suffix_that_is_read_is_looked_for(tmp_path, write_image, cache_dir, image, mask, mode):
    write_image(tmp_path / "own/images" / f"a{image}")
    (tmp_path / "own/masks").mkdir()
    Image.new(mode, (8, 6)).save(tmp_path / "own/masks" / f"a{mask}")
    assert load_folder(tmp_path / "own", NAMES, cache_dir=cache_dir)["train"]["id"][:] == ["a"]


def test_files_that_are_not_used_are_counted_and_named(make_folder, write_image, cache_dir, caplog):
    root = make_folder()
    load_folder(root, NAMES, cache_dir=cache_dir)
    assert "not used" not in caplog.text
    write_image(root / "images/beside.png")
    (root / "masks/train/a.npy").touch()
    (root / "masks/train/.a.png.swp").touch()
    load_folder(root, NAMES, cache_dir=cache_dir)
    assert "2 file(s) beside images and masks are not used: " in caplog.text
    for name in ("images/beside.png", "masks/train/a.npy", "files that are read end in .bmp, .gif"):
        assert name in caplog.text


@pytest.mark.parametrize("name", ["images/train/a.jpg", "masks/val/b.png"])
@pytest.mark.parametrize("target", ["/nowhere/photo.png", "loop"])
def test_a_link_to_nowhere_is_a_bad_file(make_folder, cache_dir, name, target):
    root = make_folder()
    path = root / name
    path.unlink()
    path.symlink_to(path if target == "loop" else target)
    with pytest.raises(BadDataError, match=rf"{path.name}: cannot be opened \(.*\), which is a link to ") as caught:
        load_folder(root, NAMES, cache_dir=cache_dir)
    assert "put the file there, with the right to read it, or remove this name" in str(caught.value)
    dataset = load_folder(root, NAMES, cache_dir=cache_dir, skip_bad_files=True)
    assert [error.path for error in dataset.bad_files] == [path]
    assert [error.path for error in check_files(find_folder(root, NAMES)).errors] == [path]


def test_a_full_disk_is_told_in_a_line(make_folder, cache_dir, monkeypatch):
    def fill(*_, **__):
        raise DatasetGenerationError("An error occurred") from OSError(28, "No space left on device")

    monkeypatch.setattr("cmdl_hf.data.sets.own_files.OwnFiles.download_and_prepare", fill)
    with pytest.raises(OSError, match=r"cannot be prepared in .*No space left on device; check the disk, or name"):
        load_folder(make_folder(), NAMES, cache_dir=cache_dir)


def _write_pairs(root, suffix, rows):
    path = root / f"pairs{suffix}"
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_pairs_with_splits(make_folder, cache_dir, label_array, suffix):
    root = make_folder([""])
    rows = [
        {"image": f"images/{stem}.jpg", "mask": f"masks/{stem}.png", "split": split}
        for stem, split in (("b", "train"), ("a", "val"))
    ]
    dataset = load_pairs(_write_pairs(root, suffix, rows), NAMES, cache_dir=cache_dir)
    assert {split: dataset[split]["id"][:] for split in dataset} == {"train": ["images/b"], "validation": ["images/a"]}
    assert set(label_array(dataset["train"][0]).ravel().tolist()) == {0, 1, 2, 255}


def test_pairs_without_splits_and_with_absolute_paths(make_folder, cache_dir):
    root = make_folder([""])
    rows = [{"image": str(root / "images/a.jpg"), "mask": str(root / "masks/a.png")}]
    dataset = load_pairs(_write_pairs(root, ".csv", rows), NAMES, cache_dir=cache_dir)
    assert list(dataset) == ["train"]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"picture": "a", "mask": "b"}], ValueError, "entry 1 must have an image and a mask"),
        ([{"image": "a.jpg", "mask": "a.png", "split": "dev"}], ValueError, "'dev' is not a split"),
        (
            [{"image": "a.jpg", "mask": "a.png", "split": split} for split in ("val", "")],
            ValueError,
            "'' is not a split; the splits are train, .*: name one in every entry, or in none",
        ),
        ([{"image": "no.jpg", "mask": "masks/a.png"}], FileNotFoundError, r"1 mask\(s\) without image"),
        (
            [{"image": "images/a.jpg", "mask": "masks/a.png"}, {"image": "images/b.jpg", "mask": "no.png"}],
            FileNotFoundError,
            r"beside 1 pairs there are 1 image\(s\) without mask \(first: .*b\.jpg",
        ),
        (
            [{"image": "images/a.jpg", "mask": "masks/a.png"}] * 2,
            BadDataError,
            "images/a: the split's list names it 2",
        ),
        (
            [{"image": f"images/{name}", "mask": "masks/a.png"} for name in ("a.jpg", "a.png")],
            BadDataError,
            r"a\.png: this file and images/a\.jpg have the same id 'images/a'",
        ),
    ],
)
def test_a_bad_list_is_refused(make_folder, write_image, cache_dir, rows, error, message):
    root = make_folder([""])
    write_image(root / "images" / "a.png")
    with pytest.raises(error, match=message):
        load_pairs(_write_pairs(root, ".csv", rows), NAMES, cache_dir=cache_dir)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'[{"image": "a", "mask": "b"}]',
            "entry 1 must have .*; write one object per line, without brackets",
        ),
        ("a.jsonl", b'{"image": "a", "mask": 5}', "entry 1 must have an image and a mask, .*; name both, in columns"),
        ("a.jsonl", b'{"image": ', r"a\.jsonl: .*; every line must be an object of its own"),
        ("a.csv", b"image,mask\nStra\xdfe.png,b.png\n", "must be a text file in UTF-8, found the byte 0xdf"),
        ("a.csv", b"image;mask\na.png;b.png\n", "columns image and mask that commas separate"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_pairs(tmp_path / name, NAMES)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_own_data_one_level_up_are_found(make_folder):
    root = make_folder()
    with pytest.raises(FileNotFoundError, match="the data set lies below it; name ") as caught:
        load_folder(root.parent, NAMES)
    assert f"name {str(root)!r} instead" in str(caught.value)


def test_a_missing_list_names_the_option(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no \S+nowhere: .*correct the path \(--data-dir\)"):
        load_pairs(tmp_path / "nowhere", NAMES)


def test_a_missing_file_of_classes_names_the_option(make_folder, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no file of classes \S+\.txt; correct the path in id2label \(--id2label\)"
    ):
        load_folder(make_folder(), tmp_path / "nowhere.txt")


def test_the_cures_are_those_of_own_data(make_folder, write_mask, cache_dir):
    root = make_folder()
    (root / "masks/train/a.png").rename(root / "mask")
    with pytest.raises(FileNotFoundError, match="Add the missing files, or correct the names") as caught:
        load_folder(root, NAMES, cache_dir=cache_dir)
    assert "download" not in str(caught.value)
    write_mask(root / "masks/train/a.png", [7])
    with pytest.raises(
        BadDataError, match=r"found 7 .*for own data that the file of classes names every id"
    ) as caught:
        load_folder(root, NAMES, cache_dir=cache_dir)
    assert "benchmark" not in str(caught.value)


def _load_both(root, classes, cache_dir):
    load_folder(root, classes, cache_dir=cache_dir)
    folder = "train" if (root / "images/train").is_dir() else "val"
    rows = [
        {"image": f"images/{folder}/{stem}.jpg", "mask": f"masks/{folder}/{stem}.png", "split": folder}
        for stem in ("a", "b")
    ]
    load_pairs(_write_pairs(root, ".csv", rows), classes, cache_dir=cache_dir)


@pytest.mark.parametrize("folder", ["train", "val"])
def test_a_class_written_as_255_is_warned_of(make_folder, write_mask, cache_dir, caplog, folder):
    root = make_folder([folder])
    write_mask(root / f"masks/{folder}/a.png", [0])
    write_mask(root / f"masks/{folder}/b.png", [0, 255])
    _load_both(root, NAMES[:2], cache_dir)
    split = {"train": "train", "val": "validation"}[folder]
    assert [record.levelname for record in caplog.records if record.name == "cmdl_hf.data.sets.own"] == ["WARNING"] * 2
    found = f"{split} split: of 2 classes the masks hold only 0 (background), and 255, which means ignored. If 255"
    assert caplog.text.count(found) == 2
    assert "write the class ids 0..1 into the masks" in caplog.text


_EDGE = LabelTable((Label(0, 0, "leaf", (0, 0, 0)), Label(255, 1, "edge", (1, 1, 1))))
_VOID = LabelTable((Label(0, 0, "leaf", (0, 0, 0)), Label(1, 1, "root", (1, 1, 1)), Label(9, 255, "void", (0, 0, 0))))


@pytest.mark.parametrize(
    ("ids", "classes"),
    [
        ([0, 255], NAMES[:1]),  # one class is one class
        ([0, 1, 255], NAMES),
        ([0, 1], NAMES),
        ([0], NAMES),
        ([255], NAMES),
        ([0, 255], _EDGE),
        ([0, 9], _VOID),
    ],
)
def test_what_255_may_be_is_no_warning(make_folder, write_mask, cache_dir, caplog, ids, classes):
    root = make_folder(["train"])
    for stem in ("a", "b"):
        write_mask(root / f"masks/train/{stem}.png", ids)
    with caplog.at_level(logging.WARNING, logger="cmdl_hf"):
        _load_both(root, classes, cache_dir)
    assert caplog.text == ""


def test_a_hundred_masks_of_the_split_are_looked_at(make_folder, write_mask, cache_dir, caplog, monkeypatch):
    root = make_folder(["train"], [f"{index:03d}" for index in range(150)])
    for index in range(150):
        write_mask(root / f"masks/train/{index:03d}.png", [0, 255])
    looked_at = []

    def count(label):
        looked_at.append(label)
        return np.array(label.histogram())

    monkeypatch.setattr("cmdl_hf.data.sets.own.label_histogram", count)
    load_folder(root, NAMES, cache_dir=cache_dir)
    assert len(looked_at) == 100
    caplog.clear()
    write_mask(root / "masks/train/149.png", [1])  # the last is among them
    load_folder(root, NAMES, cache_dir=cache_dir)
    assert caplog.text == ""
