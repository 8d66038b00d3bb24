"""`cmdl compare`, on folders made by hand."""

import io
import statistics

import numpy as np
import pytest
from finished_runs import make_counts, score, write_run
from PIL import Image
from rich.console import Console

from cmdl_hf.cli import main
from cmdl_hf.comparison import compare, describe_spread, image_interval, seed_interval
from cmdl_hf.comparison.intervals import resample


@pytest.fixture
def make_run(tmp_path):
    return lambda name, *args, **recipe: write_run(tmp_path / name, *args, **recipe)


@pytest.fixture
def runs(make_run):
    """Two recipes with two seeds each; the second is better, and all were scored on test as well."""
    return [
        make_run(
            f"run-{rate}-{seed}",
            {split: make_counts(gain, 7 * seed + shift) for split, shift in (("validation", 0), ("test", 1))},
            learning_rate=rate,
            model_options={"num_distributions": distributions},
            seed=seed,
        )
        for rate, distributions, gain in ((0.01, 9, 0.0), (0.02, 1, 0.1))
        for seed in (0, 1)
    ]


def test_table_page_and_picture_have_every_figure(runs, tmp_path, capsys):
    main(["compare", *map(str, runs), "--out", str(tmp_path / "out")])
    printed = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "out" / "comparison.md").read_text()
    tests = [[make_counts(gain, 7 * seed + 1) for seed in (0, 1)] for gain in (0.0, 0.1)]
    names = ["num_distributions=9, learning_rate=0.01", "num_distributions=1, learning_rate=0.02"]
    for name, counts in zip(names, tests, strict=True):
        scores = [score(each) for each in counts]
        assert f"| {name} | 0, 1 |" in page
        assert describe_spread([each["mean_iou"] for each in scores]) in printed
        assert describe_spread([each["per_class_iou"][2] for each in scores]) in page
    over_images = image_interval(*([each.stacked for each in group] for group in tests[::-1]), block_size=3)
    over_seeds = seed_interval(*([score(each)["mean_iou"] for each in group] for group in tests[::-1]))
    cells = [f"{100 * each.low:+.1f} to {100 * each.high:+.1f}" for each in (over_images, over_seeds)]
    assert f"| {names[1]} | {100 * over_images.difference:+.1f} | {cells[0]} | {cells[1]} |" in page
    assert over_images.difference == pytest.approx(0.1, abs=0.01)
    for text in ("paired bootstrap", "Welch's t", "30 images", f"from {names[0]}", "seconds", "training loss"):
        assert text in page
    late = statistics.fmean([1 / 80, 1 / 90, 1 / 100])
    assert f"| {late:.3f} ± 0.000 | 120.5 ± 0.7 | 2.0 ± 0.0 |" in page
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert min(picture.size) > 500


def test_images_are_resampled_once_and_a_line_says_so_before(runs, tmp_path, capsys, monkeypatch):
    calls = []

    def count(*args):
        calls.append(capsys.readouterr().err)
        return resample(*args)

    monkeypatch.setattr("cmdl_hf.comparison.comparing.resample", count)
    main(["compare", *map(str, runs), "--out", str(tmp_path / "out")])
    assert calls == [f"cmdl: comparing {len(runs)} runs, with resamples of their images\n", ""]


def test_rare_classes_come_first_and_have_a_mean_of_their_own(runs, tmp_path):
    comparison = compare(runs, tmp_path / "out")
    (table,) = (each for each in comparison.tabulate() if each.header[0] == "class")
    assert [row[0] for row in table.rows] == ["pole", "the rare, mean", "sky", "road", "the others, mean"]
    assert table.rows[1][1] == table.rows[0][1]
    assert "**the rare, mean**" in table.to_markdown()


def test_the_names_of_groups_are_whole_in_a_narrow_terminal(runs, tmp_path):
    (table,) = (each for each in compare(runs, tmp_path / "out").tabulate() if each.header[0] == "class")
    printed = {}
    for width in (50, 100):
        console = Console(width=width, file=io.StringIO())
        console.print(table.to_rich())
        printed[width] = console.file.getvalue()
    assert "…" not in printed[50]
    lines = [line.split() for line in printed[100].splitlines()]
    assert ["num_distributions=9,", "num_distributions=1,"] in lines
    assert ["class", "learning_rate=0.01", "learning_rate=0.02"] in lines


def test_one_run_alone_is_shown(make_run, tmp_path, capsys):
    main(["compare", str(make_run("mine-seed0")), "--out", str(tmp_path / "out")])
    assert "mine" in capsys.readouterr().out
    assert "Difference" not in (tmp_path / "out" / "comparison.md").read_text()


