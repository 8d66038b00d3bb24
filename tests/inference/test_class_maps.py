"""Class maps in pieces are those of transformers' post-processing, and their memory does not grow with the classes."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from large_tensors import LargeTensors

from cmdl_hf import make_image_processor
from cmdl_hf.inference import class_map, class_maps

SIZES = [
    ((9, 12), (72, 96)),
    ((9, 12), (73, 91)),
    ((7, 5), (7, 40)),
    ((7, 5), (50, 5)),
    ((40, 30), (17, 23)),  # smaller
    ((1, 1), (6, 4)),
    ((12, 8), (12, 8)),
]


def assert_equal_but_for_rounding(ids, logits, size):
    """Where another class was found, the two scores are the same to the last bits."""
    (expected,) = make_image_processor().post_process_semantic_segmentation(
        SimpleNamespace(logits=logits), target_sizes=[size]
    )
    scores = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    found, best = scores.gather(1, ids[:, None]), scores.amax(dim=1, keepdim=True)
    torch.testing.assert_close(found, best, atol=1e-5, rtol=0)
    assert (ids[0] != expected).sum() <= 1
    assert ids.dtype == expected.dtype


@pytest.mark.parametrize(("grid", "size"), SIZES)
@pytest.mark.parametrize("piece", [1, 500, 2**20])
def test_class_maps_are_those_of_post_processing(grid, size, piece, monkeypatch):
    monkeypatch.setattr(class_maps, "piece_size", lambda device: piece)
    logits = torch.randn(1, 5, *grid)
    assert_equal_but_for_rounding(class_map(logits, size), logits, size)
    assert_equal_but_for_rounding(class_map(logits.bfloat16(), size), logits.bfloat16().float(), size)


def test_images_of_a_batch_keep_their_places(monkeypatch):
    logits = torch.randn(3, 4, 6, 5)
    whole = class_map(logits, (31, 29))
    monkeypatch.setattr(class_maps, "piece_size", lambda device: 900)
    torch.testing.assert_close(class_map(logits, (31, 29)), whole)
    for image, alone in zip(logits, whole, strict=True):
        torch.testing.assert_close(class_map(image[None], (31, 29))[0], alone)


@pytest.mark.parametrize(("source", "size"), SIZES)
@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_scores_that_arrive_in_rows_give_the_same_map(source, size, at_once):
    scores = torch.randn(1, 5, *source)
    growing = class_maps.GrowingClassMap(source, size)
    for start in range(0, source[0], at_once):
        growing.add(scores[:, :, start : start + at_once])
    torch.testing.assert_close(growing.finish(), class_map(scores, size))


def test_no_scores_exist_at_image_size():
    """20 classes here, 512 × 512: 21 MB of scores, 2 MB of ids, and pieces of 4 MiB."""
    logits = torch.randn(1, 20, 64, 64)
    with LargeTensors(2**20) as large:
        class_map(logits, (512, 512))
    assert not large.storages
