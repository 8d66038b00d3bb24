import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import DPTImageProcessor, SegformerConfig, SegformerForSemanticSegmentation

from cmdl_hf import CMDLForSemanticSegmentation, make_image_processor
from cmdl_hf.cli import main
from cmdl_hf.explore import explore, exploring, labels_on
from cmdl_hf.explore.pictures import PATCH_SIZE, cell_box, cut_patch, shrink, to_data_uri
from cmdl_hf.explore.statistics import Cell
from cmdl_hf.inference import load_segmenter

NAMES = ["sky", "<b>road</b> & co", "tree, wood, forest and everything that grows there", "absent"]
K, M = len(NAMES), 3
DEAD, DUPLICATE = (1, 2), (2, 1)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def data(tmp_path):
    """Own data: five images of three of four classes, with void at the top."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index in range(5):
        Image.fromarray(rng.integers(0, 255, (128, 160, 3), dtype=np.uint8)).save(
            tmp_path / "data/images" / f"photo {index}.png"
        )
        label = np.kron(rng.integers(0, K - 1, (4, 5)), np.ones((32, 32))).astype(np.uint8)
        label[:20] = 255
        Image.fromarray(label).save(tmp_path / "data/masks" / f"photo {index}.png")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    return {
        "benchmark": "own",
        "data_dir": tmp_path / "data",
        "id2label": tmp_path / "classes.txt",
        "output_dir": tmp_path / "out",
    }


@pytest.fixture
def folder(tmp_path, make_model):
    """A saved model with a planted dead and a planted duplicate distribution."""
    model = make_model(num_labels=K, id2label=dict(enumerate(NAMES)), num_distributions=M).eval()
    bank = model.memory_bank
    bank.num_updates.fill_(5)
    bank.num_updates[DEAD] = 0
    bank.prototypes[DUPLICATE] = bank.prototypes[DUPLICATE[0], 0]
    return _save(model, tmp_path / "my model")


def _save(model, folder):
    model.save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return folder


def test_a_folder_in_half_precision_is_explored(folder, data):
    CMDLForSemanticSegmentation.from_pretrained(folder).bfloat16().save_pretrained(folder)
    assert explore(folder, **data)


class Page(HTMLParser):
    """Reads a page: its tags with their attributes, its text, and whether tags close in their order."""

    VOID = ("meta", "link", "img", "input", "path", "image", "use", "br")

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID or tag == "path":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag == "use":
            return
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_figures_are_those_of_the_model_s_outputs_pixel_by_pixel(folder, data):
    findings = explore(folder, **data)
    assert json.loads((data["output_dir"] / "distributions.json").read_text()) == findings

    model, processor = load_segmenter(folder)
    rows = []
    for index in range(5):
        name = f"photo {index}.png"
        label = np.array(Image.open(data["data_dir"] / "masks" / name))
        with torch.no_grad():
            output = model(
                **processor(Image.open(data["data_dir"] / "images" / name), return_tensors="pt"),
                output_distributions=True,
            )
        h, w = output.distribution_ids.shape[1:]
        for pixel, similarity in enumerate(output.similarity):
            truth = int(label[pixel // w * 128 // h, pixel % w * 160 // w])
            rows.append((f"photo {index}", pixel // w, pixel % w, truth, similarity))
    labelled = [row for row in rows if row[3] < K]
    assert 0 < len(labelled) < len(rows)
    assert findings["num_pixels"] == len(labelled)
    for class_id in range(K):
        of_class = [row for row in labelled if row[3] == class_id]
        assert findings["classes"][class_id]["num_pixels"] == len(of_class)
        for m in range(M):
            found = findings["classes"][class_id]["distributions"][m]
            own = [row for row in of_class if int(row[4][class_id].argmax()) == m]
            nearest = [row[3] for row in labelled if int(row[4].flatten().argmax()) == class_id * M + m]
            assert found["num_pixels"] == len(own)
            assert found["share"] == (pytest.approx(len(own) / len(of_class), rel=1e-4) if of_class else None)
            assert found["num_nearest"] == len(nearest)
            purity = pytest.approx(nearest.count(class_id) / len(nearest), rel=1e-4) if nearest else None
            assert found["purity"] == purity
            best = {}
            for name, row, column, _, similarity in own:
                value = float(similarity[class_id, m])
                best[name] = max(best.get(name, (-2,)), (value, row, column))
            expected = sorted(((value, name, y, x) for name, (value, y, x) in best.items()), reverse=True)
            places = [(patch["image"], patch["row"], patch["column"]) for patch in found["nearest"]]
            assert places == [(name, y, x) for _, name, y, x in expected]


def test_dead_and_duplicate_distributions_are_called_out(folder, data):
    findings = explore(folder, **data)
    assert findings["dead"] == [{"class": DEAD[0], "distribution": DEAD[1]}]
    assert findings["duplicates"] == [{"class": DUPLICATE[0], "distribution": DUPLICATE[1], "of": 0, "cosine": 1.0}]
    assert findings["classes_without_pixels"] == [3]
    assert all(row["distribution"] != 0 for row in findings["unused"] if row["class"] == DUPLICATE[0])
    text = Page((data["output_dir"] / "report.html").read_text()).text
    assert "Dead: 1" in text
    assert "Duplicates: 1" in text
    assert "1 repeats 0 (1.000)" in text
    assert re.search(r"\d more that repeat another or have no pixel here", text)
    assert "Are they several, and does it matter?" in text


def test_the_page_stands_alone(folder, data, tmp_path):
    explore(folder, **data)
    html = (data["output_dir"] / "report.html").read_text()
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "action"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:")), address[:80]
    assert "url(" not in html
    assert "@import" not in html
    assert not re.search(r"https?://", html)
    for file in ("report.html", "distributions.json"):
        assert str(tmp_path) not in (data["output_dir"] / file).read_text()
        assert os.sep + "home" not in (data["output_dir"] / file).read_text()
    assert sorted(path.name for path in data["output_dir"].iterdir()) == ["distributions.json", "report.html"]
    assert {attributes["id"] for attributes in page.attributes("section")} == {
        attributes["href"][1:] for attributes in page.attributes("a") if not attributes["href"].startswith("#class-")
    }


def test_the_page_shows_every_class_and_escapes_its_name(folder, data):
    findings = explore(folder, **data)
    html = (data["output_dir"] / "report.html").read_text()
    page = Page(html)
    classes = [attributes for attributes in page.attributes("details") if attributes["class"] == "class"]
    assert [attributes["data-name"] for attributes in classes] == NAMES
    for row in findings["classes"]:
        assert 1 <= (row["num_distinct"] or 1) <= M
        if row["num_pixels"]:
            assert f"distinct distributions of {M}. The mean cosine between them is {row['mean_cosine']:.2f}" in html
    assert "<b>road" not in html
    assert "<b>road</b> & co" in page.text
    used = sum(bool(one["nearest"]) for row in findings["classes"] for one in row["distributions"])
    strips = [attributes for attributes in page.attributes("img") if attributes["alt"].startswith("Patches")]
    assert len(strips) == used
    assert len(page.attributes("use")) == K * M
    titles = [
        attributes["alt"].split(" of ")[0] for attributes in page.attributes("img") if " of " in attributes["alt"]
    ]
    assert titles == ["Image", "Truth", "Prediction", "Distributions", "Outlier map"] * 5


def test_max_images_are_spread_over_the_split(folder, data):
    findings = explore(folder, **data, max_images=3)
    assert (findings["num_images"], findings["num_images_of_split"]) == (3, 5)
    images = {cell["image"] for row in findings["classes"] for one in row["distributions"] for cell in one["nearest"]}
    assert images <= {"photo 0", "photo 2", "photo 4"}
    with pytest.raises(ValueError, match="max_images must be at least 1, found 0"):
        explore(folder, **data, max_images=0)


def test_a_second_look_finds_the_same(folder, data):
    first = explore(folder, **data)
    html = (data["output_dir"] / "report.html").read_text()
    assert explore(folder, **data) == first
    assert (data["output_dir"] / "report.html").read_text() == html


def test_patches_show_the_pixel_in_the_middle_or_at_the_edge_of_the_image():
    image = Image.new("RGB", (400, 200), (10, 20, 200))
    middle, corner = Cell(0, 10, 20, (20, 40), 0.5), Cell(0, 0, 39, (20, 40), 0.5)
    assert cell_box(image.size, middle) == (200, 100, 210, 110)
    image.paste((250, 30, 30), (200, 100, 210, 110))
    image.paste((30, 250, 30), (390, 0, 400, 10))
    for cell, color, place in ((middle, (250, 30, 30), (64, 64)), (corner, (30, 250, 30), (118, 9))):
        patch = cut_patch(image, cell)
        assert patch.size == (PATCH_SIZE, PATCH_SIZE)
        assert patch.getpixel(place) == color
        colors = {color for _, color in patch.getcolors(10_000)}
        assert {(0, 0, 0), (255, 255, 255)} <= colors  # the mark
    tiny = cut_patch(Image.new("RGB", (3, 2)), Cell(0, 0, 0, (1, 1), 0.5))
    assert tiny.size == (PATCH_SIZE, PATCH_SIZE)


def test_pictures_of_ids_keep_their_colours():
    colors = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    uri = to_data_uri(Image.fromarray(colors), is_photo=False)
    assert uri.startswith("data:image/webp;base64,")
    read = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert np.array_equal(np.asarray(read), colors)


def test_the_command_prints_where_the_report_is(folder, data, capsys):
    options = {"--benchmark": "own", "--data-dir": data["data_dir"], "--id2label": data["id2label"]}
    options["--out"] = data["output_dir"]
    main(["explore", str(folder), *(str(word) for option in options.items() for word in option)])
    printed, told = capsys.readouterr()
    assert "pixels and the distributions (t-SNE)" in told
    assert "5 images, 12 distributions" in printed
    assert "1 dead, 1 duplicates" in printed
    assert f"report: {data['output_dir'] / 'report.html'}" in printed


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            AssertionError("Input height (128) doesn't match"),
            r"cannot explore image photo 0 of 128 × 160 .*Input height",
        ),
        (torch.OutOfMemoryError(), "image photo 0 of 128 × 160 pixels does not fit into memory; make it smaller"),
    ],
)
def test_an_image_that_the_model_refuses_is_named(folder, data, monkeypatch, error, message):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("cmdl_hf.CMDLForSemanticSegmentation.forward", refuse)
    with pytest.raises((ValueError, MemoryError), match=message):
        explore(folder, **data)


def test_an_image_processor_that_pads_is_refused(folder, data):
    DPTImageProcessor(do_resize=False, do_pad=True, size_divisor=32).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"my model pads images, and .*; set do_pad to false"):
        explore(folder, **data)


def test_models_without_distributions_are_refused(make_model, data, tmp_path):
    plain = _save(make_model(use_distributions=False), tmp_path / "plain")
    with pytest.raises(
        ValueError, match=r"only models with class distributions.*was trained without them; name a CMDL"
    ):
        explore(plain, **data)
    sizes = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    other = _save(SegformerForSemanticSegmentation(SegformerConfig(**sizes)), tmp_path / "other")
    with pytest.raises(ValueError, match=r"only models with class distributions.*is a segformer model"):
        explore(other, **data)


def test_another_number_of_classes_is_refused(make_model, data, tmp_path):
    other = _save(make_model(num_labels=7), tmp_path / "other")
    with pytest.raises(ValueError, match=r"same classes, found 7 in .*other and 4 in own; choose a model"):
        explore(other, **data)


def test_embeddings_that_are_not_finite_are_refused(make_model, data, tmp_path):
    model = make_model(num_labels=K)
    model.memory_bank.prototypes.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"must be finite, found nan or inf in image 0"):
        explore(_save(model, tmp_path / "broken"), **data)


def test_missing_and_empty_things_are_told_apart(folder, data, tmp_path):
    (tmp_path / "empty").mkdir()
    for change, message in (
        ({"data_dir": tmp_path / "empty"}, "images"),
        ({"data_dir": tmp_path / "nowhere"}, "nowhere"),
        ({"data_dir": None}, "give --data-dir"),
        ({"id2label": None}, "give --id2label"),
        ({"benchmark": "camvid"}, "id2label is for own data"),
        ({"benchmark": "pascal"}, "no benchmark 'pascal'; known are"),
        ({"split": "test"}, "own has the splits train, not test"),
    ):
        with pytest.raises((ValueError, OSError), match=re.escape(message)):
            explore(folder, **data | change)
    for model, message in ((tmp_path / "empty", "no config.json"), (tmp_path / "nowhere", "nowhere does not exist")):
        with pytest.raises(FileNotFoundError, match=message):
            explore(model, **data)
    assert not any(data["output_dir"].iterdir())


def test_only_void_and_withheld_labels_are_refused(folder, data, monkeypatch):
    for path in (data["data_dir"] / "masks").iterdir():
        Image.new("L", (160, 128), 255).save(path)
    with pytest.raises(ValueError, match="none of the 5 images of own's train split has a labelled pixel"):
        explore(folder, **data)
    images = exploring._Images(datasets.Dataset.from_list([{"id": "a", "image": None, "label": None}]), [0])
    with pytest.raises(ValueError, match="and a has none; choose a split with public labels"):
        images[0]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(exploring, "load_segmenter", lambda model: pytest.fail("began to work"))
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=r"file cannot be written .*; name another place"):
        explore(folder, **data | {"output_dir": tmp_path / "file"})
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="locked cannot be written"):
            explore(folder, **data | {"output_dir": tmp_path / "locked"})


def test_missing_scikit_learn_names_the_extra(folder, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[explore\]'"):
        explore(folder, **data)


def test_labels_are_brought_to_the_grid_as_in_training():
    label = torch.randint(0, 5, (45, 61))
    found = labels_on(label.byte().numpy(), (6, 8), torch.device("cpu"))
    assert torch.equal(found, F.interpolate(label[None, None].float(), size=(6, 8)).long().flatten())


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_a_browser_opens_the_page_without_a_complaint(folder, data, tmp_path):
    explore(folder, **data)
    report = data["output_dir"] / "report.html"
    probe = """<script>
    window.addEventListener("load", () => {
      const search = document.getElementById("search");
      search.value = "ROAD"; search.dispatchEvent(new Event("input"));
      document.querySelector(".picks button").click();
      const shown = [...document.querySelectorAll("details.class")].filter((one) => !one.hidden).length;
      const broken = [...document.images].filter((one) => one.offsetParent && !one.naturalWidth).length;
      const wide = document.documentElement.scrollWidth > innerWidth;
      const lit = document.querySelectorAll("#plane.picked g.on").length;
      console.log(`probe: ${shown} shown, ${broken} broken, ${wide ? "too wide" : "fits"}, ${lit} lit`);
    });</script>"""
    probed = tmp_path / "probed.html"
    probed.write_text(report.read_text().replace("</body>", probe + "</body>"))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--dump-dom", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console
    assert "probe: 1 shown, 0 broken, fits, 3 lit" in console[0]


@pytest.mark.parametrize("size", [(100, 20000), (20000, 100), (5000, 5000)])
def test_pictures_of_any_shape_fit_the_page(size):
    assert to_data_uri(shrink(Image.new("RGB", size))).startswith("data:image/webp")