def test_settings_of_the_machine_make_no_group_and_other_weights_do(make_run, tmp_path):
    classes = {"classes": ["road", "sky", "pole"]}
    folders = [
        make_run("a", num_workers=0),
        make_run("b", num_workers=3, report_to=("tensorboard",), seed=1),
        make_run("c", facts={"weights": "timm"}),
        make_run("d", facts={"data": {"splits": {"train": "other"}, "classes": ["road", "sky", "pole"]}}),
        *(
            make_run(name, facts={"data": {"splits": {"train": "digest"}, "contents": {"train": name}, **classes}})
            for name in ("e", "f")
        ),
    ]
    groups = compare(folders, tmp_path / "out").groups
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    assert groups[1].name == "weights=timm, training_images=digest"


def test_a_recipe_of_an_earlier_version_has_the_defaults_of_what_it_lacks(make_run, tmp_path):
    old = make_run("old")
    text = (old / "run.json").read_text()
    assert '"flip": true, ' in text
    (old / "run.json").write_text(text.replace('"flip": true, ', ""))
    assert len(compare([old, make_run("new", seed=1)], tmp_path / "out").groups) == 1


def test_the_split_that_all_were_scored_on_alike_is_compared(make_run, tmp_path):
    both = make_run("both", {"validation": make_counts(), "test": make_counts()})
    one = make_run("one", {"validation": make_counts(seed=1)}, seed=1)
    comparison = compare([both, one], tmp_path / "out")
    assert (comparison.split, comparison.splits) == ("validation", ["validation"])
    assert "Not compared: test, on which one was not scored" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"protocol": "slide"}, "other protocols: whole, original size and slide"),
        ({"ids": "road"}, "other images: 30 and 30, of which 0 are the same"),
        ({"num_images": 20}, "other images: 30 and 20, of which 20 are the same"),
    ],
)
def test_what_was_scored_otherwise_is_refused(make_run, tmp_path, options, reason):
    folders = [make_run("a"), make_run("b", {"validation": make_counts(**options)}, seed=1)]
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *map(str, folders), "--out", str(tmp_path / "out")])
    assert reason in str(stopped.value)
    assert "Score each with cmdl evaluate RUN --update-card" in str(stopped.value)
    assert not list((tmp_path / "out").glob("comparison*"))


def test_what_cannot_be_compared_is_one_message_with_its_cure(make_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    early = make_run("early")
    (early / "scores.npz").unlink()
    unfinished = make_run("unfinished", facts={"is_finished": False, "steps": 40})
    other_classes = make_run("other", facts={"data": {"classes": ["a", "b", "c"]}}, seed=5)
    good, twin = make_run("good"), make_run("twin")
    cases = {
        (): "name at least one run",
        (tmp_path / "nowhere",): "nowhere is no folder: it is no run; name output folders of cmdl train",
        (tmp_path / "empty",): "empty has no run.json",
        (tmp_path / "broken",): "run.json cannot be read",
        (good, unfinished): "holds an unfinished run (step 40 of 100); repeat the command that started it",
        (good, early): "early has no scores.npz",
        (good, good): "is named twice",
        (good, twin): "good and twin are one recipe with one seed, 0; leave one out",
        (good, other_classes): "have other classes",
    }
    for folders, message in cases.items():
        with pytest.raises(SystemExit) as stopped:
            main(["compare", *map(str, folders), "--out", str(tmp_path / "out")])
        assert message in str(stopped.value)
        assert "\n" not in str(stopped.value)
    assert capsys.readouterr().out == ""


def test_names_from_a_recipe_cannot_add_markup(make_run, tmp_path, capsys):
    folders = [make_run("a"), make_run("b", backbone="[bold]x|<b>\x1b[31m")]
    compare(folders, tmp_path / "out")
    main(["compare", *map(str, folders), "--out", str(tmp_path / "out")])
    assert "\x1b[31m" not in capsys.readouterr().out
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "<b>" not in page.replace("\\<b\\>", "")
    assert "x|" not in page


def test_classes_without_pixels_have_no_score(make_run, tmp_path):
    counts = make_counts()
    for array in (counts.intersections, counts.unions):
        array[:, 1] = 0
    with np.errstate(invalid="ignore"):
        comparison = compare([make_run("a", {"validation": counts})], tmp_path / "out")
    (row,) = (row for row in comparison.tabulate()[-1].rows if row[0] == "sky")
    assert row[1] == "–"
