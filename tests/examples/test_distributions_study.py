"""The study of distributions: its page says what its rows say, and a run ends in a row."""

import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from safetensors.torch import save_file

STUDY = Path(__file__).parents[2] / "examples" / "distributions_study"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(STUDY)
    names = ("study", "report", "diagnosing")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def test_the_tables_are_those_of_the_rows(load):
    report = load("report")
    sets = report.read_rows()
    assert (STUDY / "TABLES.md").read_text(encoding="utf-8") == report.write_page(sets)
    # an arm of one seed, and one that has no rows yet
    few = {"plain": sets["msrc"]["plain"], "all": sets["msrc"]["all"][:1]}
    table = report.tabulate(few)
    assert "| all − plain | +1.2 |" not in table
    assert table.count("− plain") == 1
    assert next(line for line in table.splitlines() if "− plain" in line).endswith("| – |")


def test_the_pages_say_what_one_distribution_of_a_class_costs(load):
    report = load("report")
    row = next(line for line in report.tabulate(report.read_rows()["msrc"]).splitlines() if "all − all-m1" in line)
    points, images, seeds = (cell.strip(" +") for cell in row.split("|")[2:5])
    page, results, readme = (
        " ".join(path.read_text(encoding="utf-8").split())
        for path in (STUDY / "README.md", STUDY.parents[1] / "docs" / "results.md", STUDY.parents[1] / "README.md")
    )
    assert f"**Nine distributions score {points} points more than one**" in page
    assert f"The 95 % interval over images is +{images}, that over seeds {seeds}," in page
    assert f"score {points} points more than one (+{images} over images, {seeds} over seeds)" in results
    assert f"On MSRC-21 they score {points} more." in readme


def test_the_page_says_what_the_runs_of_one_seed_found(load):
    arms = load("report").read_rows()["msrc"]
    page = " ".join((STUDY / "README.md").read_text(encoding="utf-8").split())
    (control,), (distinct,) = arms["control"], arms["assigned-b1"]
    default = np.mean([row["both"] for row in arms["all"]])
    assert f"`control` scores {100 * control['both']:.1f} with its one seed" in page
    assert (
        f"the cosine is {distinct['cosine']:.2f} and the effective number {distinct['effective_number']:.1f}. The one "
        f"seed scores {100 * distinct['both']:.1f}, as the default does on average"
    ) in page
    assert f"{100 * distinct['both']:.1f}" == f"{100 * default:.1f}"


