"""The benchmarks run, and what they compare computes the same: each script checks that before it measures."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("learning_step.py", ["--num-labels", "4", "9", "--num-distributions", "1", "3", "--pixels", "300"]),
        ("aggregation.py", ["--grids", "4x6", "8x6", "--num-labels", "5"]),
        ("metrics.py", ["--num-labels", "5"]),
        pytest.param("transforms.py", ["--samples", "1"], marks=pytest.mark.slow),
        pytest.param(
            "network.py",
            ["--size", "64", "--backbone", "resnet18", "--num-labels", "5", "--networks", "CMDL-FCN", "plain"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_benchmarks_run(script, arguments, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [script, *arguments, "--repetitions", "1"])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 1
