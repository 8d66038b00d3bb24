import pytest
import torch
import torch.nn.functional as F
from large_tensors import LargeTensors

from cmdl_hf.models import losses_cmdl
from cmdl_hf.models.losses_cmdl import (
    class_margin_loss,
    class_margin_reference,
    compare_with_distributions,
    contrastive_loss,
    mean_over_classes,
)


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
    similarity, nearest, contrasts, _ = compare_with_distributions(ours, directions, labels, temperature)
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
    assert torch.autograd.gradcheck(lambda e: compare_with_distributions(e, directions, labels, 0.5)[:3], embeddings)


def test_comparison_with_a_single_class_has_no_contrast():
    embeddings, directions = torch.randn(5, 4, requires_grad=True), torch.randn(2, 1, 4)
    _, _, contrasts, _ = compare_with_distributions(embeddings, directions, torch.zeros(5, dtype=torch.int64))
    assert contrasts.abs().max() == 0
    assert torch.autograd.grad(contrasts.sum(), embeddings)[0].abs().max() == 0


def test_comparison_forms_no_second_tensor_of_all_pixels_and_distributions():
    embeddings, directions = torch.randn(4096, 8, requires_grad=True), torch.randn(9, 171, 8)
    labels = torch.randint(0, 171, (4096,))
    with LargeTensors(4096 * 171 * 9 // 2) as large:
        similarity, nearest, contrasts, _ = compare_with_distributions(embeddings, directions, labels)
        (nearest.sum() + contrasts.sum()).backward()
    assert large.storages == {similarity.untyped_storage().data_ptr()}


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
    for loss, source in (
        (contrastive_loss(similarity, labels), similarity),
        (class_margin_loss(embeddings, labels, torch.randn(4, 2, 8)), embeddings),
    ):
        assert loss == 0
        assert torch.autograd.grad(loss, source)[0].abs().max() == 0
