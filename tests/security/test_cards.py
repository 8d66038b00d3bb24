"""Cards made of a stranger's files: what these say stays text, in one line, whatever it looks like."""

import ast
import itertools
import json
import unicodedata
from pathlib import Path

import datasets
import pytest
import yaml
from huggingface_hub import ModelCard
from nasty_names import INVISIBLE, LINES, MARKUP, NAMES, TEMPLATES, render
from run_folder import SCORES

from cmdl_hf.data.dataset_card import make_dataset_card
from cmdl_hf.data.label_table import LabelTable
from cmdl_hf.data.listing import Layout
from cmdl_hf.data.loading import BENCHMARKS
from cmdl_hf.data.reading import BadFileError
from cmdl_hf.data.sets.base import SegmentationDataset
from cmdl_hf.escaping import MAX_NAME, code_span, code_string, for_markdown, lines, one_line
from cmdl_hf.hub import write_card
from cmdl_hf.hub.cards import is_generated


def _write_files(folder, names):
    """Files as a stranger may have written them: every string of theirs is one of the names."""
    name = itertools.cycle(names)
    scores = SCORES | {"per_class_iou": [0.5] * len(names), "per_class_accuracy": [0.25] * len(names)}
    config = {
        "id2label": dict(enumerate(names)),
        "context_module": next(name),
        "backbone_config": {"backbone": next(name)},
        "num_distributions": next(name),
    }
    recipe = {
        key: next(name)
        for key in ("benchmark", "output_stride", "transform", "momentum", "total_batch_size", "class_weights", "seed")
    }
    recipe |= {key: [next(name), next(name)] for key in ("resize", "crop_size", "scale_range", "plugin")}
    recipe |= {"optimizer": "sgd", "swapped_classes": [[next(name), next(name)]], "freeze_batch_norm": next(name)}
    run = {
        "weights": next(name),
        "device": next(name),
        "mixed_precision": next(name),
        "num_images": {next(name): 3, next(name): 4},
        "versions": {next(name): next(name)},
    }
    contents = {"config": config, "run": run, "scores": dict.fromkeys(names[:4], scores)}
    for file, content in contents.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def _card(folder, names):
    folder.mkdir(exist_ok=True)
    _write_files(folder, names)
    path = write_card(folder, "me/toy")
    return ModelCard.load(path), path.read_text()


def _plain(names):
    return [f"name {place}" for place in range(len(names))]


@pytest.mark.parametrize("first", range(0, len(NAMES), 3))
def test_a_card_of_nasty_names_has_the_tags_of_one_with_plain_names(tmp_path, first):
    names = NAMES[first:] + NAMES[:first]
    page, plain = (render(_card(tmp_path / kind, given)[1]) for kind, given in (("a", names), ("b", _plain(names))))
    assert page.tags == plain.tags
    shown = [cell for cell in page.cells if cell.strip("\u2068\u2069") in {one_line(name, MAX_NAME) for name in NAMES}]
    assert len(shown) >= 4 * len(NAMES)  # the tables of classes show every name as it is


@pytest.mark.parametrize("first", range(0, len(NAMES), 3))
def test_no_name_adds_metadata(tmp_path, first):
    names = NAMES[first:] + NAMES[:first]
    (card, text), (plain, _) = (_card(tmp_path / kind, given) for kind, given in (("a", names), ("b", _plain(names))))
    assert card.data.to_dict().keys() == plain.data.to_dict().keys()
    assert card.data.license is None
    assert card.data.tags[:2] == ["semantic-segmentation", "cmdl"]
    assert len(card.data.tags) == 3
    assert [r.metric_type for r in card.data.eval_results] == [r.metric_type for r in plain.data.eval_results]
    assert text.count("\n---\n") == 1
    assert is_generated(text)
    assert not any(letter in text for letter in "\x00\x07\x1b\r\x85\x9b\u2028\u202e\u200b\u2066")


def test_templates_in_values_are_text(tmp_path):
    page = render(_card(tmp_path, TEMPLATES * 3)[1])
    assert "49" not in page.text
    assert all(name in page.text for name in TEMPLATES)


def test_300_classes_of_any_writing_stay_readable(tmp_path):
    names = [f"{word} {place}" for place in range(100) for word in ("שלום", "road", "very long " * 50)]
    _, text = _card(tmp_path, names)
    page = render(text)
    assert "300: \u2068שלום 0\u2069, road 0, very long" in page.text
    assert max(map(len, page.cells)) <= 300
    assert sum(cell.endswith("…") for cell in page.cells) >= 400
    assert text.count("\u2068") == text.count("\u2069")


