"""Runs that are killed, stopped or meet a broken disk, and go on."""

import dataclasses
import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
import yaml
from own_data import write_own_data
from process_groups import run_process
from process_groups import start as start_process
from safetensors.torch import load_file
from short_runs import leave_out_pictures

from cmdl_hf.evaluation import read_counts
from cmdl_hf.training import CMDLTrainingArguments
from cmdl_hf.training.training_run import TrainingRun

RECIPE = CMDLTrainingArguments(
    crop_size=(64, 64),
    backbone="mobilenetv3_small_050",
    hidden_size=16,
    attention_size=8,
    output_stride=16,
    max_steps=8,
    total_batch_size=4,
    per_device_batch_size=2,
    learning_rate=0.05,
    warmup_steps=2,
    ema_decay=0.5,
    eval_steps=3,
    save_steps=1,
    logging_steps=2,
    num_workers=0,
)
TIMINGS = {"images_per_second", "memory_gib"}


def _run(output_dir, overrides, limit=None, num_scenes=6, is_group=False, scenes_seed=0):
    """Train on a few scenes; the target of the processes below."""
    import resource

    from cmdl_hf.data import load_synthetic
    from cmdl_hf.training import network, running

    leave_out_pictures()
    if is_group:
        os.setsid()
    running.load_data = lambda *_: load_synthetic(num_scenes, 2, 1, size=(64, 64), num_labels=4, seed=scenes_seed)
    make_model = network.make_model

    def make_drawing_model(*args):
        model = make_model(*args)
        model.memory_bank.assignment = "sample"  # so that the run depends on the process's random numbers
        return model

    running.make_model = make_drawing_model
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    running.run(dataclasses.replace(RECIPE, **overrides), output_dir)


def start(output_dir, limit=None, num_scenes=6, is_group=False, scenes_seed=0, **overrides):
    return start_process(_run, output_dir, overrides, limit, num_scenes, is_group, scenes_seed)


def run_to_the_end(output_dir, **overrides):
    run_process(_run, output_dir, overrides)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run that nothing disturbed, and the seconds it took."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_process(os.getpid)  # starts the server of processes, which takes longer than the run
    begin = time.perf_counter()
    run_to_the_end(folder)
    return folder, time.perf_counter() - begin


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


def assert_same_run(folder, expected):
    for name in ("model.safetensors", "last/model.safetensors"):
        weights, expected_weights = load_file(folder / name), load_file(expected / name)
        assert weights.keys() == expected_weights.keys()
        differing = [key for key in weights if not weights[key].equal(expected_weights[key])]
        assert not differing, name
    assert json.loads((folder / "scores.json").read_text()) == json.loads((expected / "scores.json").read_text())
    counts, expected_counts = read_counts(folder / "scores.npz"), read_counts(expected / "scores.npz")
    assert list(counts) == ["validation", "test"]
    for split, each in counts.items():
        assert np.array_equal(each.stacked, expected_counts[split].stacked)
    last = {row["step"]: row for row in rows_of(expected) if "loss" not in row}
    assert {row["step"]: row for row in rows_of(folder) if "loss" not in row} == last
    assert not list(folder.rglob("*.unfinished*"))
    assert {path.name for path in folder.rglob(".*")} <= {".lock"}


def is_finished(folder):
    file = folder / "run.json"
    return file.exists() and json.loads(file.read_text())["is_finished"]


def kill_and_resume(folder, expected, duration, num_kills, seed):
    """Kill the run `num_kills` times, each a random while after its start, then let it end."""
    draw = random.Random(seed)
    kills = 0
    while kills < num_kills:
        process = start(folder)
        process.join(timeout=draw.uniform(0.2, 0.9) * duration)
        if process.exitcode is not None:  # it came to its end first: begin anew
            assert process.exitcode == 0
            assert_same_run(folder, expected)
            shutil.rmtree(folder)
            continue
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if is_finished(folder):  # it was killed between its last file and its end
            assert_same_run(folder, expected)
            shutil.rmtree(folder)
            continue
        kills += 1
    run_to_the_end(folder)
    assert_same_run(folder, expected)


