import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard, RepoUrl

from cmdl_hf.data import BadFileError, LabelTable, load_hub, load_synthetic, make_builder
from cmdl_hf.data.dataset_card import make_dataset_card
from cmdl_hf.data.parquet import CLASSES_FILE, write_parquet
from cmdl_hf.hub import check_can_push_dataset, push_dataset


@pytest.fixture
def prepare(make_camvid, tmp_path, cache_dir):
    """Write a tiny CamVid as Parquet with its card; returns the data set and the folder."""

    def prepare(max_shard_bytes=500_000_000, bad_files=(), **options):
        builder = make_builder("camvid", make_camvid(**options), cache_dir=cache_dir)
        dataset = builder.load()
        dataset.bad_files += bad_files
        info = write_parquet(dataset, tmp_path / "out", max_shard_bytes)
        card = make_dataset_card(dataset, info, builder.benchmark, builder.layout, "me/camvid")
        card.save(tmp_path / "out" / "README.md")
        return dataset, tmp_path / "out"

    return prepare


def _assert_same(read, dataset):
    for sample, expected in zip(read, dataset, strict=True):
        assert sample["id"] == expected["id"]
        assert sample["label"].mode == "L"
        for column in ("image", "label"):
            np.testing.assert_array_equal(np.asarray(sample[column]), np.asarray(expected[column]))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_load_dataset_reads_back_every_pixel(prepare, cache_dir, suffix):
    dataset, folder = prepare(suffix=suffix)
    read = datasets.load_dataset(str(folder), cache_dir=str(cache_dir))
    assert list(read) == ["train", "validation", "test"]
    assert read["train"].features == dataset["train"].features
    for split in dataset:
        _assert_same(read[split], dataset[split])
    assert 255 in np.asarray(read["test"][0]["label"])


def test_the_folder_streams(prepare, cache_dir):
    dataset, folder = prepare()
    stream = datasets.load_dataset(str(folder), split="validation", streaming=True, cache_dir=str(cache_dir))
    _assert_same(stream, dataset["validation"])


def test_the_files_hold_the_owners_bytes_and_no_path(prepare, make_camvid, cache_dir):
    _, folder = prepare(suffix=".jpg")
    images = datasets.load_dataset(str(folder), split="train", cache_dir=str(cache_dir))
    value = images.cast_column("image", datasets.Image(decode=False))[0]["image"]
    original = folder.parent / "CamVid" / "train" / "0016E5_00001.jpg"
    assert value == {"bytes": original.read_bytes(), "path": "0016E5_00001.jpg"}


def test_large_splits_make_several_files(prepare, cache_dir):
    dataset, folder = prepare(max_shard_bytes=300, frames=("0016E5_00001", "0016E5_00002", "0016E5_00003"))
    assert [path.name for path in sorted((folder / "data").glob("train*"))] == [
        f"train-0000{index}-of-00003.parquet" for index in range(3)
    ]
    _assert_same(datasets.load_dataset(str(folder), split="train", cache_dir=str(cache_dir)), dataset["train"])


def test_labels_that_are_withheld_stay_none(tmp_path, cache_dir):
    scenes = load_synthetic(num_train=1, num_validation=1, num_test=2, size=(16, 16))
    features = scenes["test"].features
    scenes["test"] = scenes["test"].map(lambda sample: {"label": None}, features=features)
    write_parquet(scenes, tmp_path / "out")
    read = datasets.load_dataset(str(tmp_path / "out" / "data"), cache_dir=str(cache_dir))
    assert read["test"]["label"][:] == [None, None]
    _assert_same(read["train"], scenes["train"])
    again = load_hub(str(tmp_path / "out"), mask_column="label", cache_dir=cache_dir)
    assert again["test"]["label"][:] == [None, None]
    _assert_same(again["train"], scenes["train"])


def test_classes_lie_beside_the_files(prepare, cache_dir):
    dataset, folder = prepare()
    names = json.loads((folder / "id2label.json").read_text())
    assert {int(id_): name for id_, name in names.items()} == dataset.id2label
    table = LabelTable.from_file(folder / CLASSES_FILE)
    assert (table.id2label, table.palette) == (dataset.id2label, dataset.palette)
    for again in (
        load_hub(str(folder), mask_column="label", cache_dir=cache_dir),
        load_hub(str(folder), folder / CLASSES_FILE, mask_column="label", cache_dir=cache_dir),
    ):
        assert again.label_table == table
        _assert_same(again["train"], dataset["train"])


def test_the_card_tells_what_is_inside(prepare):
    _, folder = prepare(bad_files=[BadFileError(Path("/a/b/broken.png"), "cannot be decoded", "fetch it again")])
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "other"
    assert card.data.license_name == "camvid-terms"
    assert card.data.task_ids == ["semantic-segmentation"]
    assert card.data.size_categories == "n<1K"
    splits = card.data.dataset_info["splits"]
    assert [(split["name"], split["num_examples"]) for split in splits] == [
        ("train", 2),
        ("validation", 2),
        ("test", 2),
    ]
    for text in (
        "| 10 | Bicyclist | `#0080c0` |",
        "| train | 2 | 367 | yes |",
        "CC BY-NC 4.0",
        "@article{brostow2009semantic",
        "- `broken.png`: cannot be decoded",
        'load_dataset("me/camvid")',
    ):
        assert text in card.text
    assert str(folder.parent) not in (folder / "README.md").read_text()


def test_an_existing_folder_is_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        write_parquet(load_synthetic(1, 1, 1, size=(16, 16)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


class _Hub:
    """Remembers what it is asked for, in place of `HfApi`."""

    calls: tuple = ()

    def __init__(self, **_):
        pass

    def create_repo(self, repo_id, **options):
        _Hub.calls += (("create_repo", repo_id, options),)
        return RepoUrl(f"https://huggingface.co/datasets/{repo_id}")

    def upload_folder(self, **options):
        _Hub.calls += (("upload_folder", options),)


@pytest.mark.parametrize("private", [True, False])
def test_pushing_uploads_the_folder(prepare, monkeypatch, private):
    _, folder = prepare()
    monkeypatch.setattr("cmdl_hf.hub.datasets.HfApi", _Hub)
    monkeypatch.setattr(_Hub, "calls", ())
    assert push_dataset(folder, "me/camvid", private).endswith("datasets/me/camvid")
    create, upload = _Hub.calls
    assert create == ("create_repo", "me/camvid", {"repo_type": "dataset", "private": private, "exist_ok": True})
    assert (upload[1]["repo_id"], upload[1]["repo_type"]) == ("me/camvid", "dataset")
    assert upload[1]["folder_path"].parent == folder  # a snapshot of what goes there
    assert upload[1]["delete_patterns"] == "data/*.parquet"


@pytest.mark.parametrize("repo_id", ["camvid", "me/", "/camvid", "a/b/c"])
def test_a_name_without_organisation_is_refused(repo_id):
    with pytest.raises(ValueError, match="organisation/name, found"):
        check_can_push_dataset(repo_id)


def test_who_is_not_logged_in_is_told_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PermissionError, match="you are not logged in to the Hub"):
        check_can_push_dataset("me/camvid")
