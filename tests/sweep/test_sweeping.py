"""Runs of a sweep in processes of their own. Here a process only writes `run.json`, and takes no time."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cmdl_hf.sweep import PlannedRun, sweep
from cmdl_hf.sweep.sweeping import divide_threads

WORK = """
import json, os, pathlib, signal, sys, time
folder, seconds, status = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
(folder / "run.json").write_text(json.dumps({"recipe": {}, "is_finished": False}))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
(folder / "begin").write_text(str(time.time()))
print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
time.sleep(seconds)
(folder / "end").write_text(str(time.time()))
if status:
    sys.exit("cmdl: there is no image")
(folder / "run.json").write_text(json.dumps({"recipe": {}, "is_finished": True}))
"""


@pytest.fixture
def runs(tmp_path):
    return [PlannedRun(name, (), tmp_path / name) for name in ("a", "b", "c", "d")]


def make_command(seconds=0.05, failing=()):
    return lambda run: [sys.executable, "-S", "-c", WORK, run.folder, str(seconds), str(int(run.name in failing))]


def test_all_runs_are_trained_and_told_of(runs, tmp_path):
    told = []
    outcome = sweep(runs, make_command(), tmp_path / "logs", tell=told.append)
    assert (outcome.finished, outcome.failed, outcome.is_stopped) == (runs, {}, False)
    assert [line.split(",")[0] for line in told[::2]] == [f"started {run.name}" for run in runs]
    assert "threads" in (tmp_path / "logs" / "d.log").read_text()
    spans = sorted(tuple(float((run.folder / name).read_text()) for name in ("begin", "end")) for run in runs)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_two_at_a_time_divide_the_threads(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    sweep(runs[:2], make_command(1.0), tmp_path / "logs", jobs=2)
    begins, ends = ([float((run.folder / name).read_text()) for run in runs[:2]] for name in ("begin", "end"))
    assert max(begins) < min(ends)
    assert "threads 2" in (tmp_path / "logs" / "a.log").read_text()


def test_threads_are_divided_and_at_least_one(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("cmdl_hf.sweep.sweeping.os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [divide_threads(jobs) for jobs in (1, 2, 3, 20)] == [8, 4, 2, 1]


def test_a_run_that_fails_stops_no_other_and_is_named_with_its_reason(runs, tmp_path):
    outcome = sweep(runs, make_command(failing="bd"), tmp_path / "logs", jobs=2)
    assert [run.name for run in outcome.finished] == ["a", "c"]
    assert outcome.failed == dict.fromkeys("bd", "cmdl: there is no image")


def test_finished_runs_are_kept_and_failed_ones_tried_again(runs, tmp_path):
    sweep(runs, make_command(failing="b"), tmp_path / "logs")
    begin = (runs[0].folder / "begin").read_text()
    told = []
    outcome = sweep(runs, make_command(), tmp_path / "logs", tell=told.append)
    assert (outcome.finished, outcome.failed) == (runs, {})
    assert told[0] == "3 of 4 runs are finished already"
    assert told[1].startswith("continued b")
    assert (runs[0].folder / "begin").read_text() == begin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_runs_and_the_sweep_goes_on_later(runs, tmp_path, number):
    def stop():
        while not all((run.folder / "begin").exists() for run in runs[:2]):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    thread = threading.Thread(target=stop)
    thread.start()
    outcome = sweep(runs, make_command(60), tmp_path / "logs", jobs=2)
    thread.join()
    assert (outcome.finished, outcome.failed, outcome.is_stopped) == ([], {}, True)
    assert [run.state for run in runs] == ["unfinished", "unfinished", "new", "new"]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert sweep(runs, make_command(), tmp_path / "logs").finished == runs


def test_a_run_that_is_ended_before_it_listens_has_not_failed(runs, tmp_path):
    begin = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"

    def stop():
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    outcome = sweep(runs[:1], lambda _: [sys.executable, "-S", "-c", begin, tmp_path / "begun"], tmp_path / "logs")
    thread.join()
    assert (outcome.finished, outcome.failed, outcome.is_stopped) == ([], {}, True)


def test_no_log_is_written_through_a_link(runs, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="is a link"):
        sweep(runs, make_command(), tmp_path / "logs")
    assert (tmp_path / "mine").read_text() == "mine"


LEFT = """
import pathlib, signal, sys, time
from cmdl_hf.sweep.watching import stop_with_sweep
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("stopped")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
stop_with_sweep()
print("ready", flush=True)
time.sleep(60)
"""
SWEEP = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
time.sleep(60)
"""


def test_a_run_ends_when_its_sweep_is_killed(tmp_path):
    words = [sys.executable, "-c", LEFT, str(tmp_path / "note")]
    process = subprocess.Popen([sys.executable, "-S", "-c", SWEEP, *words], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    assert process.stdout.read() == b""  # the run is gone, too
    process.wait()
    process.stdout.close()
    assert (tmp_path / "note").read_text() == "stopped"


def test_a_process_that_says_it_is_done_but_is_not_has_failed(runs, tmp_path):
    outcome = sweep(runs[:1], lambda _: [sys.executable, "-S", "-c", "pass"], tmp_path / "logs")
    assert outcome.failed == {"a": "exit status 0"}
