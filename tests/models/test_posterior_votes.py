"""Votes by the posterior: each pixel's votes for a class go to those of its distributions that it is near."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from cmdl_hf import CMDLAdapter, CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.models import CMDLSemanticAggregation, collect_votes, divide_votes, modeling_cmdl


def make_tiny_model(**options):
    settings = {"num_labels": 5, "hidden_size": 16, "attention_size": 8, "num_distributions": 3}
    torch.manual_seed(0)
    return CMDLForSemanticSegmentation(CMDLConfig(backbone_config=TINY_BACKBONE, **(settings | options)))


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    probabilities = torch.randn(2, 5, 3, 4).softmax(dim=1)
    prototypes = F.normalize(torch.randn(5, 3, 8), dim=-1)
    similarity = (2 * torch.rand(24, 3, 5) - 1).transpose(1, 2)  # stored as (N, M, K)
    return probabilities, prototypes, similarity


def test_votes_equal_the_sum_over_classes_and_distributions(inputs):
    probabilities, prototypes, similarity = inputs
    aggregation = CMDLSemanticAggregation(8, 4, 3, voting_temperature=0.1)
    shares = divide_votes(probabilities, similarity, 0.1)
    voted = collect_votes(shares, aggregation.vote_fusion.make_votes(prototypes, False), probabilities)
    weight = aggregation.vote_fusion[0].weight.flatten(1)  # (C, M·C)
    expected = torch.zeros(2, 8, 3, 4)
    for pixel in range(24):
        b, y, x = pixel // 12, pixel % 12 // 4, pixel % 4
        for c in range(5):
            posterior = (similarity[pixel, c] / 0.1).softmax(dim=0)
            for m in range(3):
                part = weight[:, 8 * m : 8 * m + 8] @ prototypes[c, m]
                expected[b, :, y, x] += probabilities[b, c, y, x] * 3 * posterior[m] * part
    torch.testing.assert_close(voted, expected)
    torch.testing.assert_close(shares.sum(dim=(1, 2)), torch.full((24,), 3.0))


def test_a_large_temperature_gives_the_votes_of_the_class(inputs):
    probabilities, prototypes, similarity = inputs
    by_class = CMDLSemanticAggregation(8, 4, 3).eval()
    by_posterior = CMDLSemanticAggregation(8, 4, 3, voting_temperature=1e8).eval()
    by_posterior.load_state_dict(by_class.state_dict())
    features = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(
        by_posterior(features, probabilities, prototypes, similarity),
        by_class(features, probabilities, prototypes),
        atol=1e-6,
        rtol=0,
    )


def make_pair(**options):
    """The same network with both votings; behind a layer scale of 0 no test would see the votes."""
    model = make_tiny_model(layer_scale_init_value=0.5, **options)
    config = copy.deepcopy(model.config)
    config.voting = "posterior"
    other = CMDLForSemanticSegmentation(config)
    other.load_state_dict(model.state_dict())
    return model.eval(), other.eval()


def test_the_network_of_an_old_checkpoint_takes_both_votings():
    by_class, by_posterior = make_pair()
    images = torch.randn(1, 3, 64, 96)
    assert not torch.allclose(by_class(images).logits, by_posterior(images).logits, atol=1e-5)
    by_posterior.semantic_aggregation.voting_temperature = 1e8
    torch.testing.assert_close(by_posterior(images).logits, by_class(images).logits, atol=1e-6, rtol=1e-6)


def test_permuting_distributions_with_their_weights_changes_nothing_and_alone_it_does():
    _, model = make_pair()
    images = torch.randn(1, 3, 64, 96)
    before = model(images).logits
    order = torch.randperm(model.config.num_distributions, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.memory_bank.prototypes.copy_(model.memory_bank.prototypes[:, order])
        assert not torch.allclose(model(images).logits, before, atol=1e-5)
        convolution = model.semantic_aggregation.vote_fusion[0]
        parts = convolution.weight.unflatten(1, (len(order), -1))
        convolution.weight.copy_(parts[:, order].flatten(1, 2))
        torch.testing.assert_close(model(images).logits, before, atol=1e-5, rtol=1e-5)


def test_losses_reach_the_projection_head_through_the_votes():
    model = make_tiny_model(
        layer_scale_init_value=0.5, voting="posterior", prototype_loss_weight=0, contrastive_loss_weight=0,
        class_margin_loss_weight=0,
    ).train()  # fmt: skip
    labels = torch.randint(0, model.config.num_labels, (2, 64, 64))
    model(torch.randn(2, 3, 64, 64), labels=labels).loss.backward()
    weight = model.distribution_learning.projection_head.projection[1].weight
    assert weight.grad.abs().sum() > 0


def test_training_and_inference_compile_as_one_graph():
    torch.manual_seed(0)
    model = make_tiny_model(
        layer_scale_init_value=0.5, voting="posterior", contrast_target="assigned", dropout=0.0
    ).train()
    compiled = copy.deepcopy(model)
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, model.config.num_labels, (2, 64, 64))
    expected, found = model(images, labels=labels), step(images, labels=labels)
    torch.testing.assert_close(found.loss, expected.loss)
    expected.loss.backward()
    found.loss.backward()
    torch.testing.assert_close(compiled.fusion[0].weight.grad, model.fusion[0].weight.grad)
    torch.testing.assert_close(compiled.memory_bank.prototypes, model.memory_bank.prototypes)


def test_votes_cost_at_most_five_hundredths_more_multiply_adds(monkeypatch):
    """ResNet-50, K = 150, M = 9, a grid of 64×64."""
    monkeypatch.setattr(modeling_cmdl, "check_pixel_values", lambda *_: None)  # it reads values, and there are none
    counts = {}
    for voting in ("class", "posterior"):
        with FakeTensorMode():
            model = CMDLForSemanticSegmentation(CMDLConfig(num_labels=150, voting=voting)).eval()
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                model(pixel_values=torch.rand(1, 3, 512, 512))
        counts[voting] = counter.get_total_flops()
    assert 1.01 < counts["posterior"] / counts["class"] < 1.05


class Pixels(torch.nn.Module):
    """A segmenter of 1×1 convolutions on a grid of an eighth."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 16, 8, stride=8)
        self.classifier = torch.nn.Conv2d(16, 5, 1)

    def forward(self, pixel_values):
        return self.classifier(self.features(pixel_values))


