import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmdl_hf.models import losses_cmdl
from cmdl_hf.models.losses_cmdl import (
    class_margin_loss,
    class_margin_reference,
    compare_with_distributions,
    contrastive_loss,
    hard_pixels,
    image_size_cross_entropy,
    mean_over_classes,
    weighted_cross_entropy_sums,
)
from cmdl_hf.models.processes_cmdl import divide_by_total


class LargeTensors(TorchDispatchMode):
    """Records the storages of the tensors of more than so many values that any operation returns."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.storages = numel, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.numel() > self.numel:
                self.storages.add(tensor.untyped_storage().data_ptr())
        return result


def literal_contrastive_loss(similarity, labels, temperature=1.0):
    """One cross-entropy for each class present and each of its distributions."""
    num_distributions = similarity.shape[2]
    class_losses = []
    for label in labels[labels < similarity.shape[1]].unique():
        mine = similarity[labels == label] / temperature
        others = torch.cat([mine[:, :label], mine[:, label + 1 :]], dim=1).flatten(1)
        targets = torch.zeros(len(mine), dtype=torch.int64)
        losses = [
            F.cross_entropy(torch.cat([mine[:, label, m, None], others], dim=1), targets)
            for m in range(num_distributions)
        ]
        class_losses.append(torch.stack(losses).mean())
    return torch.stack(class_losses).mean()


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_contrast_equals_the_literal_loop_in_value_and_gradient(temperature):
    similarity = torch.rand(200, 5, 3, dtype=torch.float64) * 2 - 1
    labels = torch.randint(0, 5, (200,))
    labels[labels == 2] = 255
    ours, literal = similarity.clone().requires_grad_(), similarity.clone().requires_grad_()
    loss, expected = (
        contrastive_loss(ours, labels, temperature),
        literal_contrastive_loss(literal, labels, temperature),
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, literal.grad)


def test_contrast_gradient_against_finite_differences():
    similarity = (torch.rand(6, 3, 2, dtype=torch.float64) * 2 - 1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 255, 0])
    assert torch.autograd.gradcheck(lambda s: contrastive_loss(s, labels, 0.5), similarity)


def test_contrast_stays_finite_at_the_smallest_temperature():
    similarity = torch.full((4, 3, 2), -1.0)
    similarity[:, 0] = 1.0
    similarity.requires_grad_()
    loss = contrastive_loss(similarity, torch.zeros(4, dtype=torch.int64), 0.025)
    loss.backward()
    assert loss.isfinite()
    assert similarity.grad.isfinite().all()


def plain_comparison(embeddings, directions, labels, temperature):
    """Similarity, nearest distributions and contrastive loss by autograd."""
    similarity = torch.einsum("nc,mkc->nkm", embeddings, directions)
    return similarity, similarity.amax(dim=2), contrastive_loss(similarity, labels, temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("num_parts", [1, 5])
def test_comparison_equals_the_plain_formulation_in_value_and_gradient(monkeypatch, num_parts, temperature):
    monkeypatch.setattr(losses_cmdl, "_PART_SIZE", 200 * 7 * 3 // num_parts + 1)
    directions = F.normalize(torch.randn(3, 7, 16, dtype=torch.float64), dim=-1)
    directions[1] = directions[0]  # so that two are equally near
    embeddings = F.normalize(torch.randn(200, 16, dtype=torch.float64), dim=-1)
    labels = torch.randint(0, 7, (200,))
    labels[labels == 2], labels[:5] = 255, -1
    ours, plain = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    similarity, nearest, contrasts = compare_with_distributions(ours, directions, labels, temperature)
    outputs = similarity, nearest, mean_over_classes(contrasts, labels, 7)
    expected = plain_comparison(plain, directions, labels, temperature)
    gradients = [torch.randn_like(output) for output in expected]
    torch.testing.assert_close(outputs, expected)
    for used in ((2,), (1,), (0,), (1, 2), (0, 1, 2)):
        given = [gradients[i] for i in used]
        (found,) = torch.autograd.grad([outputs[i] for i in used], ours, given, retain_graph=True)
        (wanted,) = torch.autograd.grad([expected[i] for i in used], plain, given, retain_graph=True)
        torch.testing.assert_close(found, wanted, msg=str(used))


def test_comparison_gradient_against_finite_differences():
    embeddings = F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=-1).requires_grad_()
    directions = F.normalize(torch.randn(2, 3, 4, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 0, 1, 1, 255, 0])
    assert torch.autograd.gradcheck(lambda e: compare_with_distributions(e, directions, labels, 0.5), embeddings)


def test_comparison_with_a_single_class_has_no_contrast():
    embeddings, directions = torch.randn(5, 4, requires_grad=True), torch.randn(2, 1, 4)
    *_, contrasts = compare_with_distributions(embeddings, directions, torch.zeros(5, dtype=torch.int64))
    assert contrasts.abs().max() == 0
    assert torch.autograd.grad(contrasts.sum(), embeddings)[0].abs().max() == 0


def test_comparison_forms_no_second_tensor_of_all_pixels_and_distributions():
    embeddings, directions = torch.randn(4096, 8, requires_grad=True), torch.randn(9, 171, 8)
    labels = torch.randint(0, 171, (4096,))
    with LargeTensors(4096 * 171 * 9 // 2) as large:
        similarity, nearest, contrasts = compare_with_distributions(embeddings, directions, labels)
        (nearest.sum() + contrasts.sum()).backward()
    assert large.storages == {similarity.untyped_storage().data_ptr()}


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
    monkeypatch.setattr(losses_cmdl, "_BAND_SIZE", band_size)
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


def test_what_stands_at_ignored_pixels_never_matters():
    labels = torch.randint(0, 4, (30,))
    labels[::3] = 255
    clean = torch.rand(30, 4, 2) * 2 - 1
    dirty = clean.clone()
    dirty[::6], dirty[3::6] = torch.nan, torch.inf
    embeddings = F.normalize(torch.randn(30, 8), dim=-1)
    dirty_embeddings = embeddings.index_fill(0, torch.arange(0, 30, 3), torch.nan)
    prototypes = torch.randn(4, 2, 8)
    dirty_embeddings[3], dirty_embeddings[6, 2] = torch.inf, -torch.inf
    for loss, good, bad in (
        (lambda s: contrastive_loss(s, labels), clean, dirty),
        (lambda e: class_margin_loss(e, labels, prototypes), embeddings, dirty_embeddings),
        (
            lambda e: mean_over_classes(
                compare_with_distributions(e, prototypes.transpose(0, 1), labels)[2], labels, 4
            ),
            embeddings,
            dirty_embeddings,
        ),
    ):
        good, bad = good.clone().requires_grad_(), bad.clone().requires_grad_()
        torch.testing.assert_close(loss(bad), loss(good), atol=0, rtol=0)
        (expected,), (found,) = torch.autograd.grad(loss(good), good), torch.autograd.grad(loss(bad), bad)
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_class_margin_compares_classes():
    prototypes = F.normalize(torch.randn(4, 3, 8), dim=-1)
    embeddings, labels = F.normalize(torch.randn(50, 8), dim=-1), torch.randint(0, 3, (50,))
    labels[:10] = 255
    margins = []
    for label in range(3):
        mean = F.normalize(embeddings[labels == label].mean(dim=0), dim=0)
        others = [F.normalize(prototypes[c].mean(dim=0), dim=0) @ mean for c in range(4) if c != label]
        margins.append((1 + max(others)) / 2)
    torch.testing.assert_close(class_margin_loss(embeddings, labels, prototypes), torch.stack(margins).mean())


def test_class_margin_pushes_a_class_away_from_its_nearest_neighbour():
    prototypes = F.normalize(torch.randn(3, 2, 8), dim=-1)
    embeddings = F.normalize(torch.randn(30, 8), dim=-1).requires_grad_()
    labels = torch.arange(30) % 3
    before = class_margin_loss(embeddings, labels, prototypes)
    before.backward()
    moved = F.normalize(embeddings.detach() - embeddings.grad, dim=-1)
    assert class_margin_loss(moved, labels, prototypes) < before


def test_the_reference_class_margin_compares_channels_and_has_no_gradient():
    prototypes = torch.randn(4, 3, 8, requires_grad=True)
    mean = prototypes.detach().mean(dim=1)
    cosines = [F.cosine_similarity(mean[:, i], mean[:, j], dim=0) for i in range(8) for j in range(8) if i != j]
    margin = class_margin_reference(prototypes)
    torch.testing.assert_close(margin, (1 + min(cosines)) / 4)
    assert not margin.requires_grad


def test_without_any_pixel_every_loss_is_zero_with_a_zero_gradient():
    labels = torch.full((30,), 255)
    similarity = torch.rand(30, 4, 2, requires_grad=True)
    embeddings = torch.randn(30, 8, requires_grad=True)
    logits = torch.randn(1, 4, 5, 6, requires_grad=True)
    for loss, source in (
        (contrastive_loss(similarity, labels), similarity),
        (class_margin_loss(embeddings, labels, torch.randn(4, 2, 8)), embeddings),
        (image_size_cross_entropy(logits, labels.view(1, 5, 6)), logits),
        (
            divide_by_total(
                *weighted_cross_entropy_sums(logits, labels.view(1, 5, 6), 255, False, torch.rand(4), 0.7, 3), False
            ),
            logits,
        ),
    ):
        assert loss == 0
        assert torch.autograd.grad(loss, source)[0].abs().max() == 0
