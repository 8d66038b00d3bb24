import pytest
from safetensors import SafetensorError

from cmdl_hf.files import check_can_write, write_files, write_text


def test_files_are_replaced_whole_and_what_a_killed_process_left_goes(tmp_path):
    folder = tmp_path / "run"
    (folder / ".writing-killed").mkdir(parents=True)
    (folder / ".writing-killed" / "half").touch()
    (folder / ".writing-killed.png").touch()
    write_text(folder / "a.txt", "old")
    write_files(folder, lambda place: (place / "a.txt").write_text("new"))
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert (folder / "a.txt").read_text() == "new"


def test_weights_of_another_shape_go_when_the_new_ones_are_there(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "model.png"):
        write_text(tmp_path / name, "old")
    write_files(tmp_path, lambda place: (place / "config.json").write_text("new"))
    assert len(list(tmp_path.iterdir())) == 5
    write_files(tmp_path, lambda place: (place / "model.safetensors").write_text("new"))
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "model.png"}
    write_files(tmp_path, lambda place: (place / "model-00001-of-00001.safetensors").write_text("newer"))
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("error", [SafetensorError("IoError: No space left on device"), OSError(28, "No space")])
def test_what_cannot_be_written_leaves_what_was_there(tmp_path, error):
    write_text(tmp_path / "model.safetensors", "old")

    def write(place):
        (place / "model.safetensors").write_text("half of the n")
        raise error

    with pytest.raises(OSError, match="No space"):
        write_files(tmp_path, write)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_text() == "old"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    check_can_write(tmp_path / "new" / "scores.json", is_folder=False)
    check_can_write(tmp_path / "folder", is_folder=True)
    assert list((tmp_path / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=r"file/scores.json cannot be written .*; name another place"):
        check_can_write(tmp_path / "file" / "scores.json", is_folder=False)
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"):
        check_can_write(tmp_path / "folder", is_folder=False)