def test_an_adapter_votes_by_the_posterior_and_learns_with_the_assigned_distribution():
    torch.manual_seed(0)
    model = CMDLAdapter(
        Pixels(), "classifier", voting="posterior", contrast_target="assigned", num_distributions=3, **LIVE_AGGREGATION
    )
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    model.train()(images, labels=labels).loss.backward()
    assert model.distribution_learning.projection_head.projection[1].weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        near, model.semantic_aggregation.voting_temperature = model(images), 1e8
        assert not torch.equal(near, model(images))


def test_a_saved_model_names_both_fields_and_a_file_without_them_means_what_it_meant(tmp_path):
    for voting, target in (("posterior", "assigned"), ("class", "all")):
        config = CMDLConfig(voting=voting, contrast_target=target)
        config.save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        saved = json.loads(file.read_text())
        assert (saved["voting"], saved["contrast_target"]) == (voting, target)
        assert CMDLConfig.from_pretrained(tmp_path).voting == voting
        for name in ("voting", "contrast_target", "voting_temperature", "intra_class_negative_weight"):
            del saved[name]
        file.write_text(json.dumps(saved))
        old = CMDLConfig.from_pretrained(tmp_path)
        assert (old.voting, old.contrast_target) == ("class", "all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intra_class_negative_weight": 1.5}, "intra_class_negative_weight must lie in"),
        ({"intra_class_negative_weight": -0.1}, "intra_class_negative_weight must be at least 0"),
        ({"voting_temperature": 0}, "voting_temperature must be at least 0.01"),
        ({"voting": "both"}, "voting"),
        ({"contrast_target": "nearest"}, "contrast_target"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        CMDLConfig(**options)
