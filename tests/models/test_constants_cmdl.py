"""What is constant in eval mode is computed once, and anew after every change."""

import copy
import pickle

import pytest
import torch
from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.models import CMDLMemoryBank
from cmdl_hf.models.constants_cmdl import Constant

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["class", "posterior"])
def model(request):
    torch.manual_seed(0)
    options = {
        "num_labels": 5,
        "hidden_size": 16,
        "attention_size": 8,
        "num_distributions": 3,
        "voting": request.param,
    }
    return CMDLForSemanticSegmentation(CMDLConfig(backbone_config=TINY_BACKBONE, **options, **LIVE_AGGREGATION)).eval()


@torch.no_grad()
def predict(model):
    return model(IMAGES).logits


def expect_fresh(model):
    """A copy has computed nothing yet."""
    torch.testing.assert_close(predict(model), predict(copy.deepcopy(model).eval()), atol=0, rtol=0)


def test_votes_and_directions_are_computed_once(model, monkeypatch):
    calls = []
    fusion = model.semantic_aggregation.vote_fusion
    original = fusion.make_votes
    monkeypatch.setattr(fusion, "make_votes", lambda *args: calls.append(1) or original(*args))
    for _ in range(3):
        predict(model)
    assert len(calls) == 1
    for _ in range(2):
        model(IMAGES)  # with gradient: the votes have one, too
    assert len(calls) == 3


def test_directions_are_computed_once_and_anew_after_an_update():
    bank = CMDLMemoryBank(3, 2, 8)
    with torch.no_grad():
        first = bank.directions()
        assert bank.directions() is first
        bank.prototypes.mul_(-1)
        torch.testing.assert_close(bank.directions(), -first)


@torch.no_grad()
def test_another_tensor_at_the_same_address_is_another_source():
    bank = CMDLMemoryBank(3, 2, 8)
    start = bank.prototypes.clone()
    for factor in (1, -1, 1):
        other = bank.read().mul_(factor)  # freed after each round, so that the next one may lie at its address
        torch.testing.assert_close(bank.directions(other), (factor * start).transpose(0, 1))
        del other


def values_of(model):
    """Whether each constant of a model holds a value."""
    constants = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Constant)]
    return [constant._value is not None for constant in constants]


@torch.no_grad()
def test_copies_and_pickles_hold_no_value(model):
    predict(model)
    assert any(values_of(model))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert values_of(copied)
        assert not any(values_of(copied))
        expect_fresh(copied)


@torch.no_grad()
def test_changes_are_seen(model):
    other = copy.deepcopy(model)
    for tensor in (other.memory_bank.prototypes, other.semantic_aggregation.vote_fusion[0].weight):
        tensor.add_(torch.randn_like(tensor))
    before = predict(model)
    model.load_state_dict(other.state_dict())
    assert not torch.equal(predict(model), before)
    expect_fresh(model)
    model.memory_bank.prototypes.copy_(model.memory_bank.prototypes.flip(0))
    expect_fresh(model)
    model.semantic_aggregation.vote_fusion[0].weight.mul_(2)
    expect_fresh(model)
    model.load_state_dict(other.state_dict(), assign=True)
    expect_fresh(model)
    model.semantic_aggregation.vote_fusion[0].weight.data.mul_(2)  # hidden from the version
    model.eval()
    expect_fresh(model)


def test_an_update_in_training_is_seen(model):
    before = predict(model)
    model.train()
    model(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 5, (2, 64, 64)))
    model.eval()
    assert not torch.equal(predict(model), before)
    expect_fresh(model)


def test_a_change_of_dtype_is_seen(model):
    before = predict(model)
    model.to(torch.bfloat16)
    with torch.no_grad():
        assert model(IMAGES.bfloat16()).logits.isfinite().all()
    model.float()
    expect_fresh(model)
    assert not torch.equal(predict(model), before)  # the weights went through 16 bits
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        first = model(IMAGES).logits
    expect_fresh(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(IMAGES).logits, first, atol=0, rtol=0)


def test_inference_mode_and_gradients_may_alternate(model):
    with torch.inference_mode():
        first = model(IMAGES).logits.clone()
    model(IMAGES).logits.sum().backward()
    torch.testing.assert_close(predict(model), first, atol=1e-6, rtol=1e-6)
