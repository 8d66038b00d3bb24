import pytest

from cmdl_hf.cli import main
from cmdl_hf.data import check_trainable, load_folder, load_synthetic
from cmdl_hf.data.checking import check_files
from cmdl_hf.data.sets.own import find_folder


@pytest.fixture
def void(photos, write_mask):
    """Own data without a pixel of a class."""
    for stem in ("a", "b"):
        write_mask(photos / "masks" / f"{stem}.png", [255])
    return photos


def test_masks_of_void_alone_are_refused(void, write_mask, cache_dir):
    message = "every pixel of the train split is ignored"
    with pytest.raises(ValueError, match=f"{message} .*; write class ids into the masks") as caught:
        check_trainable(load_folder(void, ["leaf", "root"], cache_dir=cache_dir), str(void))
    assert str(caught.value).startswith(f"{void}: ")
    (error,) = check_files(find_folder(void, ["leaf", "root"])).errors
    assert message in str(error)
    write_mask(void / "masks/b.png", [255] * 47 + [1])  # a single pixel
    check_trainable(load_folder(void, ["leaf", "root"], cache_dir=cache_dir), str(void))
    assert check_files(find_folder(void, ["leaf", "root"])).errors == []


def test_one_class_alone_is_refused(photos, write_mask, cache_dir):
    for stem in ("a", "b"):
        write_mask(photos / "masks" / f"{stem}.png", [0])
    message = "a network tells at least two classes apart, found 'leaf' alone; name what surrounds it"
    with pytest.raises(ValueError, match=message):
        check_trainable(load_folder(photos, ["leaf"], cache_dir=cache_dir), "photos")
    assert [message in str(error) for error in check_files(find_folder(photos, ["leaf"])).errors] == [True]


def test_no_train_split_is_refused():
    scenes = load_synthetic(1, 1, 1, size=(16, 16))
    check_trainable(scenes, "scenes")
    del scenes["train"]
    with pytest.raises(ValueError, match="scenes has no train split, only validation, test"):
        check_trainable(scenes, "scenes")


@pytest.mark.parametrize(("classes", "reason"), [("leaf\nroot", "every pixel"), ("leaf", "at least two classes")])
def test_the_training_ends_before_it_begins(void, tmp_path, classes, reason):
    (void / "classes.txt").write_text(classes)
    arguments = ["own", "--data-dir", void, "--id2label", void / "classes.txt", "--output-dir", tmp_path / "run"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *map(str, arguments)])
    assert reason in str(stopped.value.code)
    assert not (tmp_path / "run").exists()
