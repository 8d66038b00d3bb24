"""The parts of the CamVid study that its numbers rest on."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cmdl_hf.comparison import describe_spread, mean_ious
from cmdl_hf.data import load_benchmark

STUDY = Path(__file__).parents[2] / "examples" / "camvid_study"


@pytest.fixture
def study(monkeypatch):
    """Import a script of the study."""
    monkeypatch.syspath_prepend(str(STUDY))
    names = ("study", "differences", "plots", "report", "diagnose")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def finished(study, tmp_path, monkeypatch):
    """The rows of the study with distinct distributions, one arm with one seed: copies of `fcn-cmdl`."""
    counts = tmp_path / "test_counts"
    shutil.copytree(STUDY / "test_counts", counts)
    monkeypatch.setattr(study("differences"), "COUNTS", counts)
    others = study("differences").OF_DISTRIBUTIONS
    rows = [
        row
        for row in study("report").read_rows("results.jsonl")
        if row["name"].rpartition("-seed")[0].partition("-")[2] not in others
    ]
    for row in [row for row in rows if row["name"].startswith("fcn-cmdl-")]:
        for arm, seeds in (("assigned", (0, 1, 2)), ("assigned-votes", (0,))):
            if row["seed"] in seeds:
                name = f"fcn-{arm}-seed{row['seed']}"
                shutil.copy(counts / f"{row['name']}.npz", counts / f"{name}.npz")
                rows.append(row | {"name": name, "mixed_precision": "no"})
    return rows


def test_an_arm_is_compared_with_the_plain_network_and_the_control_of_its_framework(study):
    arms = ("fcn-plain", "fcn-control", "fcn-cmdl", "fcn-assigned-votes", "pspnet-plain", "pspnet-cmdl", "x-cmdl")
    assert study("differences").pair_arms(arms) == [
        ("fcn-control", "fcn-plain"),
        ("fcn-cmdl", "fcn-plain"),
        ("fcn-cmdl", "fcn-control"),
        ("fcn-assigned-votes", "fcn-plain"),
        ("fcn-assigned-votes", "fcn-control"),
        ("fcn-assigned-votes", "fcn-cmdl"),
        ("pspnet-cmdl", "pspnet-plain"),
    ]


def test_arms_are_grouped_by_framework_and_stand_in_the_order_of_the_study(study):
    names = ["pspnet-cmdl-seed0", "fcn-assigned-votes-seed1", "fcn-cmdl-seed1", "fcn-cmdl-seed0", "fcn-plain-seed0"]
    rows = [{"name": name, "is_final": True} for name in names] + [{"name": "ablation-cmdl"}]
    found = study("report").group_arms(rows)
    assert {arm: [row["name"][-1] for row in runs] for arm, runs in found.items()} == {
        "fcn-plain": ["0"],
        "fcn-cmdl": ["1", "0"],
        "fcn-assigned-votes": ["1"],
        "pspnet-cmdl": ["0"],
    }
    assert list(found) == ["fcn-plain", "fcn-cmdl", "fcn-assigned-votes", "pspnet-cmdl"]


def test_the_drives_are_those_of_the_test_images(study, shared_dir, tmp_path):
    ids = load_benchmark("camvid", shared_dir / "data" / "CamVid", cache_dir=tmp_path)["test"]["id"]
    for drive, (start, stop) in study("report").DRIVES.items():
        assert {id_.rpartition("_")[0] for id_ in ids[start:stop]} == {drive}
    assert len(ids) == stop


def test_every_run_of_the_study_is_one_of_its_own(study):
    module = study("study")
    assert len(module.RUNS) == sum(len(group) for group in module.GROUPS.values())
    recipes = {name: module.make_recipe(fields) for name, fields in module.RUNS.items()}
    assert not any(recipe.use_test_split for recipe in recipes.values())
    descriptions = {
        str(recipe.to_recipe() | {key: module.RUNS[name].get(key) for key in module.OF_NO_RECIPE})
        for name, recipe in recipes.items()
    }
    assert len(descriptions) == len(module.RUNS)


def test_results_are_of_the_runs_that_the_study_states(study):
    module = study("study")
    results = module.read_results()
    assert results
    for name, row in results.items():
        found = ("name", "seconds", "best_step", "training_loss", "scores", "mixed_precision")
        stated = json.loads(json.dumps(module.RUNS[name]))
        assert {key: value for key, value in row.items() if key not in found} == stated, name
        assert row.get("mixed_precision", "no") == "no"
    earlier = {row["name"]: row for row in study("report").read_rows("earlier_results.jsonl")}
    assert earlier
    assert not earlier.keys() & module.RUNS.keys()
    scored = results | earlier
    finals = {name for name, row in scored.items() if row.get("is_final")}
    assert finals == {path.stem for path in module.COUNTS.glob("*.npz")}
    for name in finals:
        counts = np.load(module.COUNTS / f"{name}.npz")["counts"]
        found = mean_ious(counts, np.ones((1, len(counts)), dtype=int))[0]
        assert found == pytest.approx(scored[name]["scores"]["test"]["mean_iou"])


def test_diagnostics_are_of_runs_that_have_a_row(study):
    read_rows = study("report").read_rows
    for prefix in ("", "earlier_"):
        runs = {row["name"] for row in read_rows(f"{prefix}results.jsonl")}
        assert {row["name"] for row in read_rows(f"{prefix}diagnostics.jsonl")} <= runs


def test_a_run_is_in_bf16_only_where_that_is_fast(study, tmp_path, monkeypatch):
    module = study("study")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for slowdown, precision in ((0.5, "bf16"), (6.0, "no")):
        monkeypatch.setattr(module, "bf16_slowdown", lambda slowdown=slowdown: slowdown)
        assert module.choose_precision(tmp_path) == precision
        assert module.choose_precision(tmp_path, "bf16") == "bf16"
        assert module.choose_precision(tmp_path, "no") == "no"
    (tmp_path / "recipe.yaml").write_text("mixed_precision: bf16")  # of an interrupted run, which goes on as it began
    assert module.choose_precision(tmp_path) == "bf16"


@pytest.mark.parametrize(("slowdown", "options", "in_row"), [(0.5, [], {}), (6.0, [], {"mixed_precision": "no"})])
def test_a_row_says_which_precision_it_was_if_not_bf16(study, tmp_path, monkeypatch, slowdown, options, in_row):
    module = study("study")
    recipes = []

    def run(args, folder, data_dir, weights):
        recipes.append(args)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text('{"seconds": 1.0, "best_step": 460}')
        (folder / "metrics.jsonl").write_text('{"step": 460, "segmentation_loss": 0.5}\n')
        return {"validation": {"mean_iou": 0.5}}

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(module, "bf16_slowdown", lambda: slowdown)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    command = ["study.py", "ablation-cmdl", "--data-dir", "CamVid", "--weights", "weights.safetensors"]
    monkeypatch.setattr(sys, "argv", [*command, "--output-dir", str(tmp_path / "runs"), *options])
    module.main()
    module.main()  # a run that has a row is not repeated
    (recipe,) = recipes
    assert recipe.mixed_precision == in_row.get("mixed_precision", "bf16")
    (row,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    found = {"seconds": 1.0, "best_step": 460, "training_loss": 0.5, "scores": {"validation": {"mean_iou": 0.5}}}
    assert row == {"name": "ablation-cmdl", **module.RUNS["ablation-cmdl"], **in_row, **found}


@pytest.mark.parametrize("context_module", ["none", "ppm"])
@pytest.mark.parametrize("voting", ["class", "posterior"])
def test_a_look_inside_finds_what_each_part_does(study, make_model, context_module, voting):
    model = make_model(layer_scale_init_value=0.0, context_module=context_module, voting=voting)
    samples = [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.randint(0, 5, (80, 80))} for _ in range(2)]
    found = study("diagnose").look_inside(model, samples)
    assert found["mean_iou"]["final"] == found["mean_iou"]["without_votes"]  # as the fusion reads no votes yet
    assert found["gradients"]["segmentation_loss"] == pytest.approx(1.0)
    assert found["gradients"]["contrastive_loss"] > 0
    assert 0 < found["attention_entropy"] <= 1


def test_the_tables_are_those_of_the_results(study):
    report = study("report")
    rows = report.read_rows("results.jsonl")
    arms = report.group_arms(rows)
    differences = report.find_differences(arms, report.pair_arms(arms))
    assert (STUDY / "TABLES.md").read_text() == report.fill_template(report.make_tables(rows, differences))
    page = (STUDY / "README.md").read_text()
    distinct = report.describe_distinct(arms, differences, report.read_rows("diagnostics.jsonl"))
    assert "<!-- distinct -->\n" in page
    assert report.fill_page(page, distinct) == page


def test_arms_of_distinct_distributions_are_reported_when_they_have_rows(study, finished):
    report = study("report")
    arms = report.group_arms(finished)
    differences = report.find_differences(arms, [("fcn-assigned", "fcn-cmdl"), ("fcn-assigned-votes", "fcn-cmdl")])
    text = report.describe_distinct(arms, differences, [{"name": "fcn-assigned-seed0", "cosine_within_class": 0.25}])
    assert "`fcn-assigned` differs by +0.0 points (95 % interval over images +0.0 to +0.0, over seeds" in text
    assert "| `fcn-assigned` | 3 | 60.3 ± 0.9 | 53.5 ± 0.3 | 0.25 |" in text
    assert "| `fcn-assigned-votes` | 1 | 61.1 | 53.8 | – |" in text  # one seed has no spread
    page = report.fill_page("before\n<!-- distinct -->\n<!-- end -->\nafter\n", text)
    assert text in page
    assert report.fill_page(page, text) == page
    assert report.fill_page(page, "") == "before\n<!-- distinct -->\n<!-- end -->\nafter\n"
    table = report.tabulate_arms(arms)
    assert "Trained in float32: fcn-assigned-seed0" in table
    table = report.tabulate_differences(differences)
    assert "| fcn-assigned-votes − fcn-cmdl | +0.3 |" in table
    assert table.splitlines()[-1].endswith("| – |")  # and no interval over seeds


def test_the_plots_have_a_dot_for_every_seed(study, finished):
    plots, report = study("plots"), study("report")
    arms = report.group_arms(finished)
    differences = report.find_differences(
        arms, [("fcn-cmdl", "fcn-plain"), ("fcn-cmdl", "fcn-control"), ("fcn-assigned", "fcn-plain")]
    )
    for axis in plots.draw_arms(arms).axes:
        assert sum(len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o") == 3 * 8 + 1
    plain, control = plots.draw_differences(arms, differences).axes
    for axis, expected in ((plain, 6), (control, 3)):
        assert sum(len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o") == expected
    figure = plots.draw_classes(arms, report.CLASSES, report.find_order(arms), report.find_rare())
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:5] == ["Bicyclist", "Pedestrian", "SignSymbol", "Pole", "Fence"]
    for axis in figure.axes:
        assert {axis.get_ylim(), tuple(axis.get_yticks())} == {(10.5, -0.5), tuple(range(11))}
        assert sum(len(line.get_xdata()) for line in axis.lines if line.get_markersize() == 3) == 2 * 3 * 11


def test_a_study_without_cmdl_says_what_to_run(study):
    with pytest.raises(ValueError, match=r"has no row of fcn-cmdl or pspnet-cmdl; run study.py fcn pspnet first"):
        study("report").choose_model({"fcn-plain": []})


def test_the_published_card_is_that_of_the_best_model(study, tmp_path):
    report = study("report")
    row = report.choose_model(report.group_arms(report.read_rows("results.jsonl")))
    (shown,) = report.MODEL_CARDS.glob("camvid-*.md")
    text = report.publish_card(row, tmp_path).read_text()
    assert shown.name == f"camvid-{row['name']}.md"
    assert shown.read_text() == text
    for split in ("validation", "test"):
        assert f"{100 * row['scores'][split]['mean_iou']:.2f}" in text
    assert "png" not in text  # pictures would show the data set


def test_the_pages_claim_what_the_study_found(study):
    report = study("report")
    arms = report.group_arms(report.read_rows("results.jsonl"))
    wanted = [(f"{name}-cmdl", f"{name}-{other}") for name in ("fcn", "pspnet") for other in ("plain", "control")]
    gains = report.find_differences(arms, wanted)
    fcn, fcn_control, pspnet, pspnet_control = (f"{100 * gain.over_images.difference:.1f}" for gain in gains)
    fcn_ends, _, pspnet_ends, _ = (report.format_interval(gain.over_images) for gain in gains)
    fcn_seeds, _, pspnet_seeds, pspnet_control_seeds = (report.format_interval(gain.over_seeds) for gain in gains)
    claims = (
        f"CMDL gains {fcn} points of test mean IoU with FCN, and {pspnet} with PSPNet.",
        f"are {fcn_ends} and {pspnet_ends}; those over three seeds are {fcn_seeds} and {pspnet_seeds}.",
        f"Over the control, the gains are {fcn_control} and {pspnet_control}.",
        f"its interval over seeds is {pspnet_control_seeds}.",
    )
    single, assigned = report.find_differences(arms, [("fcn-cmdl", "fcn-m1"), ("fcn-assigned", "fcn-cmdl")])
    one, nine = (
        np.mean([row["scores"]["validation"]["mean_iou"] for row in arms[f"fcn-{a}"]]) for a in ("m1", "cmdl")
    )
    of_readme = (
        f"CMDL gains {fcn} points with FCN (95 % interval over images {fcn_ends}, over the seeds {fcn_seeds})",
        f"and {pspnet} with PSPNet ({pspnet_ends} and {pspnet_seeds})",
        f"Over the control it gains {fcn_control} and {pspnet_control}; seeds alone could make the {pspnet_control}.",
        f"nine distributions of a class score {100 * single.over_images.difference:.1f} points more than one on "
        f"test, and {100 * (one - nine):.1f} less on validation",
        f"scores {-100 * assigned.over_images.difference:.1f} points less on CamVid's test split (95 % interval "
        f"over images {report.format_interval(assigned.over_images)}, over three seeds "
        f"{report.format_interval(assigned.over_seeds)})",
    )
    readme = STUDY.parents[1] / "README.md"
    for page, sentences in ((STUDY / "README.md", claims), (readme, of_readme)):
        text = " ".join(page.read_text().split())
        for sentence in sentences:
            assert sentence in text
    rows = [arms[f"{framework}-{arm}"] for framework in ("fcn", "pspnet") for arm in ("plain", "control", "cmdl")]
    unseen = [
        [mean_ious(run[slice(*report.DRIVES["Seq05VD"])], np.ones((1, 171), dtype=int))[0] for run in counts]
        for counts in map(report.read_counts, rows)
    ]
    scores = [[[row["scores"][split]["mean_iou"] for row in arm] for arm in rows] for split in ("validation", "test")]
    for values in (*scores, unseen):
        assert f" | {' | '.join(map(describe_spread, values))} |\n" in readme.read_text()
