"""Several threads of one process: nothing is mixed up, and what belongs to the process stays as it was."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from cmdl_hf import make_image_processor
from cmdl_hf.inference import load_segmenter, predict_files

THREADS = 8


def _globals():
    """What other code of the process may have set."""
    return (
        Image.MAX_IMAGE_PIXELS,
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        transformers.logging.get_verbosity(),
        logging.root.level,
        tuple(map(str, warnings.filters)),
    )


@pytest.fixture
def folder(make_model, tmp_path):
    torch.manual_seed(0)
    make_model(layer_scale_init_value=0.5).eval().save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_load_what_one_alone_does(make_model, tmp_path, dtype):
    make_model(layer_scale_init_value=0.5).to(dtype).save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    alone = load_segmenter(tmp_path / "model")[0].state_dict()
    before = _globals()
    with ThreadPoolExecutor(THREADS) as pool:
        models = list(pool.map(lambda _: load_segmenter(tmp_path / "model")[0], range(3 * THREADS)))
    assert _globals() == before
    for model in models:
        for name, tensor in model.state_dict().items():
            assert tensor.device.type == "cpu"
            torch.testing.assert_close(tensor, alone[name], rtol=0, atol=0, msg=name)


def test_threads_segment_what_one_alone_does(folder, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(3):
        pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    predict_files(folder, [tmp_path / "images"], tmp_path / "alone")
    before = _globals()
    with ThreadPoolExecutor(THREADS) as pool:
        calls = [
            pool.submit(predict_files, folder, [tmp_path / "images"], tmp_path / f"out {n}", max_pixels=10**9)
            for n in range(THREADS)
        ]
    assert [call.result() for call in calls] == [{}] * THREADS
    assert _globals() == before
    for n in range(THREADS):
        for index in range(3):
            found, expected = (tmp_path / place / f"{index}.png" for place in (f"out {n}", "alone"))
            assert found.read_bytes() == expected.read_bytes()
