"""The examples that put CMDL on a foreign segmenter, as a reader would run them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LAUNCHER = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]


def run_example(name, folder, *flags, launcher=()):
    command = [sys.executable, *launcher, str(EXAMPLES / name), "--output-dir", str(folder), *flags]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    first, last = map(float, re.search(r"loss: ([\d.]+) at first, ([\d.]+) at last", result.stdout).groups())
    assert result.stdout.count("test: mean IoU") == 1
    assert (folder / "model.safetensors").is_file()
    return first, last


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("plug_into_torchvision.py", ["--max-steps", "12"]),
        ("plug_into_smp.py", ["--max-steps", "20"]),
        ("plug_into_transformers.py", ["--max-steps", "30"]),
        ("plug_into_transformers.py", ["--max-steps", "30", "--lora"]),
    ],
)
def test_the_loss_falls_and_the_model_is_saved(tmp_path, name, flags):
    first, last = run_example(name, tmp_path, "--image-size", "64", "64", "--batch-size", "4", *flags)
    assert last < first


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--compile"], []])
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("plug_into_torchvision.py", []),
        ("plug_into_smp.py", []),
        ("plug_into_transformers.py", []),
        ("plug_into_transformers.py", ["--lora"]),
    ],
)
def test_compiled_and_in_two_processes(tmp_path, name, own, flags):
    launcher = [] if flags else LAUNCHER
    settings = ["--image-size", "64", "64", "--batch-size", "4", "--max-steps", "20"]
    first, last = run_example(name, tmp_path, *settings, *own, *flags, launcher=launcher)
    assert last < first
