"""The command line accepts the commands of README and CONTRIBUTING, and README's Python blocks run."""

import re
import shlex
from pathlib import Path

import pytest

from cmdl_hf.cli import app

ROOT = Path(__file__).parents[1]


def commands():
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cmdl"]:
                yield words[1:]
            elif "cmdl_hf.training" in words:
                yield ["train", *words[words.index("cmdl_hf.training") + 1 :]]


def test_there_are_commands():
    assert {words[0] for words in commands()} >= {"train", "push", "evaluate", "predict", "explore", "export"}


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_a_command_of_the_readme_is_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__.replace("_", "-") == words[0]
    assert bound.arguments


@pytest.mark.parametrize("word", ["CMDLAdapter", "CMDLDistributionLearning"])
def test_the_python_of_the_readme_runs(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if f"{word}(" in block]
    names = {}
    exec(block, names)
    result = names["outputs"].loss if word == "CMDLAdapter" else names["loss"]
    result.backward()
    assert result.isfinite()
