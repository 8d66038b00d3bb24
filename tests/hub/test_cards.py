import json
import os
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from run_folder import FACTS, SCORES, TEST_SCORES, make_run_folder, save_model

from cmdl_hf.data import BENCHMARKS
from cmdl_hf.hub import write_card


@pytest.fixture
def model(make_model):
    return make_model()


def _write(folder, repo_id="me/toy"):
    path = write_card(folder, repo_id)
    assert path == folder / "README.md"
    return ModelCard.load(path), path.read_text()


def test_a_card_loads_its_model_with_the_package_where_the_folder_has_no_code(model, tmp_path):
    folder = make_run_folder(tmp_path, model, {"validation": SCORES, "test": TEST_SCORES})
    config = json.loads((folder / "config.json").read_text())
    config.pop("auto_map", None)
    (folder / "config.json").write_text(json.dumps(config))
    _, text = _write(folder)
    assert "trust_remote_code" not in text
    assert 'import cmdl_hf\n\nsegment = pipeline("image-segmentation", model="me/toy")' in text
    assert "makes the model known to transformers. To use the network" in text


def test_a_runs_card_tells_recipe_scores_data_and_protocol(model, tmp_path):
    card, text = _write(make_run_folder(tmp_path, model, {"validation": SCORES, "test": TEST_SCORES}))
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.model_name == "toy"
    assert {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results} == {
        ("validation", "mean_iou"): 0.6123,
        ("validation", "mean_accuracy"): 0.7,
        ("validation", "accuracy"): 0.91,
        ("test", "mean_iou"): 0.5432,
        ("test", "mean_accuracy"): 0.7,
        ("test", "accuracy"): 0.91,
    }
    assert {r.dataset_name for r in card.data.eval_results} == {"CamVid"}
    for expected in (
        "# CMDL-FCN with resnet, CamVid",
        'pipeline("image-segmentation", model="me/toy", trust_remote_code=True)',
        'subfolder="last"',
        "| data | CamVid (367 train, 101 validation, 233 test images) |",
        "| network | CMDL-FCN on resnet |",
        "| optimiser steps | 800 |",
        "| backbone starts from | resnet18.safetensors |",
        "| images resized to | shorter edge 360, longer at most 480 pixels |",
        "| optimiser | SGD, momentum 0.9 |",
        "| learning rate | 0.01, falls to 0.0001 by power 0.9 |",
        "| precision | bf16 |",
        "| training time | 1.5 h |",
        "Single scale, whole images of shorter edge 360, longer at most 480 pixels, without flipping; scored at",
        "step 720 of 800, chosen by the mean IoU on the validation split",
        "| mean IoU | 61.23 | 54.32 |",
        "### Classes, validation split",
        "| LABEL_2 | 12.34 | 25.00 |",
        "### Classes, test split",
        "| LABEL_2 | 11.11 | 25.00 |",
        "| LABEL_3 | – | – |",
        "CC BY-NC 4.0",
        "arXiv 2303.08029",
        "@article{brostow2009semantic",
        "(predictions.png)",
        "(curves.png)",
    ):
        assert expected in text
    assert str(tmp_path) not in text


def test_without_scores_the_card_claims_none(model, tmp_path):
    folder = make_run_folder(tmp_path, model)
    (folder / "predictions.png").unlink()
    card, text = _write(folder)
    assert card.data.eval_results is None
    assert card.data.metrics is None
    assert "Its scores were not measured." in text
    for unknown in ("model-index", "## Results", "mean IoU", "validation split", "predictions.png", "Single scale"):
        assert unknown not in text


def test_the_card_of_a_run_that_is_not_over_says_so(model, tmp_path):
    facts = FACTS | {"is_finished": False, "steps": 400, "best_step": 320}
    _, text = _write(make_run_folder(tmp_path, model, {"validation": SCORES}, facts))
    assert "The training is not finished. This is the best model of the first 400 steps." in text
    assert "| optimiser steps | 400 of 800 |" in text
    assert "step 320 of 800, chosen by the mean IoU" in text


def test_one_split_and_what_could_not_be_measured(model, tmp_path):
    scores = SCORES | {"mean_accuracy": None}
    facts = FACTS | {"best_metric": None, "best_step": 800, "mixed_precision": "no"}
    card, text = _write(make_run_folder(tmp_path, model, {"test": scores}, facts))
    assert "| precision | float32 |" in text
    assert [(r.dataset_split, r.metric_type) for r in card.data.eval_results] == [
        ("test", "mean_iou"),
        ("test", "accuracy"),
    ]
    assert "| mean accuracy | – |" in text
    assert "chosen by" not in text
    assert "validation split" not in text