def test_killed_once_the_weights_end_bit_identical(uninterrupted, tmp_path):
    kill_and_resume(tmp_path / "run", *uninterrupted, num_kills=1, seed=0)


@pytest.mark.slow
def test_killed_three_times_the_weights_end_bit_identical(uninterrupted, tmp_path):
    kill_and_resume(tmp_path / "run", *uninterrupted, num_kills=3, seed=0)


@pytest.mark.slow
def test_killed_twenty_times_the_weights_end_bit_identical(uninterrupted, tmp_path):
    for seed in range(10):
        kill_and_resume(tmp_path / f"run{seed}", *uninterrupted, num_kills=2, seed=seed)


def test_workers_draw_the_same_samples(uninterrupted, tmp_path):
    run_to_the_end(tmp_path / "run", num_workers=2)
    assert_same_run(tmp_path / "run", uninterrupted[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_cleanly(uninterrupted, tmp_path, number):
    folder = tmp_path / "run"
    process = start(folder, save_steps=8, eval_steps=3)
    while not (folder / "metrics.jsonl").exists() or not rows_of(folder):
        assert process.exitcode is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join(timeout=120)
    assert process.exitcode == 0
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert int(checkpoint.name.removeprefix("step-")) < 8
    assert not json.loads((folder / "run.json").read_text())["is_finished"]
    run_to_the_end(folder, save_steps=8, eval_steps=3)
    assert_same_run(folder, uninterrupted[0])


def test_a_signal_to_the_whole_group_lets_the_readers_finish(uninterrupted, tmp_path):
    # as torchrun, SLURM and systemd send it
    folder = tmp_path / "run"
    process = start(folder, is_group=True, save_steps=8, num_workers=2)
    while not (folder / "metrics.jsonl").exists() or not rows_of(folder):
        assert process.exitcode is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(timeout=120)
    assert process.exitcode == 0
    assert list((folder / "checkpoints").iterdir())
    run_to_the_end(folder, save_steps=8, num_workers=2)
    assert_same_run(folder, uninterrupted[0])


def _command(arguments, is_fresh):
    """Run `python -m cmdl_hf.training` as the leader of a group of processes, in an interpreter of its own or not."""
    os.setsid()
    command = [sys.executable, "-m", "cmdl_hf.training", *map(str, arguments)]
    if is_fresh:
        os.execv(sys.executable, command)
    sys.argv = command[2:]
    runpy.run_module("cmdl_hf.training", run_name="__main__")


@pytest.mark.parametrize("is_fresh", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["forked", "fresh"])
@pytest.mark.parametrize("steps", [2, 10_000], ids=["to the end", "stopped"])
def test_a_command_with_workers_ends_when_it_is_done(tmp_path, steps, is_fresh):
    write_own_data(tmp_path / "data")
    recipe = RECIPE.to_recipe() | {"max_steps": steps, "eval_steps": 10_000, "logging_steps": 1, "num_workers": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"benchmark": "own", "warmup_steps": 0}))
    data = ["--data-dir", tmp_path / "data", "--id2label", tmp_path / "data" / "classes.txt"]
    arguments = [tmp_path / "recipe.yaml", "--output-dir", tmp_path / "run", *data]
    process = start_process(_command, arguments, is_fresh)
    try:
        if steps > 2:
            while not (tmp_path / "run" / "metrics.jsonl").exists() or not rows_of(tmp_path / "run"):
                assert process.exitcode is None
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGTERM)
        process.join(timeout=120)
        assert process.exitcode == (130 if steps > 2 else 0)
    finally:
        process.kill()
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The folder of a run that was killed after step 4, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    process = start(folder, save_total_limit=10)
    while not (folder / "checkpoints" / "step-00000004").exists():
        assert process.exitcode is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return folder


@pytest.fixture
def half_way(interrupted, tmp_path):
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_broken_checkpoints_are_passed_over(half_way, uninterrupted):
    checkpoints = half_way / "checkpoints"
    for later in checkpoints.glob("step-*"):
        if int(later.name[5:13]) > 4:
            shutil.rmtree(later)
    os.truncate(checkpoints / "step-00000004" / "optimizer.bin", 100)
    (checkpoints / "step-00000003" / "manifest.json").unlink()
    shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-00000007.unfinished")
    run_to_the_end(half_way)
    assert_same_run(half_way, uninterrupted[0])