def test_names_from_right_to_left_keep_their_order_beside_others(tmp_path):
    """Without isolates, what became of which class reads the wrong way round."""
    _write_files(tmp_path, ["road", "sky"])
    run = json.loads((tmp_path / "run.json").read_text())
    run |= {"num_images": {"שלום": 3, "val": 4}, "merged_classes": {"כלב": "חיה", "b|*": None}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"swapped_classes": [["ימין", "שמאל"]]}))
    cells = render(write_card(tmp_path).read_text()).cells
    for cell in (
        "unknown data (3 \u2068שלום\u2069, 4 val images)",
        "\u2068כלב\u2069 → \u2068חיה\u2069; b|* → ignored",
        "\u2068ימין\u2069 and \u2068שמאל\u2069",
    ):
        assert cell in cells


def test_a_long_list_of_merged_classes_says_how_many_more_there_are(tmp_path):
    _write_files(tmp_path, ["road", "sky"])
    run = json.loads((tmp_path / "run.json").read_text())
    run["merged_classes"] = {f"class {place}": "road" for place in range(300)}
    (tmp_path / "run.json").write_text(json.dumps(run))
    (cell,) = (cell for cell in render(write_card(tmp_path).read_text()).cells if "→" in cell)
    shown, _, more = cell.rpartition("; ")
    assert more == f"and {300 - shown.count('→')} more"
    assert len(cell) < 400


@pytest.mark.parametrize("repo_id", ['me/toy"); evil("', "me/toy\n```\n# heading", "../../etc", "a/b/c"])
def test_the_examples_of_a_card_take_names_of_the_hub_only(tmp_path, repo_id):
    _write_files(tmp_path, ["road", "sky"])
    with pytest.raises(ValueError, match=r"[Rr]epo id"):
        write_card(tmp_path, repo_id)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"id2label": {"<script>": "road"}}),
        ("config.json", {"id2label": ["road"]}),
        ("config.json", {"id2label": {"0": "road"}, "backbone_config": "resnet"}),
        ("run.json", {"num_images": {"train": "<script>\n"}}),
        ("run.json", {"num_images": ["train"]}),
        ("run.json", {"seconds": "<script>"}),
        ("recipe.yaml", {"learning_rate": "<script>"}),
        ("recipe.yaml", {"resize": [1]}),
    ],
)
def test_values_of_another_kind_are_an_error_in_one_line(tmp_path, file, content):
    _write_files(tmp_path, ["road", "sky"])
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"must hold what cmdl_hf writes.*correct it, or move its file away$"
    ) as error:
        write_card(tmp_path)
    assert str(error.value) == one_line(error.value)


def test_absolute_paths_of_plug_ins_stay_out(tmp_path):
    _write_files(tmp_path, ["road", "sky"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"plugin": [str(tmp_path / "strip.py"), "a/b.py", "mine"]}))
    text = write_card(tmp_path).read_text()
    assert "| plug-ins | strip.py, a/b.py, mine |" in text
    assert str(tmp_path) not in text


def _data_card(names, path):
    rows = datasets.Dataset.from_dict({"id": ["a", "b"]})
    bad_files = [BadFileError(Path("data") / name.replace("/", ""), name, "save it anew") for name in names]
    dataset = SegmentationDataset({"train": rows}, LabelTable.from_names(names), bad_files)
    splits = {"train": {"name": "train", "num_bytes": 1, "num_examples": 2}}
    info = datasets.DatasetInfo(features=rows.features, splits=splits)
    layout = Layout("camvid", (), {"train": 2}, "")
    return make_dataset_card(dataset, info, BENCHMARKS["camvid"], layout, path)


@pytest.mark.parametrize("path", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_data_set_s_card_of_nasty_names_has_the_tags_of_one_with_plain_names(path):
    names = [name for name in NAMES if name not in ("", "---")]
    card, plain = _data_card(names, path), _data_card(_plain(names), "plain")
    page = render(str(card))
    assert page.tags == render(str(plain)).tags
    assert card.data.to_dict() == plain.data.to_dict()
    assert set(page.cells) >= {*MARKUP[:10], *TEMPLATES}
    assert f"load_dataset({code_string(path)})" in page.text


@pytest.mark.parametrize("path", NAMES, ids=lambda name: ascii(name)[:20])
def test_the_example_of_a_data_set_s_card_is_python_that_does_nothing_else(path):
    code = str(_data_card(["road", "sky"], path)).split("```python\n")[1].split("\n```")[0]
    calls = [node.func.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert calls == ["load_dataset"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_every_way_out_is_one_line(name):
    for text in (one_line(name), for_markdown(name), code_span(name), code_string(name)):
        assert len(text.splitlines()) <= 1
        assert text == text.encode().decode()
        assert not any(unicodedata.category(letter) == "Cc" for letter in text)
    assert len(one_line(name, 20)) <= 20
    if name not in LINES:
        assert [one_line(other) for other in NAMES].count(one_line(name)) == 1


@pytest.mark.parametrize("name", [*LINES, *INVISIBLE], ids=lambda name: ascii(name)[:20])
def test_a_message_s_later_lines_are_indented(name):
    first, *others = lines(f"3 files: {name}\nrepair them").split("\n")
    assert first.startswith("3 files: ")
    assert all(line.startswith("  ") for line in others)
    assert "\x1b" not in first
    assert lines("plain") == "plain"
