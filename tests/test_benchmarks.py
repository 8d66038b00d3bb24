"""The benchmarks run, and what they compare computes the same: each script checks that before it measures."""

import contextlib
import importlib
import io
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ONCE = ["--repetitions", "1"]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("learning_step.py", ["--num-labels", "4", "9", "--num-distributions", "1", "3", "--pixels", "300", *ONCE]),
        ("aggregation.py", ["--grids", "4x6", "8x6", "--num-labels", "5", *ONCE]),
        ("losses.py", ["--batch-size", "2", "--size", "32", "--num-labels", "5", *ONCE]),
        ("metrics.py", ["--num-labels", "5", *ONCE]),
        ("gpu_checks.py", ["--device", "cpu", "--only", "agrees with the CPU, none"]),
        pytest.param("gpu_checks.py", ["--device", "cpu"], marks=pytest.mark.slow),
        pytest.param("assignment.py", ["--num-distributions", "1", "3", "--steps", "2"], marks=pytest.mark.slow),
        pytest.param("startup.py", ["--backbone", "resnet18", *ONCE], marks=pytest.mark.slow),
        pytest.param("inference.py", ["--size", "64", "128", "--num-labels", "5"], marks=pytest.mark.slow),
        pytest.param("transforms.py", ["--samples", "1", *ONCE], marks=pytest.mark.slow),
        pytest.param(
            "network.py",
            ["--size", "64", "--backbone", "resnet18", "--num-labels", "5", "--networks", "CMDL-FCN", "plain", *ONCE],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_benchmarks_run(script, arguments, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("FAIL")]
    assert [line for line in lines if line.startswith(("| ", "ok")) and "---" not in line]


SLOW_PART = """
import subprocess, sys, time
print("| a | b |\\n|---|---|\\n| 1 | 2 |", flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # holds the output open
time.sleep(60)
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def test_gpu_parts_end_in_time_and_leave_their_rows(gpu, tmp_path, monkeypatch):
    scripts = {
        "slow.py": SLOW_PART,
        "bad.py": "print('FAIL  x: y')\nraise SystemExit(1)",
        "good.py": "print('ok    z')",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0)
    names = ["good.py", "slow.py", "bad.py", "missing.py"]
    seen, out = io.StringIO(), tmp_path / "rows.json"
    start = time.monotonic()
    failed = gpu.run_parts([gpu.Part(name, 1, [name]) for name in names], 8, out, seen)
    assert time.monotonic() - start < 8
    good, slow, bad, missing = json.loads(out.read_text())
    assert failed == 1
    assert (good["status"], good["checks"]) == ("done", ["ok    z"])
    assert slow["status"].startswith("stopped")
    assert slow["rows"] == [{"table": "", "a": "1", "b": "2"}]
    assert (bad["status"], bad["checks"]) == ("failed with 1", ["FAIL  x: y"])
    assert missing["status"] == "there is no such script"
    assert "| 1 | 2 |" in seen.getvalue()


def test_gpu_reads_tables(gpu):
    lines = ["text", "", "| a | b |", "|---|---|", "| 1 | x: y |", "| 2 |  |", "more", "| 3 | 4 |"]
    assert list(gpu.read_tables(lines)) == [
        {"table": "text", "a": "1", "b": "x: y"},
        {"table": "text", "a": "2", "b": ""},
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gpu_runs_the_most_valuable_first_within_the_time(gpu, device):
    parts = gpu.make_parts(device)
    assert [part.name for part in parts[:3]] == ["correctness", "network, eager", "losses alone"]
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert all("--device" in part.command and device in part.command for part in parts)


def test_a_cuda_device_computes_what_the_cpu_does(cuda, gpu):
    part = gpu.make_parts(cuda.type)[0]
    gpu.run_part(part, time.monotonic() + 300, sys.stdout, lambda: None)
    assert part.status == "done", part.lines


def test_gpu_needs_no_data_sets_and_no_command_line():
    """The training loop trains on tensors where neither datasets nor cyclopts is installed, nor what they bring."""
    absent = ["datasets", "cyclopts", "evaluate", "pyarrow", "matplotlib", "sklearn", "segmentation_models_pytorch"]
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({absent})); sys.path.insert(0, {str(BENCHMARKS)!r}); "
        "sys.argv[1:] = ['--device', 'cpu']; import gpu_checks, network, learning_step; "
        f"runpy.run_path({str(BENCHMARKS / 'gpu_loop.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| JPEG images | 1 |" in done.stdout
