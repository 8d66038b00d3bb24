import pytest
import torch

from cmdl_hf.models.context_cmdl import (
    AtrousPyramidPooling,
    CrissCrossAttention,
    CrissCrossContext,
    FeaturePyramid,
    PyramidPooling,
)


def literal_criss_cross(attention, x):
    """Dense attention over all pairs of pixels, with those outside row and column masked."""
    height, width = x.shape[-2:]
    query, key, value = (layer(x).flatten(2) for layer in (attention.query, attention.key, attention.value))
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    is_seen = (rows[:, None] == rows) | (columns[:, None] == columns)
    weights = (query.transpose(1, 2) @ key).masked_fill(~is_seen, -torch.inf).softmax(dim=-1)
    return x + attention.gamma * (value @ weights.transpose(1, 2)).unflatten(2, (height, width))


@pytest.mark.parametrize("grid", [(5, 7), (1, 6), (6, 1), (1, 1)])
def test_criss_cross_equals_masked_dense_attention(grid):
    attention = CrissCrossAttention(16)
    torch.nn.init.constant_(attention.gamma, 0.7)
    x = torch.randn(2, 16, *grid)
    torch.testing.assert_close(attention(x), literal_criss_cross(attention, x), atol=1e-5, rtol=1e-5)


def test_criss_cross_starts_as_the_identity():
    x = torch.randn(1, 16, 3, 4)
    torch.testing.assert_close(CrissCrossAttention(16)(x), x)


def test_two_rounds_of_criss_cross_reach_every_pixel():
    for recurrence, is_reached in ((1, False), (2, True)):
        context = CrissCrossContext(8, 8, recurrence).eval()
        torch.nn.init.constant_(context.attention.gamma, 1.0)
        context.reduction = context.bottleneck = torch.nn.Identity()
        x = torch.randn(1, 8, 5, 6, requires_grad=True)
        context([x])[0, :, 0, 0].sum().backward()
        assert (x.grad[0, :, 3, 4].abs().max() > 0) == is_reached


@pytest.mark.parametrize("module", [PyramidPooling, AtrousPyramidPooling, CrissCrossContext])
@pytest.mark.parametrize("grid", [(1, 1), (5, 6), (17, 3)])
def test_context_keeps_the_grid(module, grid):
    assert module(8, 16).eval()([torch.randn(2, 8, *grid)]).shape == (2, 16, *grid)


def test_pyramid_lies_on_the_finest_grid():
    stages = [torch.randn(1, channels, 32 // 2**i, 24 // 2**i) for i, channels in enumerate((4, 6, 8, 10))]
    assert FeaturePyramid((4, 6, 8, 10), 16).eval()(stages).shape == (1, 16, 32, 24)


def test_every_stage_reaches_the_pyramid():
    stages = [torch.randn(1, 4, 16 // 2**i, 16 // 2**i, requires_grad=True) for i in range(4)]
    FeaturePyramid((4, 4, 4, 4), 8).eval()(stages).sum().backward()
    assert all(stage.grad.abs().sum() > 0 for stage in stages)


@pytest.mark.parametrize("module", [PyramidPooling, AtrousPyramidPooling])
def test_one_value_per_channel_in_training_is_refused_with_the_cure(module):
    context = module(8, 16)
    with pytest.raises(ValueError, match=r"more than one value per channel.*at least 2 images"):
        context([torch.randn(1, 8, 6, 6)])
    assert context([torch.randn(2, 8, 6, 6)]).shape == (2, 16, 6, 6)
    assert context.eval()([torch.randn(1, 8, 6, 6)]).shape == (1, 16, 6, 6)
