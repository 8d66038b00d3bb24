"""Every shell line of README, CONTRIBUTING and site is one that works here, and every Python block runs or compiles.

The real command line parses `cmdl …`. Python blocks run in a folder with a small model and a small data set; a block
that names data or a repository that is not there (`path/to`, `ORG/NAME`) is compiled, and its names are looked up.
"""

import ast
import builtins
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from own_data import write_own_data

from cmdl_hf import make_image_processor
from cmdl_hf.cli import app

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

from pages import find_marks  # noqa: E402

INCLUDED = [ROOT / name for kind, name in find_marks() if kind == "include"]
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *INCLUDED)} | {
    path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "docs").rglob("*.md"))
}
NOT_HERE = ("path/to", "ORG/NAME", "load_backbone_weights()")  # data, repositories and downloads
OTHER_PROGRAMS = {"pip", "hf", "source", "git", "cd", "docker"}


def find_blocks(path, language):
    pattern = rf"^( *)```{language}\n(.*?)^\1```"
    for indent, block in re.findall(pattern, path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
        yield "".join(line.removeprefix(indent) for line in block.splitlines(keepends=True))


def shell_lines():
    for name, path in DOCUMENTS.items():
        for block in find_blocks(path, "bash"):
            for line in re.sub(r" *\\\n *", " ", block).splitlines():
                for part in line.split(" && "):
                    words = shlex.split(part, comments=True)
                    while words and re.match(r"[A-Z_]+=", words[0]):
                        words = words[1:]
                    if words:
                        yield pytest.param(words, id=f"{name}: {' '.join(words)}")


def python_pages():
    for name, path in DOCUMENTS.items():
        if blocks := list(find_blocks(path, "python")):
            yield pytest.param(blocks, id=name)


def find_command(words):
    """The words after `cmdl`, or `None` for another program."""
    if words[0] == "cmdl":
        return words[1:]
    for module, before in (("cmdl_hf.training", ["train"]), ("cmdl_hf.cli", [])):
        if "-m" in words and module in words:
            return before + words[words.index(module) + 1 :]
    return None


def check_other_program(words):
    """A target of the Makefile, or a Python file of the repository with the flags that it knows."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word and not word.startswith("-")} <= set(targets)
    elif Path(words[0]).name.startswith("python"):
        if words[1:3] != ["-m", "venv"]:
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            flags = {word.split("=")[0] for word in words if word.startswith("--")}
            assert [flag for flag in flags if f'"{flag}"' not in source] == []
    else:
        assert Path(words[0]).name in OTHER_PROGRAMS


def check_names(block, known):
    """Run the imports of a block, and look up every name that it reads."""
    tree = ast.parse(block)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "imports", "exec"), known)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assert read - stored - known.keys() - set(dir(builtins)) == set()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages speak of: a small model of CamVid's classes, images, and own data."""
    from tiny_models import TINY_BACKBONE

    from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
    from cmdl_hf.data import LabelTable

    folder = tmp_path_factory.mktemp("pages")
    classes = LabelTable.of("camvid")
    config = CMDLConfig(
        backbone_config=dict(TINY_BACKBONE),
        id2label=classes.id2label,
        palette=classes.palette,
        num_distributions=3,
        hidden_size=16,
        attention_size=8,
    )
    CMDLForSemanticSegmentation(config).save_pretrained(folder / "model_cards/camvid")
    make_image_processor().save_pretrained(folder / "model_cards/camvid")
    (folder / "examples").symlink_to(ROOT / "examples")
    write_own_data(folder / "my_data")
    return folder


def test_there_are_blocks():
    commands = [find_command(param.values[0]) for param in shell_lines()]
    found = {words[0] for words in commands if words}
    assert found >= {"train", "sweep", "compare", "check-data", "evaluate", "predict", "explore", "push", "export"}
    assert len(list(python_pages())) > 5


@pytest.mark.parametrize("words", list(shell_lines()))
def test_a_shell_line_is_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    command_line = find_command(words)
    if command_line is None:
        check_other_program(words)
        return
    command, bound, _ = app.parse_args(command_line, exit_on_error=False, print_error=False)
    if not command_line[0].startswith("-"):
        assert command.__name__.replace("_", "-") == command_line[0]
        assert len(bound.arguments) > 0 or len(command_line) == 1


@pytest.mark.parametrize("blocks", list(python_pages()))
def test_the_python_of_a_page_runs(blocks, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names = {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.randint(0, 19, (2, 64, 64))}
    for block in blocks:
        if any(word in block for word in NOT_HERE):
            check_names(block, names)
        else:
            exec(compile(block, "block", "exec"), names)
            if "loss" in names:
                assert names["loss"].isfinite()


@pytest.mark.parametrize(
    ("words", "is_right"),
    [
        (["make", "demo", "DATA=x"], True),
        (["make", "coffee"], False),
        (["python", "examples/adapter_comparison.py", "--num-seeds", "5"], True),
        (["python", "examples/adapter_comparison.py", "--coffee", "5"], False),
        (["python3", "examples/none.py"], False),
        (["conda", "install"], False),
    ],
)
def test_wrong_lines_are_found(words, is_right):
    if is_right:
        check_other_program(words)
    else:
        with pytest.raises((AssertionError, FileNotFoundError)):
            check_other_program(words)


@pytest.mark.parametrize(("block", "is_right"), [("import os\nprint(os.sep)", True), ("print(spe)", False)])
def test_unknown_names_are_found(block, is_right):
    if is_right:
        check_names(block, {})
    else:
        with pytest.raises(AssertionError, match="spe"):
            check_names(block, {})
