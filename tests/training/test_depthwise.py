import pytest
import torch
from torch import nn

from cmdl_hf.data import TrainTransform, load_synthetic
from cmdl_hf.training import CMDLTrainingArguments, TrainingLoop
from cmdl_hf.training.depthwise import PhasewiseConv2d, replace_dilated_depthwise, restore_dilated_depthwise


@pytest.mark.parametrize("dilation", [2, 4])
@pytest.mark.parametrize("size", [(23, 30), (8, 8), (5, 3)])
def test_depthwise_convolutions_phase_by_phase_are_torchs(dilation, size):
    plain = nn.Sequential(nn.Conv2d(6, 6, 3, padding=dilation, dilation=dilation, groups=6), nn.Conv2d(6, 6, 3))
    feature_map = torch.randn(2, 6, *size, requires_grad=True)
    expected = plain[0](feature_map)
    slope = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, [feature_map, *plain[0].parameters()], slope)
    replace_dilated_depthwise(plain)
    assert [type(module) for module in plain] == [PhasewiseConv2d, nn.Conv2d]
    found = plain[0](feature_map)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, [feature_map, *plain[0].parameters()], slope), gradients, strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(plain[0](feature_map), expected)  # by torch's kernel
    restore_dilated_depthwise(plain)
    assert type(plain[0]) is nn.Conv2d


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 2, "dilation": 2},  # not depthwise
        {"padding": 1, "groups": 6},
        {"padding": 2, "dilation": 2, "groups": 6, "stride": 2},
        {"padding": 1, "dilation": 2, "groups": 6},
        {"padding": (2, 4), "dilation": (2, 4), "groups": 6},
        {"padding": 2, "dilation": 2, "groups": 6, "padding_mode": "reflect"},
        {"padding": "same", "dilation": 2, "groups": 6},
    ],
)
def test_other_convolutions_stay(options):
    model = nn.Sequential(nn.Conv2d(6, 6, 3, **options))
    replace_dilated_depthwise(model)
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_training_on_a_cpu_uses_them_and_leaves_none_behind(make_model, ema_decay):
    scenes = load_synthetic(num_train=4, num_validation=1, num_test=1, size=(64, 64), num_labels=5)["train"]
    backbone = {
        "model_type": "timm_backbone",
        "backbone": "mobilenetv2_035",
        "out_indices": [3, 4],
        "output_stride": 8,
    }
    args = CMDLTrainingArguments(max_steps=1, total_batch_size=2, num_workers=0, ema_decay=ema_decay)
    loop = TrainingLoop(make_model(backbone_config=backbone), scenes, TrainTransform((64, 64), (1, 1)), args)
    assert any(type(module) is PhasewiseConv2d for module in loop.scored_model.modules())
    loop.advance(1)
    loop.release_model()
    assert not any(type(module) is PhasewiseConv2d for module in loop.model.modules())
    assert not any(type(module) is PhasewiseConv2d for module in loop.scored_model.modules())
