import pytest
import torch
from large_tensors import LargeTensors

from cmdl_hf.inference import (
    segment_in_windows,
    segment_whole_images,
    sliding_window_logits,
    whole_image_logits,
)


@pytest.fixture
def model(make_model):
    return make_model().eval()


@pytest.mark.parametrize("size", [None, (64, 96), (50, 131), (30, 41)])
def test_whole_images_get_the_class_with_the_largest_score(model, size):
    images = torch.randn(2, 3, 64, 96)
    expected = whole_image_logits(model, images, size).argmax(dim=1)
    found = segment_whole_images(model, images, size)
    assert found.shape == expected.shape
    assert (found != expected).float().mean() < 1e-3


@pytest.mark.parametrize("size", [None, (97, 61), (50, 131), (120, 64)])
@pytest.mark.parametrize(("crop_size", "stride"), [((32, 48), None), ((40, 24), (8, 24)), ((33, 64), (33, 5))])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_windows_get_the_class_with_the_largest_mean(model, size, crop_size, stride, batch_size):
    images = torch.randn(2, 3, 97, 61)
    options = {"crop_size": crop_size, "stride": stride, "size": size, "batch_size": batch_size}
    expected = sliding_window_logits(model, images, **options).argmax(dim=1)
    found = segment_in_windows(model, images, **options)
    assert found.shape == expected.shape
    assert (found != expected).float().mean() < 1e-3


def test_windows_hold_no_scores_of_the_whole_image(model):
    images = torch.randn(1, 3, 1600, 32)  # the map itself has 51,200 values, the scores 256,000
    with LargeTensors(80_000) as large:
        segment_in_windows(model, images, (32, 32), batch_size=1)
    assert large.storages <= {images.untyped_storage().data_ptr()}
    with LargeTensors(80_000) as large:
        sliding_window_logits(model, images, (32, 32), batch_size=1)
    assert len(large.storages) > 1


def test_windows_that_skip_pixels_are_refused(model):
    with pytest.raises(ValueError, match="stride must lie between"):
        segment_in_windows(model, torch.randn(1, 3, 40, 40), (16, 16), (17, 16))
