import json
import os

import pytest
from accelerate import PartialState

from cmdl_hf.training.checkpoints import Checkpoints


@pytest.fixture
def checkpoints(tmp_path):
    PartialState()
    return Checkpoints(tmp_path / "checkpoints", total_limit=2)


def write_file(text):
    return lambda folder: (folder / "model.bin").write_text(text)


def test_what_is_saved_is_read_back_and_the_oldest_go(checkpoints):
    assert checkpoints.newest() is None
    for step in (5, 10, 15):
        checkpoints.save(step, write_file(f"weights of {step}"), {"seconds": step / 2})
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000010", "step-00000015"]
    newest = checkpoints.newest()
    assert checkpoints.read(newest) == {"step": 15, "num_processes": 1, "seconds": 7.5}
    assert (newest / "model.bin").read_text() == "weights of 15"


def truncate(checkpoint):
    os.truncate(checkpoint / "model.bin", 3)


def zero(checkpoint):
    (checkpoint / "model.bin").write_bytes(bytes(10))


def remove_file(checkpoint):
    (checkpoint / "model.bin").unlink()


def remove_manifest(checkpoint):
    (checkpoint / "manifest.json").unlink()


def tear_manifest(checkpoint):
    os.truncate(checkpoint / "manifest.json", 10)


def misshape_manifest(checkpoint):
    (checkpoint / "manifest.json").write_text('{"files": {"model.bin": 10}}')


def rename(checkpoint):
    checkpoint.rename(checkpoint.with_name(checkpoint.name + ".unfinished"))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "model.bin has 3 bytes, not 10"),
        (zero, "model.bin has changed since it was written"),
        (remove_file, "model.bin is missing"),
        (remove_manifest, "manifest.json is missing"),
        (tear_manifest, "manifest.json is missing or unreadable"),
        (misshape_manifest, "manifest.json is missing or unreadable"),
        (rename, "its writing was interrupted"),
    ],
)
def test_a_broken_checkpoint_is_skipped_with_a_message_and_replaced(checkpoints, caplog, damage, problem):
    checkpoints.save(1, write_file("first"), {})
    damage(checkpoints.save(2, write_file("0123456789"), {}))
    assert checkpoints.newest().name == "step-00000001"
    assert problem in caplog.text
    assert "skipped" in caplog.text
    checkpoints.save(2, write_file("second"), {})
    assert (checkpoints.newest() / "model.bin").read_text() == "second"
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000001", "step-00000002"]


def test_broken_checkpoints_take_no_place_of_whole_ones(checkpoints):
    checkpoints.save(1, write_file("first"), {})
    for step in (8, 9):
        truncate(checkpoints.save(step, write_file(f"weights of {step}"), {}))
    for step in (2, 3, 4):
        checkpoints.save(step, write_file(f"weights of {step}"), {})
        assert checkpoints.newest().name == f"step-0000000{step}"
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_what_cannot_be_written_leaves_the_checkpoints_as_they_were(checkpoints, error):
    before = checkpoints.save(1, write_file("first"), {})

    def fail(folder):
        (folder / "model.bin").write_text("half of")
        raise error

    with pytest.raises(OSError, match=r"step-00000002: .*free space.*continues from .*step-00000001"):
        checkpoints.save(2, fail, {})
    assert list(checkpoints.folder.iterdir()) == [before]
    assert json.loads((before / "manifest.json").read_text())["files"].keys() == {"model.bin"}


def test_a_folder_that_cannot_be_made_is_named(checkpoints, tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(OSError, match=r"cannot write checkpoint .*step-00000001.*continues from the beginning"):
        checkpoints.save(1, write_file("first"), {})
