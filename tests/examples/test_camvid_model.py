"""The small trained model of the repository, and the script that made it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from cmdl_hf import segment
from cmdl_hf.evaluation import run_evaluation

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "model_cards" / "camvid"


def test_the_model_is_small_on_disk_and_loads_in_float32():
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size < 11e6
    assert {value.dtype for value in load_file(weights).values() if value.is_floating_point()} == {torch.float16}
    model = AutoModelForSemanticSegmentation.from_pretrained(FOLDER)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.id2label[3] == "Road"
    assert AutoImageProcessor.from_pretrained(FOLDER).size == {"shortest_edge": 360, "longest_edge": 1280}


def test_it_finds_buildings_and_sky_in_a_drawn_street():
    street = segment(FOLDER, ROOT / "examples/space/images/street_1.jpg")
    assert {"Building", "Sky"} <= {name for name, share in street.shares.items() if share > 0.05}
    assert street.distribution_ids.shape == street.outliers.shape == street.ids.shape


def test_card_and_readme_state_its_figures():
    figures = json.loads((FOLDER / "figures.json").read_text())
    scores = json.loads((FOLDER / "scores.json").read_text())
    card, readme = (FOLDER / "README.md").read_text(), (ROOT / "README.md").read_text()
    for split in ("validation", "test"):
        assert round(scores[split]["mean_iou"], 4) == figures[f"{split}_mean_iou"]
        assert f"{100 * scores[split]['mean_iou']:.2f}" in card
    assert "CC BY-NC" in card
    row = (
        f"| {figures['parameters'] / 1e6:.1f} million | {figures['megabytes']} MB "
        f"| {100 * figures['validation_mean_iou']:.1f} | {100 * figures['test_mean_iou']:.1f} "
        f"| {figures['pytorch_ms']:.0f} ms | {figures['onnx_ms']:.0f} ms |"
    )
    assert row in readme


def test_its_scores_on_real_images(shared_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = shared_dir / "data" / "CamVid-mini"
    scores = run_evaluation(FOLDER, "camvid", data, split="test", num_workers=0, out=tmp_path / "scores.json").scores
    assert scores["mean_iou"] > 0.5


def test_half_precision_that_overflows_is_refused(tmp_path, make_model, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.delitem(sys.modules, "camvid_model", raising=False)
    script = __import__("camvid_model")
    model = make_model()
    model.decode_head[-1].bias.data.fill_(1e6)
    model.save_pretrained(tmp_path / "run")
    for name in script.KEPT:
        (tmp_path / "run" / name).touch()
    with pytest.raises(ValueError, match="half precision cannot hold the values of decode_head"):
        script.copy_in_half_precision(tmp_path / "run", tmp_path / "model")