def test_the_plot_shows_every_run(load):
    report = load("report")
    arms = report.read_rows()["msrc"]
    scores, *diagnostics = report.draw(arms).axes
    dots = [
        sum(len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o")
        for axis in (scores, *diagnostics)
    ]
    runs = [row for rows in arms.values() for row in rows]
    num_several = sum("cosine" in row for row in runs)
    assert dots == [len(runs), num_several, num_several]
    assert num_several < len(runs)


@pytest.fixture
def folder(tmp_path):
    """Two classes, left and right, in images of two sizes."""
    for split in ("train", "val", "test"):
        for i, size in enumerate(((40, 60), (60, 40))):
            for kind, value in (("images", [[200, 60]]), ("masks", [[0, 1]])):
                pixels = np.repeat(np.repeat(np.array(value, dtype=np.uint8), size[0], 0), size[1] // 2, 1)
                file = tmp_path / kind / split / f"{i}.{'jpg' if kind == 'images' else 'png'}"
                file.parent.mkdir(parents=True, exist_ok=True)
                image = PIL.Image.fromarray(pixels)
                (image.convert("RGB") if kind == "images" else image).save(file)
    return tmp_path


def test_a_crop_is_cut_from_image_and_mask_alike(load, folder):
    study = load("study")
    split = study.read_split(folder, "train")
    batches = study.Batches(split, study.Recipe((32, 48), 20), 0, "cpu")
    compared = 0
    for step in range(20):
        pixels, labels = batches.draw(torch.tensor([step]))
        assert pixels.shape == (8, 3, 32, 48)
        bright = pixels.mean(dim=1) > pixels.mean(dim=(1, 2, 3))[:, None, None]
        is_used = labels != study.VOID
        if is_used.any() and labels[is_used].unique().numel() == 2:
            assert (bright == (labels == 0))[is_used].float().mean() > 0.8
            compared += 1
    assert compared > 10


def test_masks_of_another_size_than_their_image_are_refused(load, folder):
    mask = folder / "masks" / "train" / "0.png"
    PIL.Image.open(mask).resize((120, 80)).save(mask)
    with pytest.raises(SystemExit, match=r"0.jpg: the image has \(40, 60\) pixels, and its mask \(80, 120\)"):
        load("study").read_split(folder, "train")


def test_scores_of_images_of_several_sizes(load, folder):
    class Right(torch.nn.Module):
        """Says the second class everywhere."""

        config = SimpleNamespace(num_labels=2)

        def forward(self, pixel_values):
            scores = torch.zeros(len(pixel_values), 2, 4, 4)
            scores[:, 1] = 1
            return SimpleNamespace(logits=scores)

    study = load("study")
    counts = load("diagnosing").score(Right(), study.read_split(folder, "val"), "cpu")
    assert counts.tolist() == [[[0, 1200], [1200, 2400]]] * 2
    assert load("diagnosing").mean_iou(counts) == pytest.approx(0.25)


@pytest.fixture
def trial(load, folder, tmp_path, monkeypatch):
    """Run an arm for two steps; returns its row."""
    study = load("study")
    monkeypatch.setitem(study.RECIPES, "msrc", study.Recipe((32, 48), 2))
    weights, out = tmp_path / "weights.safetensors", tmp_path / "out"
    save_file(timm.create_model("mobilenetv2_100").state_dict(), weights)
    args = SimpleNamespace(device="cpu", out=out, steps=None, weights=weights)
    out.mkdir()

    def run(arm):
        splits = {split: study.read_split(folder, split) for split in ("train", "val", "test")}
        study.run(f"msrc/{arm}/0", {"msrc": splits}, math.inf, args)
        assert f"msrc/{arm}/0" in study.find_done(out)
        with np.load(out / "counts" / f"msrc-{arm}-0.npz") as counts:
            assert counts["val"].shape == counts["test"].shape == (2, 2, 2)
        return json.loads((out / "results.jsonl").read_text().splitlines()[-1])

    return run


SCORES = {"data", "arm", "seed", "device", "loss", "seconds", "val", "test"}
OF_SEVERAL = {"cosine", "effective_number", "effective_number_max", "entropy", "agreement", "chance_agreement"}


@pytest.mark.parametrize(
    ("arm", "keys"),
    [
        ("plain", set()),
        ("all-m1", set()),
        ("assigned", OF_SEVERAL | {"probe_gain"}),
        ("assigned-votes", OF_SEVERAL | {"probe_gain", "permuted", "uniform"}),
    ],
)
def test_a_run_ends_in_a_row(trial, arm, keys):
    row = trial(arm)
    assert set(row) == SCORES | keys
    assert row["device"] == "cpu"
    assert all(math.isfinite(row[key]) for key in SCORES - {"data", "arm", "device"} | keys)


def test_runs_without_a_row_are_named(load, folder, tmp_path):
    study = load("study")
    args = SimpleNamespace(
        data=[f"msrc={folder}"], groups=["plain", "all-m1"], seeds=[0], jobs=0, minutes=0, out=tmp_path
    )
    (tmp_path / "results.jsonl").write_text('{"data": "msrc", "arm": "plain", "seed": 0}\n')
    with pytest.raises(SystemExit, match=r"^without a row: msrc/all-m1/0$"):
        study.train(args)


def test_the_rows_are_complete():
    rows = [json.loads(line) for line in (STUDY / "results.jsonl").read_text().splitlines()]
    for row in rows:
        assert (STUDY / "counts" / f"{row['data']}-{row['arm']}-{row['seed']}.npz").exists()
    assert {row["seed"] for row in rows if row["arm"] == "assigned"} == {0, 1, 2}
