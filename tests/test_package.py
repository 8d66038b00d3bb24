"""The package itself: lazy import, public names, command line."""

import doctest
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import cmdl_hf
from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.cli import main
from cmdl_hf.data import load_synthetic


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


def test_every_file_states_the_same_version():
    root = Path(cmdl_hf.__file__).parents[1]
    stated = {
        tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"],
        yaml.safe_load((root / "CITATION.cff").read_text())["version"],
        (root / "CHANGELOG.md").read_text().split("\n## ")[1].split(",")[0],
    }
    assert stated == {cmdl_hf.__version__}


@pytest.mark.parametrize("described", [CMDLConfig, CMDLForSemanticSegmentation, load_synthetic])
def test_docstring_examples_run(described):
    text = described.__doc__.replace("```python", "").replace("```", "")
    example = doctest.DocTestParser().get_doctest(text, {}, described.__name__, None, 0)
    assert len(example.examples) >= 3
    runner = doctest.DocTestRunner()
    runner.run(example, out=print)
    assert runner.failures == 0


def test_help_names_the_commands():
    result = run("-m", "cmdl_hf.cli", "--help")
    assert result.returncode == 0, result.stderr
    for command in ("convert", "train", "predict", "demo", "prepare", "check-data"):
        assert command in result.stdout


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


def use_the_commands(cmdl, folder, environment):
    """Train two steps, segment a scene, and explore the model, with the installed command line."""
    load_synthetic(0, 0, 1)["test"][0]["image"].save(folder / "street.png")
    tiny = ["--backbone", "mobilenetv3_small_050", "--hidden-size", "32", "--attention-size", "16"]
    short = ["--max-steps", "2", "--total-batch-size", "2", "--num-workers", "0", "--no-test-split"]
    for arguments in (
        ["train", "synthetic", "--output-dir", "run", *tiny, *short],
        ["predict", "run", "street.png", "--out", "segmented"],
        [
            "explore",
            "run",
            "--benchmark",
            "synthetic",
            "--split",
            "validation",
            "--max-images",
            "2",
            "--out",
            "inside",
        ],
    ):
        done = subprocess.run(
            [cmdl, *arguments], check=False, capture_output=True, text=True, cwd=folder, env=environment
        )
        assert done.returncode == 0, done.stderr
    assert (folder / "segmented" / "summary.json").is_file()
    assert (folder / "inside" / "report.html").is_file()


@pytest.mark.slow
def test_the_source_distribution_holds_what_the_wheel_is_made_of(tmp_path):
    root = Path(__file__).parents[1]
    ignored = shutil.ignore_patterns(".venv*", ".git", "outputs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(root, tmp_path / "source", ignore=ignored)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path / "source"]
    subprocess.run(build, check=True, capture_output=True)  # the wheel is built from the source distribution
    (wheel,), (source,) = (list((tmp_path / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
    package = {path.relative_to(root).as_posix() for path in (root / "cmdl_hf").rglob("*") if path.is_file()}
    assert {name for name in package if "__pycache__" not in name} <= names
    with tarfile.open(source) as files:
        assert any(name.endswith("/README.md") for name in files.getnames())


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    root = Path(__file__).parents[1]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"  # building in place would leave a build folder in the checkout
    shutil.copytree(root, source, ignore=shutil.ignore_patterns(".venv", ".git", "outputs", "build", "*.egg-info"))
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    code = """
import cmdl_hf, torch
assert cmdl_hf.__file__.startswith({site!r}), cmdl_hf.__file__
from cmdl_hf.data import BENCHMARKS, load_synthetic
assert BENCHMARKS["ade20k"].num_labels == 150
config = cmdl_hf.CMDLConfig(num_labels=3, backbone_config=dict(backbone="resnet18", out_indices=[3, 4]))
image = load_synthetic(0, 0, 1)["test"][0]["image"]
pixels = cmdl_hf.make_image_processor()(image, return_tensors="pt")["pixel_values"]
assert cmdl_hf.CMDLForSemanticSegmentation(config).eval()(pixels).logits.shape[1] == 3
""".format(site=str(tmp_path / "site"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr
    cmdl = tmp_path / "site" / "bin" / "cmdl"
    recipes = subprocess.run([cmdl, "train", "--list"], check=True, capture_output=True, text=True, env=environment)
    assert re.search(r"^camvid +CamVid, 11 classes", recipes.stdout, flags=re.MULTILINE)
    use_the_commands(cmdl, tmp_path, environment)
    command = [cmdl, "train", "camvid", "--data-dir", tmp_path / "none", "--output-dir", tmp_path / "out"]
    missing = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "CamVid" in missing.stderr  # the recipe was found, and the data set was not
    assert "none" in missing.stderr
