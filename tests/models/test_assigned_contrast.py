"""Contrast with the assigned distribution: its values, gradients and rules, against a literal formulation."""

import pytest
import torch
import torch.nn.functional as F

from cmdl_hf import CMDLMemoryBank
from cmdl_hf.models import CMDLDistributionLearning
from cmdl_hf.models.assignment_cmdl import AssignmentRule, assign_pixels
from cmdl_hf.models.losses_cmdl import compare_with_distributions

K, M, C = 4, 3, 16
RULE = AssignmentRule()


def literal_contrasts(embeddings, directions, labels, ids, temperature, weight, least):
    """The formula, one pixel at a time."""
    scores = torch.einsum("nc,mkc->nkm", embeddings, directions) / temperature
    losses = []
    for pixel, label in enumerate(labels.tolist()):
        if not 0 <= label < K:
            losses.append(torch.zeros((), dtype=embeddings.dtype))
            continue
        own, target = scores[pixel, label], scores[pixel, label, ids[pixel]]
        others = torch.cat([scores[pixel, c] for c in range(K) if c != label]).exp().sum()
        siblings = own.exp().sum() - target.exp()
        beta = weight if (labels == label).sum() >= least else 0.0
        losses.append(-target + (target.exp() + beta * siblings + others).log())
    return torch.stack(losses)


@pytest.fixture
def pixels():
    torch.manual_seed(0)
    embeddings = F.normalize(torch.randn(60, C, dtype=torch.float64), dim=-1)
    directions = F.normalize(torch.randn(M, K, C, dtype=torch.float64), dim=-1)
    labels = torch.randint(0, 3, (60,))
    labels[:5], labels[5:9] = 255, 3  # four pixels of the last class, fewer than 2·M
    return embeddings, directions, labels


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_value_and_gradient_equal_the_literal_formula(pixels, temperature, weight):
    embeddings, directions, labels = pixels
    ours, plain = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    _, _, contrasts, ids = compare_with_distributions(ours, directions, labels, temperature, RULE, weight)
    expected = literal_contrasts(plain, directions, labels, ids, temperature, weight, least=2 * M)
    torch.testing.assert_close(contrasts, expected)
    factors = torch.rand(60, dtype=torch.float64)
    (contrasts * factors).sum().backward()
    (expected * factors).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_gradients_of_all_outputs(pixels):
    embeddings, directions, labels = pixels
    function = lambda e: compare_with_distributions(e, directions, labels[4:12], 0.5, RULE, 0.2)[:3]  # noqa: E731
    assert torch.autograd.gradcheck(function, embeddings[4:12].clone().requires_grad_())


def test_a_class_with_few_pixels_has_no_negatives_of_its_own(pixels):
    embeddings, directions, labels = pixels
    with_own, without = (compare_with_distributions(embeddings, directions, labels, 0.1, RULE, w) for w in (1.0, 0.0))
    is_rare = labels == 3
    torch.testing.assert_close(with_own.contrasts[is_rare], without.contrasts[is_rare], atol=0, rtol=0)
    assert (with_own.contrasts > without.contrasts)[labels < 3].all()


def test_one_assignment_serves_contrast_and_update(pixels, monkeypatch):
    embeddings, _, labels = (value.float() if value.is_floating_point() else value for value in pixels)
    bank = CMDLMemoryBank(K, M, C, assignment="sample")  # a second draw would differ
    _, _, _, ids = comparison = compare_with_distributions(embeddings, bank.directions(), labels, 0.1, bank.rule, 0.2)
    similarity = comparison.similarity
    expected = bank.read()
    for label in range(K):
        for m in range(M):
            mine = (labels == label) & (ids == m)
            if mine.any():
                expected[label, m] = F.normalize(embeddings[mine].sum(dim=0), dim=0)  # the first update replaces it
    bank.update(embeddings, similarity, labels, torch.ones(60, dtype=torch.bool), ids)
    torch.testing.assert_close(bank.prototypes, expected)


def test_the_assignment_is_that_of_the_update_rule(pixels):
    embeddings, directions, labels = pixels
    comparison = compare_with_distributions(embeddings, directions, labels, 0.1, RULE)
    own = torch.stack([comparison.similarity[i, label] for i, label in enumerate(labels.clamp_max(K - 1).tolist())])
    expected = assign_pixels(own.float(), torch.where(labels < K, labels, K), K, RULE)
    is_used = labels < K
    assert torch.equal(comparison.assigned_ids[is_used], expected[is_used])


def test_left_out_pixels_with_infinite_values_get_no_gradient(pixels):
    embeddings, directions, labels = pixels
    embeddings = embeddings.clone()
    embeddings[0] = torch.inf
    embeddings.requires_grad_()
    contrasts = compare_with_distributions(embeddings, directions, labels, 0.1, RULE, 0.2).contrasts
    contrasts.sum().backward()
    assert contrasts[0] == 0
    assert embeddings.grad[0].eq(0).all()
    assert embeddings.grad[1:].isfinite().all()


def test_without_contrast_target_the_update_assigns_the_pixels():
    module, bank = CMDLDistributionLearning(K, C), CMDLMemoryBank(K, M, C)
    features, labels = torch.randn(2, C, 4, 4), torch.randint(0, K, (2, 32, 32))
    assert module.compare(features, bank, labels).assigned_ids is None
    module.contrast_target = "assigned"
    assert module.compare(features, bank, labels).assigned_ids.shape == (32,)


def test_the_contrast_with_all_distributions_makes_them_equal_and_with_the_assigned_one_keeps_them_apart():
    """A class of three modes: embeddings that are free to move, under each contrast."""
    cosines = {}
    for target in ("all", "assigned"):
        torch.manual_seed(0)
        points = torch.randn(4 * 60, C, requires_grad=True)
        labels = torch.arange(4).repeat_interleave(60)
        bank = CMDLMemoryBank(K, M, C, momentum=0.9)
        optimizer = torch.optim.Adam([points], lr=0.02)
        for _ in range(200):
            embeddings = F.normalize(points, dim=-1)
            rule = bank.rule if target == "assigned" else None
            found = compare_with_distributions(embeddings, bank.directions(), labels, 0.1, rule, 0.2)
            found.contrasts.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            is_correct = torch.ones(len(labels), dtype=torch.bool)
            bank.update(embeddings.detach(), found.similarity.detach(), labels, is_correct, found.assigned_ids)
        directions = bank.directions().transpose(0, 1)
        cosines[target] = ((directions @ directions.transpose(1, 2)).sum(dim=(1, 2)) - M).mean().item() / (M * (M - 1))
    assert cosines["all"] > 0.75
    assert cosines["assigned"] < 0.3
