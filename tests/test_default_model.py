"""The model that commands take if none is named, from a clone and from an installed package."""

import importlib.metadata
from pathlib import Path

import pytest

from cmdl_hf import extras
from cmdl_hf.default_model import find_default_model

ROOT = Path(extras.__file__).parents[1]


def test_it_is_the_model_of_the_clone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_default_model() == ROOT / "model_cards/camvid"
    monkeypatch.chdir(ROOT)
    assert str(find_default_model()) == "model_cards/camvid"


def test_an_installed_package_has_none_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(extras, "_CHECKOUT", Path(importlib.metadata.__file__).parent)
    with pytest.raises(FileNotFoundError, match="not of an installed package; name the folder or Hub name of a model"):
        find_default_model()


def test_a_clone_without_it_names_the_cure(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text('name = "cmdl_hf"')
    monkeypatch.setattr(extras, "_CHECKOUT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"restore it: git -C .* checkout model_cards/camvid"):
        find_default_model()
