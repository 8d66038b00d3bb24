import logging
import shutil

import pytest

from cmdl_hf.data import load_benchmark, make_builder


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "ade20k", "coco_stuff"])
def test_a_missing_folder_names_the_tree_and_the_source(tmp_path, name):
    folder = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError) as caught:
        load_benchmark(name, folder)
    message = str(caught.value)
    assert f"{folder} does not exist; correct data_dir (--data-dir)" in message
    assert "The folder of the data set must hold" in message
    assert "come from http" in message


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "camvid.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"camvid\.zip is a file; correct data_dir \(--data-dir\)"):
        load_benchmark("camvid", tmp_path / "camvid.zip")


def test_an_unrelated_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none of train, trainannot"):
        load_benchmark("camvid", tmp_path)


@pytest.mark.parametrize(
    ("given", "direction"), [("..", "below"), ("../..", "below"), ("train", "above"), ("trainannot", "above")]
)
def test_the_right_folder_is_named_when_the_wrong_level_is_given(make_camvid, tmp_path, given, direction):
    (tmp_path / "data" / "sets").mkdir(parents=True)
    root = make_camvid().rename(tmp_path / "data" / "sets" / "CamVid")
    with pytest.raises(FileNotFoundError, match=rf"wrong level: the data set lies {direction} it") as caught:
        load_benchmark("camvid", (root / given).resolve())
    assert f"name {str(root)!r} instead" in str(caught.value)


def test_half_a_layout_is_named(make_camvid):
    root = make_camvid()
    shutil.rmtree(root / "trainannot")
    with pytest.raises(FileNotFoundError, match="has train but not trainannot: is the download incomplete"):
        load_benchmark("camvid", root)


def test_a_missing_split_is_named_with_the_cure(make_camvid, cache_dir):
    root = make_camvid(lists=None)
    for folder in ("val", "valannot"):
        shutil.rmtree(root / folder)
    with pytest.raises(
        FileNotFoundError, match=r"no files of the validation split.*splits=\['train', 'test'\].*--splits train test"
    ):
        load_benchmark("camvid", root)
    assert list(load_benchmark("camvid", root, splits=["train", "test"], cache_dir=cache_dir)) == ["train", "test"]


def test_half_a_download_is_counted(make_camvid, cache_dir):
    root = make_camvid()
    (root / "train" / "0016E5_00001.png").unlink()
    (root / "testannot" / "0016E5_00002.png").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_benchmark("camvid", root, cache_dir=cache_dir)
    message = str(caught.value)
    assert "download is incomplete, fetch the rest" in message
    assert "skip_bad_files=True in Python, or for a public data set cmdl prepare --skip-bad-files" in message
    assert "train: beside 1 pairs there are 1 mask(s) without image" in message
    assert "test: beside 1 pairs there are 1 image(s) without mask" in message


def test_listed_names_without_files_are_counted(make_camvid, cache_dir):
    root = make_camvid("stems")
    with (root / "val.txt").open("a") as stream:
        stream.write("0016E5_09999\n")
    with pytest.raises(FileNotFoundError, match=r"1 listed name\(s\) without either \(first: 0016E5_09999\)"):
        load_benchmark("camvid", root, cache_dir=cache_dir)


def test_a_split_without_masks_is_named(make_camvid, cache_dir):
    root = make_camvid()
    shutil.rmtree(root / "testannot")
    with pytest.raises(FileNotFoundError, match=r"test: beside 0 pairs there are 2 image\(s\) without mask"):
        load_benchmark("camvid", root, cache_dir=cache_dir)


def test_fewer_images_than_the_owner_gives_are_told(make_camvid, cache_dir, caplog):
    with caplog.at_level(logging.WARNING, logger="cmdl_hf"):
        load_benchmark("camvid", make_camvid(), cache_dir=cache_dir)
    assert "CamVid, train: 2 of 367 images" in caplog.text


def test_unknown_names_are_refused(make_camvid):
    with pytest.raises(
        ValueError,
        match=r"'kitti'; known are ade20k, camvid, cityscapes, coco_stuff, own, synth.*--plugin",
    ):
        load_benchmark("kitti", ".")
    with pytest.raises(ValueError, match="has the splits train, validation, test, not val"):
        load_benchmark("camvid", make_camvid(), splits=["val"])
    with pytest.raises(TypeError, match="num_classes"):
        load_benchmark("camvid", make_camvid(), num_classes=12)


def test_a_builder_lists_files_without_reading_them(make_camvid, cache_dir):
    builder = make_builder("camvid", make_camvid(), cache_dir=cache_dir)
    sample = builder.files["train"].samples[0]
    assert sample.id == "0016E5_00001"
    assert builder.read_label(sample.mask).size == (8, 6)
