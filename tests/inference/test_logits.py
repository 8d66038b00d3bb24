import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmdl_hf.inference import (
    default_stride,
    multi_scale_probabilities,
    outlier_map,
    sliding_window_logits,
    whole_image_logits,
)
from cmdl_hf.inference import logits as inference

ODD_SIZES = [(1, 1), (7, 5), (33, 47), (64, 96), (97, 61)]


class Stub(nn.Module):
    """A segmenter whose logits are its pixels and their negatives at full size, shifted by what a window sees."""

    def __init__(self, context=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.context = context
        self.sizes = []

    def forward(self, pixel_values):
        self.sizes.append(tuple(pixel_values.shape))
        mean = pixel_values.mean(dim=(1, 2, 3), keepdim=True)
        return {"logits": torch.cat([pixel_values, -pixel_values], dim=1) + self.context * mean}


@pytest.fixture
def model(make_model):
    return make_model().eval()


def brute_force_windows(model, image, crop_size, stride):
    """Average every window that mmsegmentation's slide_inference visits, pixel by pixel."""
    _, _, H, W = image.shape
    (h, w), (down, right) = crop_size, stride
    num_rows = max(H - h + down - 1, 0) // down + 1
    num_columns = max(W - w + right - 1, 0) // right + 1
    sums, counts = 0.0, torch.zeros(1, 1, H, W)
    for row in range(num_rows):
        for column in range(num_columns):
            bottom, end = min(row * down + h, H), min(column * right + w, W)
            top, left = max(bottom - h, 0), max(end - w, 0)
            logits = whole_image_logits(model, image[:, :, top:bottom, left:end])
            sums = sums + F.pad(logits, (left, W - end, top, H - bottom))
            counts[..., top:bottom, left:end] += 1
    return sums / counts


@pytest.mark.parametrize("size", ODD_SIZES)
def test_every_size_is_scored_at_every_size(model, size):
    image = torch.randn(2, 3, *size)
    for scores in (
        whole_image_logits(model, image),
        sliding_window_logits(model, image, (32, 48)),
        multi_scale_probabilities(model, image, scales=(0.5, 1.75)),
        multi_scale_probabilities(model, image, scales=(0.5, 1.75), crop_size=(32, 48)),
    ):
        assert scores.shape == (2, 5, *size)
        assert scores.isfinite().all()
    assert sliding_window_logits(model, image, (32, 48), size=(10, 13)).shape == (2, 5, 10, 13)
    assert multi_scale_probabilities(model, image, (1.0,), size=(10, 13)).shape == (2, 5, 10, 13)


@pytest.mark.parametrize("crop_size", [(64, 96), (100, 100), (64, 500)])
def test_a_window_around_the_whole_image_is_the_whole_image(model, crop_size):
    image = torch.randn(2, 3, 64, 96)
    scores = sliding_window_logits(model, image, crop_size, (60, 90))
    torch.testing.assert_close(scores, whole_image_logits(model, image))


def test_windows_side_by_side_are_tiles(model):
    image = torch.randn(1, 3, 64, 96)
    scores = sliding_window_logits(model, image, (32, 48), (32, 48))
    for top in (0, 32):
        for left in (0, 48):
            tile = (..., slice(top, top + 32), slice(left, left + 48))
            torch.testing.assert_close(scores[tile], whole_image_logits(model, image[tile]))


@pytest.mark.parametrize(
    ("size", "crop_size", "stride"),
    [
        ((50, 70), (32, 48), (21, 32)),
        ((50, 70), (32, 48), (32, 1)),
        ((33, 200), (40, 33), (7, 19)),
        ((64, 96), (32, 48), (16, 24)),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_overlapping_windows_are_averaged_as_mmsegmentation_does(size, crop_size, stride, batch_size):
    stub = Stub(context=3.0)
    image = torch.randn(2, 3, *size)
    scores = sliding_window_logits(stub, image, crop_size, stride, batch_size=batch_size)
    assert max(shape[0] for shape in stub.sizes) <= batch_size
    expected = brute_force_windows(Stub(context=3.0), image, crop_size, stride)
    torch.testing.assert_close(scores, expected)
    assert not torch.allclose(scores, whole_image_logits(stub, image))  # windows do see less


def test_averaged_windows_are_resized_once():
    image = torch.randn(1, 3, 40, 56)
    scores = sliding_window_logits(Stub(context=3.0), image, (16, 24), (8, 8), size=(60, 31))
    at_own_size = sliding_window_logits(Stub(context=3.0), image, (16, 24), (8, 8))
    expected = F.interpolate(at_own_size, size=(60, 31), mode="bilinear", align_corners=False)
    torch.testing.assert_close(scores, expected)


def test_the_usual_stride_is_two_thirds():
    assert default_stride((512, 1024)) == (341, 683)
    assert default_stride((769, 769)) == (513, 513)
    assert default_stride((1, 1)) == (1, 1)
    stub = Stub()
    sliding_window_logits(stub, torch.zeros(1, 3, 30, 50), (30, 30), batch_size=1)
    assert len(stub.sizes) == 2  # at 0 and 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 4),), "crop_size"),
        (((4, 4), (5, 4)), "skipped, found \\(5, 4\\)"),
        (((4, 4), (0, 4)), "stride"),
        (((4, 4), (2, 2), None, 0), "batch_size"),
    ],
)
def test_windows_that_leave_pixels_out_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sliding_window_logits(Stub(), torch.zeros(1, 3, 8, 8), *arguments)


def test_scores_of_large_images_are_added_up_on_the_cpu(monkeypatch):
    meta = torch.device("meta")
    assert inference._choose_device((1, 19, 1024, 2048), meta) == meta
    assert inference._choose_device((1, 171, 4000, 6000), meta) == torch.device("cpu")
    image = torch.randn(1, 3, 20, 20)
    chosen = []
    monkeypatch.setattr(inference, "_choose_device", lambda shape, device: chosen.append(shape) or torch.device("cpu"))
    sliding_window_logits(Stub(), image, (8, 8), size=(7, 9))
    multi_scale_probabilities(Stub(), image, (2.0,), size=(7, 9))
    assert [tuple(shape) for shape in chosen] == [(1, 6, 20, 20), (1, 6, 7, 9)]


def test_one_scale_without_mirror_is_the_softmax_of_the_whole_image(model):
    image = torch.randn(2, 3, 61, 83)
    for size in (None, (90, 70)):
        expected = whole_image_logits(model, image, size).softmax(dim=1)
        assert torch.equal(multi_scale_probabilities(model, image, (1.0,), use_flip=False, size=size), expected)


def test_scales_and_mirrors_average_probabilities(model):
    image = torch.randn(1, 3, 60, 80)
    half = F.interpolate(image, size=(30, 40), mode="bilinear", antialias=True)
    expected = [
        scores.softmax(dim=1)
        for scores in (
            whole_image_logits(model, half, (60, 80)),
            whole_image_logits(model, half.flip(-1), (60, 80)).flip(-1),
            whole_image_logits(model, image, (60, 80)),
            whole_image_logits(model, image.flip(-1), (60, 80)).flip(-1),
        )
    ]
    scores = multi_scale_probabilities(model, image, (0.5, 1.0))
    torch.testing.assert_close(scores, torch.stack(expected).mean(dim=0), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(1, 60, 80))


def test_with_mirrors_a_mirrored_image_has_the_mirrored_scores(model):
    image = torch.randn(1, 3, 50, 70)
    scores = multi_scale_probabilities(model, image, (0.75, 1.0))
    mirrored = multi_scale_probabilities(model, image.flip(-1), (0.75, 1.0))
    torch.testing.assert_close(mirrored.flip(-1), scores, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(
        multi_scale_probabilities(model, image.flip(-1), (1.0,), use_flip=False).flip(-1),
        multi_scale_probabilities(model, image, (1.0,), use_flip=False),
    )


def test_scales_are_relative_to_the_base_size_and_windows_serve_them():
    stub = Stub()
    multi_scale_probabilities(stub, torch.randn(1, 3, 40, 60), (0.5, 1.5), use_flip=False, base_size=(20, 30))
    assert [shape[2:] for shape in stub.sizes] == [(10, 15), (30, 45)]
    stub = Stub()
    multi_scale_probabilities(stub, torch.randn(1, 3, 40, 60), (1.0,), use_flip=False, crop_size=(40, 40))
    assert {shape[2:] for shape in stub.sizes} == {(40, 40)}


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-1.0,)])
def test_scales_must_be_above_zero(scales):
    with pytest.raises(ValueError, match="scales"):
        multi_scale_probabilities(Stub(), torch.zeros(1, 3, 8, 8), scales)


def test_any_transformers_segmenter_is_served():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=3
    )
    segformer = SegformerForSemanticSegmentation(config).eval()
    image = torch.randn(1, 3, 65, 90)
    assert sliding_window_logits(segformer, image, (64, 64)).shape == (1, 3, 65, 90)
    assert multi_scale_probabilities(segformer, image, (1.0, 1.25)).shape == (1, 3, 65, 90)


def test_outlier_map_is_one_minus_the_best_cosine():
    similarity = torch.full((4, 2, 3), -1.0)  # grid 2×2, K = 2, M = 3
    similarity[0, 1, 2] = 1.0
    similarity[3, 0, 0] = 0.25
    expected = torch.tensor([[[0.0, 2.0], [2.0, 0.75]]])
    torch.testing.assert_close(outlier_map(similarity, (2, 2), (2, 2)), expected)
    assert outlier_map(similarity, (2, 2), (7, 5)).shape == (1, 7, 5)
