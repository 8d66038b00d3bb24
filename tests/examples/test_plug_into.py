"""The examples that put CMDL on a foreign segmenter, as a reader would run them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from process_groups import run_script
from segmenters import small_fcn

EXAMPLES = Path(__file__).parents[2] / "examples"
LAUNCHER = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]


def check(folder, printed):
    first, last = map(float, re.search(r"loss: ([\d.]+) at first, ([\d.]+) at last", printed).groups())
    assert last < first
    assert printed.count("test: mean IoU") == 1
    assert (folder / "model.safetensors").is_file()


def use_small_fcn():
    from torchvision.models import segmentation

    segmentation.fcn_resnet50 = small_fcn


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("plug_into_torchvision.py", ["--max-steps", "8"]),
        ("plug_into_smp.py", ["--max-steps", "10"]),
        ("plug_into_transformers.py", ["--max-steps", "16"]),
        ("plug_into_transformers.py", ["--max-steps", "16", "--lora"]),
    ],
)
def test_the_loss_falls_and_the_model_is_saved(tmp_path, name, flags):
    flags = ["--output-dir", tmp_path, "--image-size", "64", "64", "--batch-size", "4", *flags]
    check(tmp_path, run_script(tmp_path / "printed.txt", EXAMPLES / name, *flags, prepare=use_small_fcn))


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
    settings = ["--output-dir", tmp_path, "--image-size", "64", "64", "--batch-size", "4", "--max-steps", "20"]
    command = [sys.executable, *launcher, EXAMPLES / name, *settings, *own, *flags]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    check(tmp_path, result.stdout)