def test_a_folder_that_is_no_run_says_what_is_not_known(make_model, tmp_path):
    save_model(tmp_path, make_model(use_distributions=False, context_module="ppm"))
    card, text = _write(tmp_path, None)
    assert card.data.license is None
    for expected in (
        "# PSPNet with resnet\n",
        "This is the plain framework, without class-wise distributions.",
        "How this model was trained is not recorded.",
        "The training data and their terms of use are not recorded.",
        "Its scores were not measured.",
        'from_pretrained("path/to/this/folder")',
    ):
        assert expected in text
    for unknown in ("subfolder", "recipe.yaml", "CamVid", "## Results", ".png", str(tmp_path), tmp_path.name):
        assert unknown not in text


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["background", "leaf", "rust", "soil", "stem"], "leaf, rust, soil, stem"),
        (["a", "b", "c", "d", "e"], "5 classes such as a, b, c, d"),
    ],
)
def test_a_stranger_learns_what_a_model_of_own_data_is(make_model, tmp_path, names, title):
    facts = FACTS | {"num_images": {"train": 32, "validation": 8}}
    scores = {"validation": SCORES}
    folder = make_run_folder(tmp_path, make_model(id2label=dict(enumerate(names))), scores, facts, benchmark="own")
    card, text = _write(folder)
    for expected in (
        f", {title}\n",
        "trained on its owner's own images.",
        "They are not published with the model.",
        "It was not tested on images that differ from the training and validation images.",
        "The scores of the validation split are of 8 images, so they say little about other images.",
    ):
        assert expected in text
    assert "own data" not in text
    assert {result.dataset_name for result in card.data.eval_results} == {"its owner's own images"}


@pytest.mark.parametrize(
    ("data", "weights", "license"),
    [
        ("synthetic", None, "apache-2.0"),
        ("synthetic", "timm", None),  # the backbone's weights come from photographs with terms of their own
        ("own", None, None),
        *((name, None, "other") for name in BENCHMARKS),
    ],
)
def test_weights_are_apache_only_if_nothing_with_terms_went_into_them(model, tmp_path, data, weights, license):
    folder = make_run_folder(tmp_path, model, facts=FACTS | {"weights": weights}, benchmark=data)
    card, text = _write(folder)
    assert card.data.license == license
    if license == "other":
        assert card.data.license_link in text
        assert BENCHMARKS[data].license in text
        assert BENCHMARKS[data].citation in text


@pytest.mark.parametrize(
    ("start", "base_model", "shown"),
    [
        (
            {"name": "org/streets", "is_on_hub": True},
            "org/streets",
            "[org/streets](https://huggingface.co/org/streets)",
        ),
        ({"name": "streets", "is_on_hub": False}, None, "trained model streets"),
        ({"name": "org/../x](y)", "is_on_hub": True}, None, r"trained model org/../x\](y)"),
    ],
    ids=["on the Hub", "a folder", "no name of the Hub"],
)
def test_a_card_names_the_model_that_the_training_started_from(model, tmp_path, start, base_model, shown):
    facts = FACTS | {"weights": None, "model": start | {"digest": "0" * 64}}
    card, text = _write(make_run_folder(tmp_path, model, facts=facts, benchmark="synthetic"))
    assert card.data.to_dict().get("base_model") == base_model
    assert shown in text
    assert "| starts from the trained model | " in text
    assert "backbone starts from" not in text
    assert card.data.license is None  # the terms of that model go on
    assert "drawn scenes. It" not in text


def test_a_card_is_written_anew_until_somebody_changes_it(model, tmp_path, caplog):
    folder = make_run_folder(tmp_path, model)
    _, first = _write(folder)
    (folder / "scores.json").write_text(json.dumps({"test": SCORES}))
    _, second = _write(folder)
    assert "## Results" not in first
    assert "## Results" in second
    assert _write(folder)[1] == second  # nothing in it depends on the time
    assert not caplog.messages

    mine = second.replace("## Limits\n", "## Limits\n\n- My own words.\n")
    (folder / "README.md").write_text(mine)
    (folder / "scores.json").unlink()
    assert _write(folder)[1] == mine
    assert "written by hand and is kept; remove it" in caplog.text

    (folder / "README.md").write_text("# Not ours\n")
    assert write_card(folder).read_text() == "# Not ours\n"
    (folder / "README.md").unlink()
    assert _write(folder)[1] == first


def test_paths_of_the_machine_stay_out(model, tmp_path):
    folder = make_run_folder(tmp_path, model, class_weights=str(tmp_path / "class_weights.json"))
    _, text = _write(folder)
    assert "| class weights | class_weights.json |" in text
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text or Path.home() == Path("/")


@pytest.mark.parametrize(("name", "content"), [("scores.json", "{"), ("recipe.yaml", "a: [1"), ("run.json", "[1]")])
def test_a_broken_file_is_named(model, tmp_path, name, content):
    folder = make_run_folder(tmp_path, model)
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        write_card(folder)


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        write_card(tmp_path)


def test_the_template_is_shown_among_the_cards():
    root = Path(__file__).parents[2]
    shown = root / "model_cards" / "template.md"
    assert shown.samefile(root / "cmdl_hf" / "hub" / "model_card_template.md")
    assert os.readlink(shown) == "../cmdl_hf/hub/model_card_template.md"
