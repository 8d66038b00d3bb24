"""`cmdl sweep` from the command line to the comparison; the trainings are short, or folders made by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from finished_runs import make_counts, write_run
from own_data import write_flat_data
from PIL import Image

from cmdl_hf.cli import main
from cmdl_hf.cli.train import parse_recipe
from cmdl_hf.evaluation import read_counts
from cmdl_hf.sweep import Outcome
from cmdl_hf.training import describe_training_data

RECIPE = """
benchmark: synthetic
crop_size: [32, 32]
backbone: mobilenetv3_small_050
output_stride: 16
hidden_size: 16
attention_size: 8
total_batch_size: 2
max_steps: 4
num_workers: 0
"""
FLAGS = ["--set", "learning_rate=0.01,0.02", "--seeds", "0,1"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return "small.yaml"


@pytest.fixture
def trained(monkeypatch):
    """Names of the runs that a sweep trains; a name with `lr_0.02-seed1` fails, if `fails` is among them."""
    names = []

    def train(runs, make_command, logs, jobs, tell):
        outcome = Outcome()
        for run in runs:
            words = make_command(run)
            assert words[words.index("--output-dir") + 1] == str(run.folder)
            args = parse_recipe(["small.yaml", *run.flags])
            if run.state == "new" and not (names[:1] == ["fails"] and run.name.endswith("lr_0.02-seed1")):
                names.append(run.name)
                recipe = {key: value for key, value in vars(args).items() if key != "seed"}
                counts = {"validation": make_counts(10 * (args.learning_rate - 0.01), args.seed)}
                write_run(run.folder, counts, {"data": {}}, seed=args.seed, **recipe)  # of an earlier version
        outcome.finished = [run for run in runs if run.state == "finished"]
        outcome.failed = {run.name: "no memory" for run in runs if run.state == "new"}
        return outcome

    monkeypatch.setattr("cmdl_hf.sweep.sweep", train)
    return names


def _run(*words):
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", *words])
    return stopped.value.code


def test_a_dry_run_lists_the_runs_and_writes_nothing(recipe, tmp_path, capsys):
    main(["sweep", recipe, *FLAGS, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    prefix = "synthetic-cmdl-fcn-mobilenetv3_small_050"
    assert lines == [
        *(f"new        {prefix}{rate}-seed{seed}" for rate in ("", "-lr_0.02") for seed in (0, 1)),
        "4 runs in outputs/small-sweep",
    ]
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_ends_with_the_comparison_of_its_runs(recipe, tmp_path, capsys, trained):
    assert _run(recipe, *FLAGS) == 0
    assert len(trained) == 4
    printed = " ".join(capsys.readouterr().out.split())
    assert "learning_rate=0.02 0, 1" in printed
    assert "+10.0" in (tmp_path / "outputs" / "small-sweep" / "comparison.md").read_text()
    assert (tmp_path / "outputs" / "small-sweep" / "comparison.png").is_file()
    assert _run(recipe, *FLAGS) == 0
    assert len(trained) == 4


def test_failed_runs_are_listed_and_the_others_compared(recipe, capsys, trained):
    trained.append("fails")
    assert _run(recipe, *FLAGS) == 1
    printed = capsys.readouterr()
    assert "failed: synthetic-cmdl-fcn-mobilenetv3_small_050-lr_0.02-seed1: no memory" in printed.err
    assert "learning_rate=0.02" in printed.out


def test_a_stopped_sweep_has_the_exit_status_of_a_stopped_run(recipe, capsys, monkeypatch):
    monkeypatch.setattr("cmdl_hf.sweep.sweep", lambda *_: Outcome(is_stopped=True))
    assert _run(recipe) == 130
    assert "repeat the same command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "max_stps=1"], "did you mean max_steps?"),
        (["--set", "max_steps=3,many"], 'unable to convert "many" into int; cmdl train --help tells more'),
        (["--set", "crop_size=3"], "--crop-size takes 2 values"),
        (["--set", "optimizer=adam"], 'Choose from: "sgd", "adamw"'),
        (
            ["--set", "momentum=0.5,3"],
            "momentum must lie in [0, 1), found 3.0 (in the run with --momentum=3 --seed=0)",
        ),
        (["--set", "model_options.num_distributoins=1"], "did you mean num_distributions?"),
        (["--set", "model_options.num_distributions=many"], "expected int, got str (value: 'many') (in the run with"),
        (["--set", "backbone=resnet19"], "backbone='resnet19'"),
        (["--set", "framework=unet"], "framework"),
        (["--set", "report_to=tensorbord"], "there is no tracker 'tensorbord'"),
        (["--set", "learning_rate=0.1,0.10"], "are the same settings; leave one out"),
        (["--weights", "nowhere.safetensors"], "there is no file nowhere.safetensors"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--seeds", "x"], "--seeds must be different whole numbers"),
    ],
)
def test_mistakes_are_one_message_before_anything_is_trained(recipe, tmp_path, trained, words, message):
    assert message in " ".join(_run(recipe, *words).split())
    assert trained == []
    assert not (tmp_path / "outputs").exists()


def test_an_unknown_recipe_is_refused(recipe):
    assert "there is no recipe nothing" in _run("nothing")


def test_folders_of_other_runs_and_files_are_refused(recipe, tmp_path, trained):
    args = parse_recipe([recipe])
    folder = tmp_path / "outputs" / "small-sweep" / "synthetic-cmdl-fcn-mobilenetv3_small_050-seed0"
    (folder / "mine").mkdir(parents=True)
    assert "holds no run; remove it, or name another folder with --output-dir" in _run(recipe)
    (folder / "mine").rmdir()
    folder.rmdir()
    write_run(folder, **vars(replace(args, max_steps=5, num_workers=4)))
    assert "holds a run of another recipe (max_steps was 5 and is now 4)" in _run(recipe)
    assert trained == []


@pytest.fixture
def own(recipe, tmp_path, monkeypatch):
    """Words of a sweep on ten flat pairs without validation split, with merged and weighted classes."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_flat_data(tmp_path)
    (tmp_path / "merge.csv").write_text("from,to\nroot,ground\n")
    (tmp_path / "weights.json").write_text("[1, 2]")
    own = RECIPE.replace("synthetic", "own") + "merge_classes: merge.csv\nclass_weights: weights.json\n"
    (tmp_path / recipe).write_text(own)
    return [recipe, "--data-dir", "own", "--id2label", "classes.txt"]


