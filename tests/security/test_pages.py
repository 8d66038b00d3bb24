"""The report, figures and what a terminal shows: names from outside stay names there."""

import json
import logging
import re
import shutil
import subprocess
import warnings

import datasets
import numpy as np
import pytest
import torch
from nasty_names import INVISIBLE, LINES, MARKUP, NAMES, TEMPLATES, Page
from PIL import Image

from cmdl_hf import make_image_processor
from cmdl_hf.cli import main
from cmdl_hf.cli.options import TerminalFormatter
from cmdl_hf.data import LabelTable, check_data, format_report
from cmdl_hf.data.contact_sheet import draw_contact_sheet
from cmdl_hf.data.reading import BadFileError, list_errors
from cmdl_hf.escaping import one_line
from cmdl_hf.evaluation.results import Evaluation
from cmdl_hf.explore import explore, exploring
from cmdl_hf.files import write_text
from cmdl_hf.inference import predict_files
from cmdl_hf.training.curves import draw_curves
from cmdl_hf.visualization import default_palette, draw_prediction

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CLASSES = [*NAMES, "<svg onload=hit=1>", "</title><script>hit=1</script>", "</script><script>hit=1</script>"]
K = len(CLASSES)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def report(tmp_path, make_model, monkeypatch):
    """Write a report of a model and images with given names."""
    places = np.random.default_rng(1)
    monkeypatch.setattr(  # the t-SNE takes most of the time and shows no names
        exploring,
        "lay_out",
        lambda pixels, stars: (places.random((len(pixels), 2)), places.random((*stars.shape[:2], 2))),
    )

    def write(names):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        rng = np.random.default_rng(0)
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        for index, name in enumerate(names[:8]):
            file = f"{index} {name}".replace("/", "").replace("\0", "")[:200] + ".png"
            Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder / "images" / file)
            label = np.kron(rng.integers(0, K, (8, 12)), np.ones((8, 8))).astype(np.uint8)
            Image.fromarray(label).save(folder / "masks" / file)
        (folder / "classes.json").write_text(json.dumps(names))
        torch.manual_seed(0)
        model = make_model(num_labels=K, id2label=dict(enumerate(names)), num_distributions=2)
        model.save_pretrained(folder / "model")
        make_image_processor().save_pretrained(folder / "model")
        out = folder / "out"
        explore(folder / "model", "own", out, folder, id2label=folder / "classes.json")
        return out / "report.html"

    return write


def test_a_report_of_nasty_names_has_the_tags_of_one_with_plain_names(report):
    html = report(CLASSES).read_text()
    page, plain = Page(html), Page(report([f"name {place}" for place in range(K)]).read_text())
    assert page.tags == plain.tags
    for name in MARKUP + TEMPLATES:
        assert one_line(name) in page.text
    assert not any(letter in html for letter in "\x00\x07\x1b\r\x85\x9b\u2028\u202e\u200b")
    assert "49" not in re.findall(r"<bdi>(.*?)</bdi>", html)
    assert 'class="tile warn"' in html  # words of the page itself stay as they are


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_a_browser_runs_nothing_of_the_names(report, tmp_path):
    page = report(CLASSES)
    probe = """<script>addEventListener("load", () => {
      const wide = document.documentElement.scrollWidth > innerWidth;
      console.log(`probe: ${typeof hit}, ${wide ? "too wide" : "fits"}, ${document.querySelectorAll("bdi").length}`);
    });</script>"""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", f"{probe}</body>"))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900"]
    done = subprocess.run([*command, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=60)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console
    assert "probe: undefined, fits, " in console[0]


def test_tables_of_the_terminal_have_one_line_for_each_class():
    scores = dict.fromkeys(("mean_iou", "mean_accuracy", "frequency_weighted_iou", "overall_accuracy"), 0.5)
    scores |= {"per_class_iou": [0.5] * len(NAMES), "per_class_accuracy": [0.5] * len(NAMES)}
    table = Evaluation({}, dict(enumerate(NAMES)), scores, [0.1] * len(NAMES)).format_table()
    rows = table.splitlines()
    assert len(rows) == len(NAMES) + 5  # the title, three means and a sentence
    assert {len(row) for row in rows[1:-4]} == {len(rows[1])}
    assert max(map(len, rows[:-1])) <= 80
    assert table.encode().decode().replace("\n", "").isprintable()


@pytest.fixture
def pictures(tmp_path):
    """Own data whose files have nasty names, one of them no image."""
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index, name in enumerate([*LINES, *INVISIBLE[:5]]):
        file = f"{index} {name}.png"
        Image.new("RGB", (40, 30)).save(tmp_path / "data/images" / file)
        Image.new("L", (40, 30), index).save(tmp_path / "data/masks" / file)
    (tmp_path / "data/images" / "0 \x1b[2Jok\nimages checked: 9, errors: 0.png").write_text("words")
    (tmp_path / "data/masks" / "0 \x1b[2Jok\nimages checked: 9, errors: 0.png").write_text("words")
    (tmp_path / "classes.json").write_text(json.dumps(NAMES))
    return tmp_path / "data"


def test_a_look_through_data_tells_names_in_one_line(pictures, tmp_path):
    report, is_drawn = check_data(str(pictures), tmp_path / "sheet.png", id2label=tmp_path / "classes.json")
    text = format_report(report)
    assert is_drawn
    assert report.errors
    assert text.replace("\n", "").isprintable()
    assert [line for line in text.splitlines() if line.startswith("images checked")] == [text.splitlines()[-1]]
    assert sum(line.startswith("error: ") for line in text.splitlines()) == len(report.errors)


def test_predicting_files_tells_names_in_one_line(pictures, tmp_path, make_model, capsys):
    make_model(num_labels=len(NAMES), id2label=dict(enumerate(NAMES))).save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "model"), str(pictures / "images"), "--out", str(tmp_path / "out")])
    told = [line for line in capsys.readouterr().err.split("\n") if "not segmented" in line]
    assert len(told) == 1
    assert told[0].isprintable()


