"""Several threads and processes: nothing is mixed up or lost, and what belongs to the process stays as it was."""

import logging
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from varied_models import make_varied

from cmdl_hf import make_image_processor, segment
from cmdl_hf.inference import kept_models, load_segmenter, predict_files

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


def _noise(index):
    """An image of its own size and content for every index."""
    pixels = np.random.default_rng(index).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64 + 8 * (index % 3), 48), Image.Resampling.BICUBIC)


def _segment(folder, index):
    found = segment(folder, _noise(index))
    return found.ids, found.confidence, found.distribution_ids, found.outliers


@pytest.fixture
def varied(make_model, tmp_path):
    torch.manual_seed(0)
    make_varied(make_model(layer_scale_init_value=0.5)).save_pretrained(tmp_path / "varied")
    make_image_processor().save_pretrained(tmp_path / "varied")
    return tmp_path / "varied"


def _assert_equal(found, expected):
    assert len(found) == len(expected)
    for some, others in zip(found, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_segment_gives_each_thread_its_own(varied, monkeypatch):
    numbers = range(5 * THREADS)
    expected = [_segment(varied, number) for number in numbers]
    assert len({each[0].tobytes() for each in expected}) == len(numbers)
    loads, real = [], kept_models.load_folded
    monkeypatch.setattr(kept_models, "load_folded", lambda *given: loads.append(given) or real(*given))
    kept_models._kept.clear()
    before = _globals()
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda number: _segment(varied, number), numbers))
    _assert_equal(found, expected)
    assert _globals() == before
    assert len(loads) == 1  # all waited for the first


@pytest.mark.slow
def test_segment_in_two_processes_of_four_threads(varied):
    numbers = range(4 * THREADS)
    expected = [_segment(varied, number) for number in numbers]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        halves = [pool.submit(_segment_in_threads, varied, list(numbers[start::2])) for start in (0, 1)]
        found = [half.result() for half in halves]
    for start in (0, 1):
        _assert_equal(found[start], expected[start::2])


def _segment_in_threads(folder, numbers):
    torch.set_num_threads(1)
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda number: _segment(folder, number), numbers))