def _invert(path):
    with Image.open(path) as image:
        changed = image.point(lambda value: 1 - min(value, 1))
    changed.save(path)


CHANGES = {
    "nothing": (lambda: None, None),
    "masks": (lambda: _invert("own/masks/3.png"), "other images or masks under the same names"),
    "images": (lambda: _invert("own/images/3.png"), "other images or masks under the same names"),
    "files": (lambda: [file.unlink() for file in Path("own").glob("*/3.png")], "other images"),
    "names": (lambda: Path("classes.txt").write_text("ground\ntree\nroot\n"), "other classes"),
    "merging": (lambda: Path("merge.csv").write_text("from,to\nroot,leaf\n"), "other images or masks under the same"),
    "weights": (lambda: Path("weights.json").write_text("[1, 3]"), "other class weights"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_finished_runs_on_other_data_do_not_count(own, tmp_path, trained, capsys, change, words):
    args = parse_recipe(own[:1])
    folder = tmp_path / "outputs/small-sweep/own-cmdl-fcn-mobilenetv3_small_050-seed0"
    data = describe_training_data(args, *map(Path, own[2::2]))
    write_run(folder, facts={"data": data}, **vars(args))
    change()
    found = _run(*own)
    assert "checking that the data of 1 finished runs are the same" in capsys.readouterr().err
    if words is None:
        assert found == 0
    else:
        assert f"{folder.name} holds a finished run on other data ({words}" in found
        assert "name another folder with --output-dir, or remove it to train it again" in found
    assert trained == []


@pytest.mark.slow
def test_a_sweep_on_own_data_is_kept_until_a_mask_changes(own, capfd):
    words = [*own, "--set", "learning_rate=0.02,0.05"]
    assert _run(*words) == 0
    assert _run(*words) == 0
    assert "2 of 2 runs are finished already" in capfd.readouterr().out
    _invert("own/masks/3.png")
    assert "holds a finished run on other data (other images or masks" in _run(*words)


@pytest.mark.slow
def test_a_sweep_trains_in_processes_and_compares(recipe, tmp_path, capfd):
    assert _run(recipe, "--set", "distributions=true,false", "--seeds", "0,1", "--jobs", "2") == 0
    folders = sorted((tmp_path / "outputs" / "small-sweep").glob("synthetic*"))
    assert len(folders) == 4
    assert all(list(read_counts(folder / "scores.npz")) == ["validation", "test"] for folder in folders)
    assert "distributions=false" in capfd.readouterr().out
