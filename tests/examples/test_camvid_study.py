"""The parts of the CamVid study that its numbers rest on."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

STUDY = Path(__file__).parents[2] / "examples" / "camvid_study"


@pytest.fixture
def study(monkeypatch):
    """Import a script of the study."""
    monkeypatch.syspath_prepend(str(STUDY))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name)

    return load


@pytest.mark.parametrize("dilation", [2, 4])
@pytest.mark.parametrize("size", [(23, 30), (8, 8), (5, 3)])
def test_depthwise_convolutions_phase_by_phase_are_torchs(study, dilation, size):
    plain = nn.Sequential(nn.Conv2d(6, 6, 3, padding=dilation, dilation=dilation, groups=6), nn.Conv2d(6, 6, 3))
    torch.manual_seed(0)
    feature_map = torch.randn(2, 6, *size, requires_grad=True)
    expected = plain[0](feature_map)
    slope = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, [feature_map, *plain[0].parameters()], slope)
    study("cpu_depthwise").replace_dilated_depthwise(plain)
    assert [type(module).__name__ for module in plain] == ["PhasewiseConv2d", "Conv2d"]
    found = plain[0](feature_map)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, [feature_map, *plain[0].parameters()], slope), gradients, strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_resampled_scores_are_those_of_the_images_drawn(study):
    report = study("report")
    generator = np.random.default_rng(0)
    union = generator.integers(1, 50, (7, 4))
    counts = np.stack([generator.integers(0, union + 1), union], axis=1)
    counts[:, :, 3] = 0  # a class that does not occur
    drawn = [0, 0, 3, 6]
    weights = np.bincount(drawn, minlength=7)[None]
    sums = sum(counts[image] for image in drawn)
    assert report.mean_ious(counts, weights)[0] == pytest.approx(np.mean(sums[0, :3] / sums[1, :3]))


def test_an_arm_that_is_better_on_every_image_is_better_in_every_resample(study):
    report = study("report")
    generator = np.random.default_rng(0)
    union = np.full((20, 3), 100)
    first, second = (
        np.stack([generator.integers(*range_, (20, 3)), union], axis=1) for range_ in ((60, 70), (40, 50))
    )
    difference, low, high, share = report.bootstrap([first], [second])
    assert 0.1 < low < difference < high < 0.3
    assert share == 1.0


def test_every_run_of_the_study_has_a_recipe_of_its_own(study):
    module = study("study")
    runs = [item for group in module.GROUPS.values() for item in group.items()]
    assert len({name for name, _ in runs}) == len(runs)
    recipes = [module.make_recipe(fields) for _, fields in runs]
    assert not any(recipe.use_test_split for recipe in recipes)
    assert len(
        {
            (str(recipe.to_recipe()), fields.get("has_attention"))
            for recipe, (_, fields) in zip(recipes, runs, strict=True)
        }
    ) == len(runs)


def test_without_attention_each_pixel_gets_what_was_voted_for_it(study, make_model):
    model = make_model().eval()
    study("study").prepare_model(model, {"has_attention": False})
    aggregation = model.semantic_aggregation
    pixel_features = torch.randn(1, model.config.hidden_size, 4, 5)
    probabilities = torch.randn(1, model.config.num_labels, 4, 5).softmax(dim=1)
    prototypes = model.memory_bank.read()
    _, norm, activation = aggregation.vote_fusion
    expected = activation(norm(F.conv2d(probabilities, aggregation.class_votes(prototypes))))
    torch.testing.assert_close(aggregation(pixel_features, probabilities, prototypes), expected)
