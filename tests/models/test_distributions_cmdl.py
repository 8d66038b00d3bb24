import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmdl_hf import (
    CMDLAttention,
    CMDLDistributionLearning,
    CMDLMemoryBank,
    CMDLProjectionHead,
    CMDLSemanticAggregation,
)
from cmdl_hf.models.context_cmdl import CrissCrossAttention


def randomise_norms(module):
    """Give BatchNorms something to do, as after training."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return module


def literal_attention(attention, query_features, key_features):
    query = attention.query(query_features).flatten(2).transpose(1, 2)
    key = attention.key(key_features).flatten(2)
    value = attention.value(key_features).flatten(2).transpose(1, 2)
    weights = (query @ key * query.shape[-1] ** -0.5).softmax(dim=-1)
    return attention.output((weights @ value).transpose(1, 2).unflatten(2, query_features.shape[-2:]))


def test_attention_equals_the_full_matrix():
    attention = randomise_norms(CMDLAttention(16, 8)).eval()
    query, key = torch.randn(2, 16, 4, 5), torch.randn(2, 16, 3, 6)
    torch.testing.assert_close(attention(query, key), literal_attention(attention, query, key), atol=1e-5, rtol=1e-5)


class _LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        return result


@pytest.mark.parametrize("attention", [CMDLAttention(16, 8), CrissCrossAttention(16)])
def test_no_matrix_of_all_pairs_of_pixels_exists(attention):
    attention.eval()
    x = torch.randn(1, 16, 64, 64)
    with torch.no_grad(), _LargestTensor() as largest:
        attention(x, x) if isinstance(attention, CMDLAttention) else attention(x)
    assert largest.numel < (64 * 64) ** 2 / 10


def test_aggregation_equals_voting_then_fusion():
    aggregation = randomise_norms(CMDLSemanticAggregation(16, 8, num_distributions=3)).eval()
    pixel_features = torch.randn(2, 16, 4, 5)
    probabilities = torch.randn(2, 6, 4, 5).softmax(dim=1)
    prototypes = F.normalize(torch.randn(6, 3, 16), dim=-1)
    voted = torch.cat([torch.einsum("bkhw,kc->bchw", probabilities, prototypes[:, m]) for m in range(3)], dim=1)
    expected = literal_attention(aggregation.attention, pixel_features, aggregation.vote_fusion(voted))
    actual = aggregation(pixel_features, probabilities, prototypes)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_embeddings_are_float32_of_unit_length_in_pixel_order():
    head = CMDLProjectionHead(8).eval()
    features = torch.randn(2, 8, 3, 4)
    embeddings = head(features)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(24))
    torch.testing.assert_close(embeddings[12 + 4 + 2], head(features[1:, :, 1:2, 2:3])[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(features).dtype == torch.float32


@pytest.fixture
def learning():
    module = CMDLDistributionLearning(num_labels=4, hidden_size=8)
    return module, CMDLMemoryBank(4, 2, 8)


def test_the_bank_is_updated_in_training_only(learning):
    module, bank = learning
    features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 16, 16))
    before = bank.read()
    module.eval()(features, labels, bank)
    torch.testing.assert_close(bank.prototypes, before, atol=0, rtol=0)
    module.train()(features, labels, bank)
    assert not torch.equal(bank.prototypes, before)


def test_no_gradient_reaches_the_bank_and_backward_survives_its_update(learning):
    module, bank = learning
    features = torch.randn(2, 8, 4, 4, requires_grad=True)
    losses = module(features, torch.randint(0, 4, (2, 16, 16)), bank).losses
    sum(losses.values()).backward()
    assert features.grad.abs().sum() > 0
    assert not bank.prototypes.requires_grad


def test_losses_read_the_prototypes_from_before_the_update_and_the_margin_those_from_after(learning):
    module, bank = learning
    features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 16, 16))
    before = bank.read()
    output = module(features, labels, bank)
    torch.testing.assert_close(output.similarity, bank.similarity(output.pixel_embeddings, before))
    updated = bank.read()
    module.eval()
    module.projection_head.forward = lambda _: output.pixel_embeddings  # the same embeddings, without new statistics
    again = module(features, labels, bank).losses
    torch.testing.assert_close(again["class_margin_loss"], output.losses["class_margin_loss"])
    assert not torch.equal(again["contrastive_loss"], output.losses["contrastive_loss"])
    torch.testing.assert_close(bank.prototypes, updated)


@pytest.mark.parametrize("name", ["prototype", "contrastive", "class_margin"])
def test_a_loss_of_weight_zero_is_not_computed(name):
    module = CMDLDistributionLearning(4, 8, **{f"{name}_loss_weight": 0.0})
    losses = module(torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 16, 16)), CMDLMemoryBank(4, 2, 8)).losses
    assert len(losses) == 2
    assert f"{name}_loss" not in losses


def test_a_weight_multiplies_its_loss():
    torch.manual_seed(1)
    features, labels, bank = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 16, 16)), CMDLMemoryBank(4, 2, 8)
    single, double = (CMDLDistributionLearning(4, 8, weight, 5 * weight, weight) for weight in (0.01, 0.02))
    double.load_state_dict(single.state_dict())
    one, two = single.eval()(features, labels, bank).losses, double.eval()(features, labels, bank).losses
    for name in one:
        torch.testing.assert_close(two[name], 2 * one[name])
