import logging

import datasets
import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image

from cmdl_hf.data import BadDataError, LabelTable, load_hub
from cmdl_hf.data.sets import hub

NAMES = ["background", "leaf", "root"]


@pytest.fixture
def make_parquet(tmp_path):
    """Write a folder of Parquet as the Hub serves it; `rows` are pairs of mask pixels and image size."""

    def make(rows, split="train", **columns):
        root = tmp_path / "parquet"
        (root / "data").mkdir(parents=True, exist_ok=True)
        features = {"picture": datasets.Image(), "mask": datasets.Image()}
        content = {
            "picture": [Image.new("RGB", size, "red") for _, size in rows],
            "mask": [pixels and Image.fromarray(np.array(pixels, dtype=np.uint8)) for pixels, _ in rows],
        }
        features |= {name: datasets.Value("string") for name in columns}
        data = datasets.Dataset.from_dict(content | columns, features=datasets.Features(features))
        data.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
        return str(root)

    return make


def test_hub_columns_are_renamed_and_checked(make_parquet, cache_dir, label_array):
    path = make_parquet([([[0, 255], [1, 2]], (2, 2)), ([[2, 2, 2]], (3, 1))])
    dataset = load_hub(path, NAMES, image_column="picture", cache_dir=cache_dir)
    assert dataset["train"]["id"][:] == ["train_000000", "train_000001"]
    assert dataset["train"].column_names == ["image", "label", "id"]
    assert label_array(dataset["train"][0]).tolist() == [[0, 255], [1, 2]]
    assert dataset["train"][1]["image"].size == (3, 1)


def test_hub_ids_are_kept(make_parquet, cache_dir):
    path = make_parquet([([[0]], (1, 1))], id=["münze"])
    dataset = load_hub(path, NAMES, image_column="picture", cache_dir=cache_dir)
    assert dataset["train"]["id"][:] == ["münze"]


def test_bad_rows_are_refused_or_left_out_and_listed(make_parquet, cache_dir):
    path = make_parquet([([[0]], (1, 1)), ([[7]], (1, 1)), ([[0]], (2, 1)), (None, (1, 1))])
    with pytest.raises(BadDataError, match=r"3 file\(s\) cannot be used(?s:.*)found 7 \(1 px\)"):
        load_hub(path, NAMES, image_column="picture", cache_dir=cache_dir)
    dataset = load_hub(path, NAMES, image_column="picture", cache_dir=cache_dir, skip_bad_files=True)
    assert dataset["train"]["id"][:] == ["train_000000"]
    assert [error.path.as_posix() for error in dataset.bad_files] == [
        "train_000001/mask",
        "train_000002/picture",
        "train_000003",
    ]


def test_a_missing_hub_column_is_named(make_parquet, cache_dir):
    with pytest.raises(ValueError, match="must have a column 'image' of images"):
        load_hub(make_parquet([([[0]], (1, 1))]), NAMES, cache_dir=cache_dir)


def test_a_split_whose_masks_are_withheld_has_labels_none(make_parquet, cache_dir, label_array, caplog):
    make_parquet([([[1]], (1, 1))])
    path = make_parquet([(None, (1, 1)), (None, (3, 2))], split="test")
    with caplog.at_level(logging.INFO, logger="cmdl_hf"):
        dataset = load_hub(path, NAMES, image_column="picture", cache_dir=cache_dir)
    assert label_array(dataset["train"][0]).tolist() == [[1]]
    assert dataset["test"]["label"][:] == [None, None]
    assert dataset["test"][1]["image"].size == (3, 2)
    assert dataset["test"].features == dataset["train"].features
    assert "no sample of test has a mask" in caplog.text


def _write_classes(path, name):
    content = {
        "label_table.csv": "raw_id,train_id,name,red,green,blue\n0,0,soil,1,2,3\n1,1,leaf,4,5,6\n2,255,void,0,0,0\n",
        "id2label.json": '{"0": "soil", "1": "leaf", "2": "root"}',
    }
    (path / name).write_text(content[name])
    return path / name


@pytest.mark.parametrize(("name", "num_labels"), [("label_table.csv", 2), ("id2label.json", 3)])
def test_classes_are_found_beside_the_files(make_parquet, cache_dir, tmp_path, name, num_labels):
    path = make_parquet([([[0, 1, 2]], (3, 1))])
    file = _write_classes(tmp_path / "parquet", name)
    dataset = load_hub(path, image_column="picture", cache_dir=cache_dir)
    assert dataset.label_table == LabelTable.from_file(file)
    assert dataset.num_labels == num_labels


def test_classes_are_found_on_the_hub(make_parquet, cache_dir, tmp_path, monkeypatch):
    parquet = make_parquet([([[0, 1, 2]], (3, 1))])
    load_dataset, asked = datasets.load_dataset, []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options))
        if filename == "label_table.csv":
            raise EntryNotFoundError("404")
        return str(_write_classes(tmp_path, filename))

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, revision, **options: load_dataset(parquet, **options))
    dataset = load_hub("me/plants", image_column="picture", cache_dir=cache_dir, revision="v1")
    assert dataset.id2label[2] == "root"
    options = {"repo_type": "dataset", "revision": "v1"}
    assert asked == [("me/plants", "label_table.csv", options), ("me/plants", "id2label.json", options)]


def test_without_classes_the_cure_is_named(make_parquet, cache_dir):
    path = make_parquet([([[0]], (1, 1))])
    with pytest.raises(FileNotFoundError, match=r"neither label_table.csv nor id2label.json.*pass id2label"):
        load_hub(path, image_column="picture", cache_dir=cache_dir)


@pytest.mark.parametrize("option", [{"split": "train"}, {"streaming": True}])
def test_one_split_and_streaming_are_refused_with_the_cure(make_parquet, cache_dir, option):
    path = make_parquet([([[0]], (1, 1))])
    with pytest.raises(ValueError, match=rf" {next(iter(option))}=.* cannot be used.*select a split of the result"):
        load_hub(path, NAMES, image_column="picture", cache_dir=cache_dir, **option)
