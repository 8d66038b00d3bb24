"""What every command has in common: the first line, errors of usage, and messages that are printed once."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmdl_hf.cli import main
from cmdl_hf.cli.options import logging_to_terminal

ROOT = Path(__file__).parents[2]


def _run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    message = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    return stopped.value.code, message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train synthetic --crop-size 128", "--crop-size takes 2 values, such as --crop-size 128 128, found 128; "),
        ("train synthetic --crop-size 96,128", "takes 2 values, such as --crop-size 96 128, found 96,128; "),
        ("train synthetic --crop-size", "--crop-size takes 2 values, with spaces between, found none; "),
        ("evaluate m --benchmark camvid --stride 9", "--stride takes 2 values, such as --stride 9 9, found 9; "),
        ("prepare camvid --data-dir x", "--out is missing; add --out outputs/NEW_FOLDER; cmdl prepare --help tells"),
        ("explore m", "--benchmark is missing; add --benchmark camvid; cmdl explore --help tells more"),
        ("evaluate", "MODEL is missing; add MODEL, such as outputs/MY_RUN; "),
        ("train", "a recipe or a data set is missing; type cmdl train synthetic (generated scenes, minutes on a CPU)"),
        ("train --data-dir own", "cmdl train own_small --data-dir FOLDER --id2label FILE (your own data)"),
        ("train --max-steps 9", "or add --benchmark NAME for the default settings, 40,000 steps; cmdl train --help"),
        ("train --seed", "--seed is missing; add --seed INT; cmdl train --help tells more"),
        *(
            (f"{words} {given} x", f"Unknown option: {given}. Did you mean {meant}?; ")
            for words, meant in (
                ("train synthetic", "--output-dir"),
                ("evaluate m --benchmark camvid", "--out"),
                ("predict photo.jpg", "--out"),
                ("explore m --benchmark camvid", "--out"),
                ("export m", "--out"),
            )
            for given in ("--out", "--output-dir", "--output-folder", "-o")
            if given != meant
        ),
        ("push a b --out x", "Unknown option: --out; cmdl push --help tells more"),
        ("trian", 'Unknown command "trian"'),
    ],
)
def test_a_wrong_command_says_what_to_type(capsys, words, message):
    status, printed = _run(capsys, *words.split())
    assert status == 2
    assert message in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("crop_size: 128", "recipe.yaml: [crop_size] takes 2 values, such as crop_size: [128, 128], found 128; "),
        ("learning_rate: fast", 'recipe.yaml: unable to convert "fast" into float; cmdl train --help'),
        ("lerning_rate: 0.1", "recipe.yaml. Did you mean --learning-rate?; cmdl train --help"),
    ],
)
def test_a_wrong_recipe_says_what_to_write(capsys, tmp_path, line, message):
    (tmp_path / "recipe.yaml").write_text(line)
    status, printed = _run(capsys, "train", str(tmp_path / "recipe.yaml"))
    assert status == 1
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_the_first_line_comes_before_pytorch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('a torch that cannot be imported')")
    result = subprocess.run(
        [sys.executable, "-m", "cmdl_hf.cli", "doctor"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert result.returncode == 1
    assert result.stderr == "cmdl: loading PyTorch\ncmdl: a torch that cannot be imported\n"


def test_what_needs_no_pytorch_does_not_say_so():
    result = subprocess.run(
        [sys.executable, "-m", "cmdl_hf.cli", "train", "--list"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert result.stderr == ""


def test_a_message_of_a_library_is_printed_once(capsys):
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.get_logger("huggingface_hub.test")
    before = logging.getLogger("huggingface_hub").handlers[:]
    try:
        logging.getLogger("huggingface_hub").handlers = [logging.StreamHandler(sys.stderr)]
        root = logging.getLogger()
        handlers, root.handlers = root.handlers, []
        with logging_to_terminal():
            logging.getLogger("huggingface_hub.test").warning("Retrying in 1s")
        root.handlers = handlers
    finally:
        logging.getLogger("huggingface_hub").handlers = before
    assert capsys.readouterr().err.count("Retrying in 1s") == 1
