"""Recipes of strangers: names and values of a training, no aliases, no tags, no place to write, nothing to push."""

import time

import pytest

from cmdl_hf.cli import main
from cmdl_hf.data import BENCHMARKS
from cmdl_hf.hub import write_card
from cmdl_hf.training import CMDLTrainingArguments, make_config
from cmdl_hf.yaml_files import read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
TAG = "seed: !!python/object/apply:os.system ['touch {trace}']\n"


@pytest.fixture
def run(tmp_path):
    """Train by a recipe; returns what the command says."""

    def run(text, *flags):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(text)
        with pytest.raises(SystemExit) as stopped:
            main(["train", str(recipe), "--output-dir", str(tmp_path / "out"), *flags])
        assert not (tmp_path / "out").exists()
        return str(stopped.value)

    return run


def test_aliases_are_refused_in_no_time(run, tmp_path, make_model):
    assert len(BOMB) < 400
    start = time.process_time()
    assert "found the alias *a" in run(BOMB)
    assert time.process_time() - start < 5  # 21 s and 1.6 GB before
    make_model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "recipe.yaml").write_text(BOMB)
    with pytest.raises(ValueError, match=r"recipe.yaml cannot be read: found the alias \*a"):
        write_card(tmp_path / "model")


def test_tags_build_nothing(run, tmp_path):
    trace = tmp_path / "code_ran"
    assert "could not determine a constructor" in run(TAG.format(trace=trace))
    assert not trace.exists()


def test_a_value_is_parsed_without_aliases_and_tags_too():
    for value, message in (("[&a [1], *a]", "found the alias"), ("!!python/name:os.system", "could not determine")):
        args = CMDLTrainingArguments(benchmark="camvid", backbone="resnet18", model_options={"dropout": value})
        with pytest.raises(ValueError, match=f"dropout: .* cannot be read as YAML .{message}"):
            make_config(args, BENCHMARKS["camvid"])


@pytest.mark.parametrize(
    "name", ["push-to-hub", "push_to_hub", "private", "output-dir", "data_dir", "id2label", "weights", "list"]
)
def test_a_recipe_holds_fields_of_a_recipe_only(run, name):
    assert f"{name} is no field of a recipe; give it as a flag: --{name.replace('_', '-')}" in run(f"{name}: them/x")


def test_a_recipe_that_came_with_a_model_imports_nothing_by_itself(run, tmp_path):
    trace = tmp_path / "code_ran"
    (tmp_path / "theirs.py").write_text(f"open({str(trace)!r}, 'w')")
    (tmp_path / "config.json").write_text("{}")
    message = run("plugin: [theirs.py]\nbenchmark: synthetic")
    assert "names plug-ins, which are Python code: ['theirs.py']" in message
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must contain names and values, found list"),
        ("x: " + "[" * 5000, "cannot be read"),
        ("x: " + "y" * 2**20, "more than 1,048,576"),
        ("x: [", "cannot be read"),
    ],
)
def test_what_is_no_recipe_is_told_with_the_file(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"recipe.yaml .*{message}"):
        read_yaml(tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_text("")
    assert read_yaml(tmp_path / "recipe.yaml") == {}
