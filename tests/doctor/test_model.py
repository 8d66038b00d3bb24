import json

import pytest
import torch

from cmdl_hf import make_image_processor
from cmdl_hf.doctor import examine_model


@pytest.fixture
def folder(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _examine(folder):
    return {finding.name: finding for finding in examine_model(str(folder))}


def test_a_model_in_order(folder):
    findings = _examine(folder)
    assert not any(finding.is_broken for finding in findings.values())
    assert findings["model"].text == str(folder)
    assert "model.safetensors" in findings["files"].text
    assert "Python files" in findings["files"].text
    assert "of F32" in findings["weights"].text
    assert findings["loading"].text.startswith("CMDLForSemanticSegmentation, ")
    assert findings["classes"].text.startswith("5: LABEL_0, ")
    assert "loaded as float32" in findings["parameters"].text
    assert "192×128 on the CPU: logits [1, 5, 4, 6]" in findings["segmenting"].text


def test_weights_that_are_not_there(folder):
    (folder / "model.safetensors").unlink()
    findings = _examine(folder)
    assert findings["weights"].is_broken
    assert findings["loading"].is_broken
    assert "segmenting" not in findings


def test_weights_cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    findings = _examine(folder)
    assert findings["weights"].is_broken
    assert findings["loading"].is_broken


def test_weights_that_are_not_finite(make_model, folder):
    model = make_model()
    with torch.no_grad():
        model.decode_head[-1].bias.fill_(float("nan"))
    model.save_pretrained(folder)
    assert "not finite" in _examine(folder)["segmenting"].text


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({}))
    finding = _examine(tmp_path)["loading"]
    assert finding.is_broken
    assert "it has no config.json" in finding.text
