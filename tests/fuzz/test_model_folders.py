"""A hundred damaged model folders: each is refused in one message that names the folder, or loads whole.

The damage is drawn by a seed, so that every run has the same.
"""

import json
import random
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation, make_image_processor
from cmdl_hf.inference import load_segmenter

VALUES = [None, True, -1, 0, 10**9, 1.5, "", "x", "../../etc/passwd", [], [1, "a"], {}, {"a": {"b": []}}, float("nan")]
NUM_FAST, NUM_ALL = 10, 100
OUTCOMES = {"refused": 70, "loaded": 30}


def _change_json(folder, name, draw):
    """Remove a field, give it a value of another type, or add one."""
    file = folder / name
    content = json.loads(file.read_text())
    key = draw.choice(sorted(content))
    kind = draw.choice(["missing", "value", "value", "extra", "cut", "list"])
    if kind == "missing":
        del content[key]
    elif kind == "value":
        content[key] = draw.choice(VALUES)
    elif kind == "extra":
        content[draw.choice(["extra", "torch_dtype", "auto_map", "model_type", "id2label"])] = draw.choice(VALUES)
    text = json.dumps([content] if kind == "list" else content)
    file.write_text(text[: draw.randrange(len(text))] if kind == "cut" else text)
    return f"{name}: {kind} {key} {content.get(key)!r}"


def _change_weights(folder, draw):
    """Rename, remove, cut or convert a tensor, or damage the bytes of the file."""
    file = folder / "model.safetensors"
    kind = draw.choice(["renamed", "removed", "cut", "dtype", "shape", "bytes", "header", "empty", "short"])
    tensors = load_file(file)
    name = draw.choice(sorted(tensors))
    if kind in ("bytes", "header", "empty", "short"):
        content = bytearray(file.read_bytes())
        place = draw.randrange(8, 400) if kind == "header" else draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8)
        file.write_bytes(b"" if kind == "empty" else bytes(content[:place] if kind == "short" else content))
        return f"weights: {kind} at {place}"
    tensor = tensors.pop(name)
    if kind == "renamed":
        tensors[f"{name}_x"] = tensor
    elif kind == "cut" and tensor.dim():
        tensors[name] = tensor[:-1].clone()
    elif kind == "dtype":
        tensors[name] = tensor.to(draw.choice([torch.float16, torch.int8, torch.float64, torch.bool]))
    elif kind == "shape":
        tensors[name] = tensor[None].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    return f"weights: {kind} {name}"


def _damage(folder, draw):
    kind = draw.choice(["config.json", "config.json", "preprocessor_config.json", "weights", "weights"])
    return _change_weights(folder, draw) if kind == "weights" else _change_json(folder, kind, draw)


def _read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = CMDLConfig(
        backbone_config=dict(TINY_BACKBONE),
        num_labels=3,
        num_distributions=2,
        hidden_size=16,
        attention_size=8,
        **LIVE_AGGREGATION,
    )
    CMDLForSemanticSegmentation(config).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.unlink()  # the code of this package is used
    return folder


def _load_damaged(whole, tmp_path, seed):
    """Damage a copy, load it and segment with it; returns what was done and "refused" or "loaded"."""
    folder = tmp_path / f"model-{seed}"
    shutil.copytree(whole, folder)
    damage = _damage(folder, random.Random(seed))
    before = _read(folder)
    try:
        model, processor = load_segmenter(folder)
    except (OSError, ValueError) as error:
        message = str(error)
        assert "\n" not in message.strip(), damage
        assert str(folder) in message, f"{damage}: {message}"
        return damage, "refused"
    finally:
        assert _read(folder) == before, damage
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with torch.no_grad():
        logits = model(**processor(image, return_tensors="pt")).logits
    assert logits.shape[:2] == (1, model.config.num_labels), damage
    return damage, "loaded"


@pytest.fixture(scope="module")
def outcomes():
    return Counter()


@pytest.mark.parametrize("seed", range(NUM_FAST))
def test_a_damaged_folder_is_refused_or_loads(whole, tmp_path, outcomes, seed):
    outcomes[_load_damaged(whole, tmp_path, seed)[1]] += 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_FAST, NUM_ALL))
def test_another_damaged_folder_is_refused_or_loads(whole, tmp_path, outcomes, seed):
    outcomes[_load_damaged(whole, tmp_path, seed)[1]] += 1


@pytest.mark.slow
def test_so_many_are_refused_and_so_many_load(outcomes):
    """The numbers that CONTRIBUTING gives; another number means that a rule has changed."""
    if outcomes.total() < NUM_ALL:
        pytest.skip(f"needs the outcomes of all {NUM_ALL} folders in this process")
    assert outcomes == OUTCOMES