def test_a_file_name_that_is_no_text_does_not_end_the_work(tmp_path, make_model):
    make_model(id2label={i: f"\ud800{i}" for i in range(5)}).save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    image = tmp_path / "caf\udce9.png"  # Latin-1 on the disk
    Image.new("RGB", (40, 30)).save(image)
    assert predict_files(tmp_path / "model", [image], tmp_path / "out") == {}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"][0]["file"] == str(image)
    write_text(tmp_path / "a.json", json.dumps({"name": "\udce9"}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "\udce9"}


def test_errors_of_the_command_line_cannot_forge_lines(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["predict", "model", str(tmp_path / "\x1b[2Jnowhere\ncmdl: all is well"), "--out", str(tmp_path)])
    first, *others = str(error.value).split("\n")
    assert first.startswith("cmdl: ")
    assert "\x1b" not in str(error.value)
    assert all(line.startswith("  ") for line in others)


@pytest.mark.parametrize("name", [*LINES, *INVISIBLE], ids=lambda name: ascii(name)[:20])
def test_log_lines_and_lists_of_bad_files_stay_apart(name, tmp_path):
    record = logging.LogRecord("cmdl_hf", logging.WARNING, "a.py", 1, "left out: %s", (name,), None)
    first, *others = TerminalFormatter().format(record).split("\n")
    assert first.startswith("left out: ")
    assert all(line.startswith("  ") for line in others)
    assert "".join((first, *others)).isprintable()
    text = list_errors([BadFileError(tmp_path / name, "breaks a rule", "mend it")] * 2)
    assert len(text.splitlines()) == 3


FORMULAS = ["$x^2$", "$\\nothing{$", "$$", "_hidden", "\\frac{1}{2}", *NAMES]


def test_figures_show_formulas_as_text_and_end_in_good_time(tmp_path, monkeypatch):
    from matplotlib.mathtext import MathTextParser

    parse = MathTextParser.parse

    def watch(parser, text, *args, **kwargs):
        assert text.startswith("$\\mathdefault"), "a name was set as a formula"  # ticks are
        return parse(parser, text, *args, **kwargs)

    monkeypatch.setattr(MathTextParser, "parse", watch)
    ids = np.arange(len(FORMULAS), dtype=np.uint8).reshape(1, -1).repeat(4, axis=0)
    names, palette = dict(enumerate(FORMULAS)), default_palette(len(FORMULAS))
    image = Image.new("RGB", ids.shape[::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the font lacks
        draw_prediction(image, ids, ids, None, names, palette, tmp_path / "a.png")
        rows = [{"step": step, **{f"{name}_loss": 0.5 for name in FORMULAS}} for step in (1, 2)]
        draw_curves(rows, tmp_path / "b.png")
    samples = [(name, image, Image.fromarray(ids)) for name in ("x" * 100_000, *FORMULAS)]
    draw_contact_sheet(samples, names, palette).save(tmp_path / "c.png")
    assert LabelTable.from_names(FORMULAS).id2label == names
