"""Recipes by name: those that come with the package, and what is said of one that does not."""

import pytest
import yaml

from cmdl_hf.cli import main
from cmdl_hf.data import load_synthetic
from cmdl_hf.training import CMDLTrainingArguments, find_recipe, list_recipes, make_transform

NAMES = ["ade20k", "camvid", "camvid_small", "cityscapes", "coco_stuff", "own", "own_small", "synthetic"]


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Run `cmdl train` up to where it would begin; returns the arguments."""
    found = []
    monkeypatch.setattr("cmdl_hf.training.run", lambda args, *_, **__: found.append(args) or {})
    monkeypatch.chdir(tmp_path)

    def parse(*words):
        main(["train", *map(str, words)])
        return found.pop()

    return parse


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found_from_everywhere(parse, name):
    assert parse(name).benchmark == name.removesuffix("_small")
    assert parse(find_recipe(name)) == parse(name)
    assert parse(name, "--seed", "3").seed == 3


def test_a_file_wins_over_a_name(parse, tmp_path):
    (tmp_path / "camvid").write_text("seed: 7")
    (tmp_path / "mine.yaml").write_text("seed: 8")
    assert (parse("camvid").seed, parse("mine.yaml").seed) == (7, 8)


def test_the_list_names_each_with_what_it_is_for(capsys):
    main(["train", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == NAMES == list(list_recipes())
    assert any(line.startswith("camvid        CamVid, 11 classes; 367 images") for line in lines)
    assert all(text.endswith(".") and "\n" not in text for text in list_recipes().values())


def test_an_unknown_one_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(
        SystemExit, match=r"no recipe camvit; name a YAML file, or .* ade20k, camvid, camvid_small, cityscapes"
    ):
        main(["train", "camvit", "--output-dir", str(tmp_path)])


def test_a_plugin_is_found_beside_the_recipe_that_names_it(parse, tmp_path):
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "mine.yaml"
    recipe.write_text("plugin: [mine.py, a_module]")
    (tmp_path / "recipes" / "mine.py").touch()
    assert parse(recipe).plugin == (str(tmp_path / "recipes" / "mine.py"), "a_module")
    (tmp_path / "mine.py").touch()
    assert parse(recipe).plugin == ("mine.py", "a_module")
    assert parse(recipe, "--plugin", "b", "--plugin", "c.py").plugin == ("b", "c.py")


def test_keys_of_the_transform_are_flags_and_stand_in_the_recipe_of_the_run(parse, tmp_path):
    words = ["--no-flip", "--vertical-flip", "--rotation", "10", "--color-strength", "0.5", "--scale-range", "1", "1"]
    args = parse("synthetic", *words, "--swapped-classes", "car", "person", "--swapped-classes", "0", "3")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(args.to_recipe()))
    assert parse("again.yaml") == args
    scenes = load_synthetic(1, 1, 1)
    augmentation = make_transform(args, scenes).augmentation
    ids = {name: id_ for id_, name in scenes.id2label.items()}
    assert augmentation.swapped_classes == [(ids["car"], ids["person"]), (0, 3)]
    assert (augmentation.use_flip, augmentation.use_vertical_flip) == (False, True)
    assert (augmentation.rotation, augmentation.color_strength, augmentation.scale_range) == (10, 0.5, (1, 1))


def test_a_class_to_swap_that_there_is_not_is_refused():
    args = CMDLTrainingArguments(swapped_classes=(("left arm", "0"),))
    with pytest.raises(ValueError, match="swapped_classes: there is no class 'left arm'; the classes are 0 "):
        make_transform(args, load_synthetic(1, 1, 1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--framework", "pspnett"], r"no context_module .framework. 'pspnett'; known are none \(fcn\), ppm \(pspnet"),
        (["--benchmark", "camvit"], "no benchmark 'camvit'; known are ade20k, camvid, .* synthetic"),
        (["--transform", "paper"], "no transform 'paper'; known are papers"),
        (["--plugin", "none.py"], "no plug-in .*none.py"),
    ],
)
def test_an_unknown_name_writes_nothing(tmp_path, words, message):
    with pytest.raises(SystemExit, match=message):
        main(["train", "synthetic", "--output-dir", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()
