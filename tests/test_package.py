"""The package itself: lazy import, public names, command line."""

import subprocess
import sys

import pytest

import cmdl_hf
from cmdl_hf.cli import main


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["cmdl_hf", "cmdl_hf.cli"])
def test_import_is_light(module):
    heavy = "{'torch', 'transformers', 'datasets', 'evaluate', 'accelerate', 'timm', 'matplotlib', 'numpy'}"
    result = run("-c", f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_every_public_name_can_be_imported():
    assert len(cmdl_hf.__all__) > 5
    for name in cmdl_hf.__all__:
        assert getattr(cmdl_hf, name) is not None
    assert set(cmdl_hf.__all__) <= set(dir(cmdl_hf))
    with pytest.raises(AttributeError, match="no attribute 'CMDL'"):
        _ = cmdl_hf.CMDL


def test_help_names_the_commands():
    result = run("-m", "cmdl_hf.cli", "--help")
    assert result.returncode == 0, result.stderr
    assert "convert" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convrt"], "convert"),
        (["convert", "a.pth", "out", "--backbon", "resnet50", "--num-labels", "3"], "--backbone"),
        (["convert", "a.pth", "out", "--backbone", "resnet50", "--num-labels", "three"], "--num-labels"),
    ],
)
def test_a_mistyped_command_or_flag_is_an_error_that_names_the_nearest(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.out + printed.err