def test_a_full_disk_loses_nothing(half_way, uninterrupted):
    before = contents(half_way / "checkpoints")
    process = start(half_way, limit=100_000, save_total_limit=10)
    process.join(timeout=120)
    assert process.exitcode == 1
    assert contents(half_way / "checkpoints") == before
    run_to_the_end(half_way)
    assert_same_run(half_way, uninterrupted[0])


@pytest.mark.parametrize(
    ("overrides", "weights", "message"),
    [
        ({"max_steps": 9}, None, "max_steps was 8 and is now 9"),
        ({"seed": 1, "crop_size": (32, 64)}, None, r"crop_size was \[64, 64\] and is now \[32, 64\], seed was 0"),
        ({}, "resnet18.safetensors", "weights was None and is now resnet18.safetensors"),
    ],
)
def test_a_run_of_another_recipe_is_refused(half_way, overrides, weights, message):
    before = contents(half_way)
    with pytest.raises(FileExistsError, match=message):
        TrainingRun(dataclasses.replace(RECIPE, **overrides), half_way, weights)
    assert contents(half_way) == before


@pytest.mark.parametrize("other", [{"num_scenes": 7}, {"scenes_seed": 1}], ids=["images", "content of the same names"])
def test_a_run_on_other_data_is_refused(half_way, other):
    before = contents(half_way)
    process = start(half_way, **other)
    process.join(timeout=120)
    assert process.exitcode == 1
    after = contents(half_way)
    after.pop(half_way / ".lock", None)
    before.pop(half_way / ".lock", None)
    assert after == before


@pytest.mark.parametrize(
    ("part", "found", "message"),
    [
        ("splits", {"train": "b"}, r"\(other images\); use the same data"),
        ("contents", {"train": "b"}, r"\(other images or masks under the same names\)"),
        ("classes", ["leaf"], r"\(other classes\)"),
        ("class_weights", [1.0], r"\(other class weights\)"),
    ],
)
def test_what_differs_is_named(half_way, part, found, message):
    place = TrainingRun(RECIPE, half_way)._place
    data = place.facts["data"]
    place.check_data(data)
    with pytest.raises(FileExistsError, match=message):
        place.check_data(data | {part: found})


def test_a_run_of_an_earlier_version_goes_on_without_a_digest_of_the_content(half_way):
    place = TrainingRun(RECIPE, half_way)._place
    data = dict(place.facts["data"])
    del place.facts["data"]["contents"]
    place.check_data(data)


def test_two_processes_do_not_write_into_one_folder(half_way):
    before = contents(half_way)
    with filelock.FileLock(half_way / ".lock"):
        process = start(half_way)
        process.join(timeout=120)
    assert process.exitcode == 1
    assert {path: content for path, content in contents(half_way).items() if path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }


def test_a_finish_that_was_interrupted_is_made_up_for(uninterrupted, tmp_path):
    folder = Path(shutil.copytree(uninterrupted[0], tmp_path / "run"))
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"is_finished": False}))
    (folder / "README.md").unlink()
    run_to_the_end(folder)
    assert (folder / "README.md").read_text() == (uninterrupted[0] / "README.md").read_text()
    assert_same_run(folder, uninterrupted[0])


def test_what_does_not_change_the_steps_may_change(half_way):
    TrainingRun(dataclasses.replace(RECIPE, num_workers=3, save_steps=5, logging_steps=1), half_way)


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "locked")  # root may write everywhere
    with pytest.raises(PermissionError, match=r"locked cannot be written to; name another folder with --output-dir"):
        TrainingRun(RECIPE, tmp_path / "locked" / "a" / "run")


def test_a_finished_run_is_refused(uninterrupted):
    with pytest.raises(FileExistsError, match="finished run; name a new folder"):
        TrainingRun(RECIPE, uninterrupted[0])
