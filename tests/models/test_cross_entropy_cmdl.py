import pytest
import torch
import torch.nn.functional as F
from large_tensors import LargeTensors

from cmdl_hf.models import cross_entropy_cmdl
from cmdl_hf.models.cross_entropy_cmdl import hard_pixels, image_size_cross_entropy, weighted_cross_entropy_sums
from cmdl_hf.models.processes_cmdl import divide_by_total


def test_cross_entropy_is_the_mean_over_pixels_that_count():
    logits, labels = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 12, 20))
    labels[:, :3] = 255
    for align_corners in (False, True):
        enlarged = F.interpolate(logits, size=(12, 20), mode="bilinear", align_corners=align_corners)
        expected = F.cross_entropy(enlarged, labels, ignore_index=255)
        torch.testing.assert_close(image_size_cross_entropy(logits, labels, 255, align_corners), expected)


def plain_cross_entropy_sums(logits, labels, align_corners, class_weights, ohem_threshold, ohem_min_kept):
    """Sums of losses and weights by autograd, at image size."""
    enlarged = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    losses = F.cross_entropy(enlarged, labels, ignore_index=255, reduction="none")
    is_kept = labels != 255
    if ohem_threshold is not None:
        is_kept = hard_pixels(losses, is_kept, ohem_threshold, ohem_min_kept)
    weights = is_kept.float()
    if class_weights is not None:
        weights = weights * class_weights[labels.where(labels != 255, 0)]
    return (losses * weights).sum(), weights.sum()


@pytest.mark.parametrize("band_size", [2**21, 2000, 1])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(96, 100), (33, 47), (9, 13), (5, 7), (1, 1)])
@pytest.mark.parametrize(("class_weights", "ohem"), [(None, None), (torch.tensor([1.0, 0, 2, 0.5, 3]), (0.3, 50))])
def test_enlarged_cross_entropy_equals_the_plain_formulation_in_value_and_gradient(
    monkeypatch, band_size, align_corners, size, class_weights, ohem
):
    monkeypatch.setattr(cross_entropy_cmdl, "_BAND_SIZE", band_size)
    logits, labels = torch.randn(2, 5, 9, 13) * 4, torch.randint(0, 5, (2, *size))
    if size != (1, 1):
        labels[:, : size[0] // 3] = 255
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    settings = class_weights, *(ohem or (None, 1))
    found = weighted_cross_entropy_sums(ours, labels, 255, align_corners, *settings)
    expected = plain_cross_entropy_sums(plain, labels, align_corners, *settings)
    torch.testing.assert_close(found, expected)
    (0.5 * found[0]).backward()
    (0.5 * expected[0]).backward()
    torch.testing.assert_close(ours.grad, plain.grad, atol=1e-4, rtol=1e-5)


def test_cross_entropy_is_float32_under_autocast():
    logits, labels = torch.randn(2, 4, 6, 8), torch.randint(0, 4, (2, 24, 32))
    expected = image_size_cross_entropy(logits, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = image_size_cross_entropy(logits, labels)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_logits_are_never_enlarged_as_a_whole():
    logits, labels = torch.randn(1, 64, 16, 16, requires_grad=True), torch.randint(0, 64, (1, 512, 512))
    with LargeTensors(64 * 512 * 512 // 2) as large:
        image_size_cross_entropy(logits, labels).backward()
        weighted_cross_entropy_sums(logits, labels, 255, False, None, 0.7, 100)[0].backward()
    assert not large.storages


def test_class_weights_give_the_weighted_mean():
    logits, labels = torch.randn(2, 4, 12, 20), torch.randint(0, 4, (2, 12, 20))
    labels[:, :3] = 255
    class_weights = torch.tensor([0.5, 2.0, 0.0, 1.0])
    total, weight = weighted_cross_entropy_sums(logits, labels, class_weights=class_weights)
    expected = F.cross_entropy(logits, labels, weight=class_weights, ignore_index=255)
    torch.testing.assert_close(total / weight, expected)


def literal_hard_pixels(losses, is_valid, threshold, min_kept):
    is_kept = torch.zeros_like(is_valid)
    for image in range(len(losses)):
        valid = losses[image][is_valid[image]]
        if len(valid) == 0:
            continue
        smallest = valid.sort(descending=True).values[min(min_kept, len(valid)) - 1]
        is_hard = ((-losses[image]).exp() < threshold) | (losses[image] >= smallest)
        is_kept[image] = is_hard & is_valid[image]
    return is_kept


@pytest.mark.parametrize("min_kept", [1, 40, 10_000])
@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
def test_hard_pixels_equal_the_loop_over_images(threshold, min_kept):
    losses, is_valid = torch.rand(3, 8, 10) * 3, torch.rand(3, 8, 10) < 0.8
    losses[1] /= 10  # an image that is easy
    is_valid[2] = False
    found = hard_pixels(losses, is_valid, threshold, min_kept)
    assert torch.equal(found, literal_hard_pixels(losses, is_valid, threshold, min_kept))
    assert (found.flatten(1).sum(dim=1) >= is_valid.flatten(1).sum(dim=1).clamp_max(min_kept)).all()


def test_hard_pixels_of_an_image_do_not_depend_on_the_rest_of_the_batch():
    """mmsegmentation's sampler takes the hardest of the whole batch."""
    losses, is_valid = torch.rand(4, 8, 10), torch.ones(4, 8, 10, dtype=torch.bool)
    losses[2:] *= 3
    together = hard_pixels(losses, is_valid, 0.01, 20)
    apart = torch.cat([hard_pixels(losses[i, None], is_valid[i, None], 0.01, 20) for i in range(4)])
    assert torch.equal(together, apart)
    assert together.flatten(1).sum(dim=1).tolist() == [20] * 4


def test_only_hard_pixels_take_gradient():
    logits, labels = torch.randn(2, 4, 6, 8), torch.randint(0, 4, (2, 6, 8))
    labels[0, :2] = 255
    logits.requires_grad_()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    total, weight = weighted_cross_entropy_sums(logits, labels, 255, False, weights, 0.2, 5)
    losses = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    is_kept = literal_hard_pixels(losses.detach(), labels != 255, 0.2, 5)
    kept_weights = weights[labels[is_kept]]
    torch.testing.assert_close(total / weight, (losses[is_kept] * kept_weights).sum() / kept_weights.sum())
    total.backward()
    assert torch.equal(logits.grad.abs().sum(dim=1) > 0, is_kept)
    assert 0 < is_kept.sum() < (labels != 255).sum()


def test_without_any_pixel_the_loss_is_zero_with_a_zero_gradient():
    logits, labels = torch.randn(1, 4, 5, 6, requires_grad=True), torch.full((1, 5, 6), 255)
    sums = weighted_cross_entropy_sums(logits, labels, 255, False, torch.rand(4), 0.7, 3)
    for loss in (image_size_cross_entropy(logits, labels), divide_by_total(*sums, False)):
        assert loss == 0
        assert torch.autograd.grad(loss, logits)[0].abs().max() == 0
