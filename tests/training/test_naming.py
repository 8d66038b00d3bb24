"""Names that tell runs apart."""

from dataclasses import replace

import pytest

from cmdl_hf.cli import main
from cmdl_hf.training import CMDLTrainingArguments, find_differences, run_name

BASE = CMDLTrainingArguments(benchmark="camvid", backbone="resnet50c.gluon_in1k", learning_rate=0.02)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "camvid-cmdl-fcn-resnet50c.gluon_in1k-seed0"),
        ({"seed": 3}, "camvid-cmdl-fcn-resnet50c.gluon_in1k-seed3"),
        ({"use_distributions": False, "framework": "pspnet"}, "camvid-pspnet-resnet50c.gluon_in1k-seed0"),
        ({"learning_rate": 6e-5, "min_learning_rate": 0.0}, "…-min_lr_0-lr_6e-05-seed0"),
        ({"crop_size": (96, 128), "output_stride": None}, "…-crop_96x128-output_stride_none-seed0"),
        ({"model_options": {"num_distributions": 1}, "use_flip": False}, "…-flip_false-num_distributions_1-seed0"),
        ({"num_workers": 7, "report_to": ("wandb",), "plugin": ("mine.py",)}, "…-seed0"),
    ],
)
def test_a_name_has_what_differs_from_the_recipe(changes, name):
    found = run_name(replace(BASE, **changes), BASE)
    words = name.replace("…", "camvid-cmdl-fcn-resnet50c.gluon_in1k").split("-")
    assert sorted(found.split("-")) == sorted(words)
    assert found.endswith(f"seed{changes.get('seed', 0)}")


def test_names_that_are_cut_or_made_safe_still_differ():
    options = [{f"option_{i}": 0.123456 * i for i in range(20)} | {"last": last} for last in (1, 2)]
    names = {run_name(replace(BASE, model_options=each), BASE) for each in options}
    names |= {run_name(replace(BASE, transform=each), BASE) for each in ("a/../b", "a:..:b")}
    assert len(names) == 4
    assert all(len(name) < 150 for name in names)
    assert not any(set("/: ") & set(name) for name in names)


def test_options_of_a_dictionary_differ_one_by_one():
    first = replace(BASE, model_options={"num_distributions": 1, "assignment": "sample"}).to_recipe()
    second = replace(BASE, model_options={"assignment": "sample"}, num_workers=9).to_recipe()
    assert find_differences(first, second) == {"model_options.num_distributions": (1, "default")}
    as_text = replace(BASE, model_options={"num_distributions": "1", "assignment": "sample"}).to_recipe()
    assert find_differences(first, as_text) == {}


def test_a_second_seed_and_another_setting_need_no_new_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    monkeypatch.setattr(
        "cmdl_hf.training.run", lambda _, output_dir, *__, **___: folders.append(output_dir.name) or {}
    )
    (tmp_path / "mine.yaml").write_text("benchmark: synthetic\nbackbone: resnet18\nlearning_rate: 0.05\n")
    for flags in ([], ["--seed", "1"], ["--learning-rate", "0.05"], ["--learning-rate", "0.1", "--no-distributions"]):
        main(["train", "mine.yaml", *flags])
    main(["train", "--benchmark", "synthetic", "--backbone", "resnet18"])
    assert folders == [
        "synthetic-cmdl-fcn-resnet18-seed0",
        "synthetic-cmdl-fcn-resnet18-seed1",
        "synthetic-cmdl-fcn-resnet18-seed0",
        "synthetic-fcn-resnet18-lr_0.1-seed0",
        "synthetic-cmdl-fcn-resnet18-seed0",
    ]
