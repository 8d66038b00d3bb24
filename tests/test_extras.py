"""What a message proposes to install must be right for a checkout and for an installed package."""

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from cmdl_hf import extras

ROOT = Path(extras.__file__).parents[1]


@pytest.fixture
def installed(monkeypatch):
    """Pretend that the package lies in site-packages."""
    monkeypatch.setattr(extras, "_CHECKOUT", Path(importlib.metadata.__file__).parent)


def test_from_a_checkout_the_checkout_is_installed(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert extras.install_command("export").endswith("pip install -e '.[export]'")
    monkeypatch.chdir(tmp_path)
    assert extras.install_command("export").endswith(f"pip install -e '{ROOT}[export]'")


def test_an_installed_package_is_named(installed):
    assert extras.install_command("export").endswith("pip install 'cmdl_hf[export]'")


def test_the_pip_is_that_of_this_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert extras.install_command("export").startswith(f"{sys.executable} -m pip install")


def test_extras_are_those_of_the_project(installed, monkeypatch):
    of_metadata = extras.list_extras()
    assert of_metadata["explore"] == ["scikit-learn"]
    assert not {"all", "dev"} & of_metadata.keys()
    assert any(text.startswith("torch>=") for text in extras.list_requirements())
    assert not any("onnx" in text for text in extras.list_requirements())
    monkeypatch.setattr(extras, "_CHECKOUT", ROOT)
    assert extras.list_extras()["export"] == ["onnx", "onnxruntime", "onnxscript"]


def test_no_message_names_the_command_itself():
    written = [
        f"{path.name}: {line}"
        for path in (ROOT / "cmdl_hf").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"cmdl_hf\[", line)
    ]
    assert written == [], "call install_command"
