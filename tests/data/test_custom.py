import json

import numpy as np
import pytest

from cmdl_hf.data import BadDataError, Label, LabelTable, load_folder, load_pairs

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
    ("missing", "message"), [("masks", "has images but not masks"), ("images", "has masks but not images")]
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
    with pytest.raises(FileNotFoundError, match="has neither images nor masks of train; add them"):
        load_folder(tmp_path, NAMES)


def test_empty_folders_of_a_split_are_named(make_folder):
    root = make_folder(["train"])
    for kind in ("images", "masks"):
        (root / kind / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="of validation; add them, or remove the empty folders"):
        load_folder(root, NAMES)


def test_an_empty_list_is_named(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,mask\n")
    with pytest.raises(FileNotFoundError, match=r"pairs.csv has neither images nor masks of any split"):
        load_pairs(tmp_path / "pairs.csv", NAMES)


def test_two_folders_of_one_split_are_refused(make_folder):
    with pytest.raises(ValueError, match="both val and validation"):
        load_folder(make_folder(["val", "validation"]), NAMES)


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
        ([{"image": "a.jpg", "mask": "a.png", "split": "dev"}], ValueError, "'dev' is no split"),
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
            r"a\.png: it and images/a\.jpg have one id, 'images/a'",
        ),
    ],
)
def test_a_bad_list_is_refused(make_folder, write_image, cache_dir, rows, error, message):
    root = make_folder([""])
    write_image(root / "images" / "a.png")
    with pytest.raises(error, match=message):
        load_pairs(_write_pairs(root, ".csv", rows), NAMES, cache_dir=cache_dir)
