"""Figures that tell whether the distributions of a class are several."""

import math

import pytest
import torch
import torch.nn.functional as F

from cmdl_hf.diagnostics import (
    chance_agreement,
    cosine_within_class,
    divide_probabilities,
    effective_number,
    of_own_class,
    posterior_entropy,
    probe,
)


@pytest.fixture
def prototypes():
    """One class of equal distributions, one of orthogonal ones, one of two equal ones and another."""
    basis = torch.eye(8)
    return torch.stack([basis[[0, 0, 0]], basis[[1, 2, 3]], basis[[4, 4, 5]]]) * 3


def test_cosine_within_class(prototypes):
    torch.testing.assert_close(cosine_within_class(prototypes), torch.tensor([1.0, 0.0, 1 / 3]))
    directions = F.normalize(torch.randn(5, 4, 6), dim=-1)
    cosines = directions @ directions.transpose(1, 2)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    expected = torch.stack([cosines[:, i, j] for i, j in pairs]).mean(dim=0)
    torch.testing.assert_close(cosine_within_class(directions * 2), expected)
    assert cosine_within_class(prototypes[:, :1]).tolist() == [1, 1, 1]


def test_equal_distributions_count_once(prototypes):
    two_thirds = math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    torch.testing.assert_close(effective_number(prototypes), torch.tensor([1.0, 3.0, two_thirds]))


def test_unused_distributions_do_not_count(prototypes):
    shares = torch.tensor([[5, 0, 9], [4, 0, 4], [0, 0, 0]])
    torch.testing.assert_close(effective_number(prototypes, shares), torch.tensor([1.0, 2.0, 0.0]))


def test_entropy_of_the_posterior_is_between_one_and_all():
    assert posterior_entropy(torch.zeros(4, 3), 0.1) == pytest.approx(1)
    assert posterior_entropy(torch.eye(3), 0.01) == pytest.approx(0, abs=1e-6)
    half = posterior_entropy(torch.tensor([[1.0, 1.0, -1.0]]), 0.01)
    assert half == pytest.approx(math.log(2) / math.log(3))


def test_cosines_of_the_own_class():
    similarity = torch.arange(24.0).view(2, 4, 3)
    assert of_own_class(similarity, torch.tensor([1, 3])).tolist() == [[3, 4, 5], [21, 22, 23]]


def test_chance_agreement_weighs_classes_by_their_pixels():
    num_pixels = torch.tensor([[30, 0, 0], [5, 5, 0], [0, 0, 0]])
    assert chance_agreement(num_pixels).item() == pytest.approx((30 * 1 + 10 * 0.5) / 40)


def test_divided_probabilities_sum_to_them():
    probabilities, similarity = torch.rand(5, 4), torch.rand(5, 4, 3)
    divided = divide_probabilities(probabilities, similarity, 0.1)
    torch.testing.assert_close(divided.unflatten(1, (4, 3)).mean(dim=2), probabilities)
    expected = probabilities[2, 1] * 3 * torch.exp(similarity[2, 1, 0] / 0.1) / torch.exp(similarity[2, 1] / 0.1).sum()
    torch.testing.assert_close(divided[2, 3], expected)
    even = divide_probabilities(probabilities, similarity, 1e9)
    torch.testing.assert_close(even, probabilities.repeat_interleave(3, dim=1))


def test_a_probe_learns_what_its_inputs_tell_and_no_more():
    labels = torch.arange(60) % 3
    inputs = F.one_hot(labels, 3).float()
    assert probe((inputs, labels), (inputs, labels), 3) == 1.0
    assert probe((torch.zeros(60, 3), labels), (inputs, labels), 3) < 0.4
