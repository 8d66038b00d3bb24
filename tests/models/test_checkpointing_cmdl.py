"""Activation checkpointing: the same step with less memory."""

import copy
import pickle
import warnings

import pytest
import timm
import torch
from packaging.version import Version
from segmenters import NUM_LABELS
from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

from cmdl_hf import CMDLAdapter

RESNET = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [3, 4]}
VIT = {"model_type": "timm_backbone", "backbone": "vit_tiny_patch16_224", "out_indices": [0, 1]}
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "image_size": 64,
    "out_indices": [1, 2],
}

needs_timm = pytest.mark.skipif(
    Version(timm.__version__) < Version("1.0.31"),
    reason="timm 1.0.27 checkpoints ResNet's layers that change their input in place, which torch refuses",
)


@pytest.fixture
def make(make_model):
    def make(backbone, **options):
        kwargs = {"dynamic_img_size": True, "depth": 2} if backbone is VIT else None
        return make_model(backbone_config=dict(backbone), backbone_kwargs=kwargs, **options).train()

    return make


def step(model, batch):
    """Two passes; returns gradients and buffers."""
    torch.manual_seed(1)
    for _ in range(2):
        model(batch[0], labels=batch[1]).loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(RESNET, marks=needs_timm, id="resnet"), pytest.param(VIT, id="vit"), pytest.param(SWIN, id="swin")],
)
@pytest.mark.parametrize("is_reentrant", [False, True])
def test_gradients_memory_and_statistics_are_those_of_a_plain_step(make, make_batch, backbone, is_reentrant):
    plain, batch = make(backbone, dropout=0.1), make_batch(2, 64, 64)
    checkpointed = copy.deepcopy(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers prefers its new name
        checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": is_reentrant})
    assert checkpointed.gradient_checkpointing
    torch.testing.assert_close(step(checkpointed, batch), step(plain, batch), atol=0, rtol=0)
    assert checkpointed.memory_bank.num_updates.max() == 2


@needs_timm
def test_layers_run_again_in_the_backward_pass(make, make_batch):
    model, calls = make(RESNET), []
    layer = model.backbone._backbone.layer2[0].bn1
    layer.register_forward_hook(lambda *_: calls.append(1))
    model._set_gradient_checkpointing()
    step(model, make_batch(2, 64, 64))
    assert len(calls) == 4
    assert layer.num_batches_tracked == 2
    assert layer.momentum == 0.1


def test_it_is_turned_off_also_in_a_copy_and_in_a_pickle(make, make_batch):
    model = make(RESNET)
    model._set_gradient_checkpointing()
    model._set_gradient_checkpointing()  # twice is once
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        other._set_gradient_checkpointing(enable=False)
        assert not other.gradient_checkpointing
        assert not any(module._forward_pre_hooks for module in other.backbone.modules())
        step(other, make_batch(2, 64, 64))


def test_a_backbone_without_checkpointing_is_refused(make_model, make):
    with pytest.raises(ValueError, match="ResNetBackbone has no activation checkpointing; take a backbone that has"):
        make_model()._set_gradient_checkpointing()
    model = make(RESNET)
    with pytest.raises(ValueError, match="every_n_layers must be 1 for a timm backbone"):
        model._set_gradient_checkpointing(every_n_layers=2)
    assert not model.backbone._backbone.grad_checkpointing


def test_the_segmenter_of_an_adapter_moves_its_statistics_once(make_batch):
    config = MobileViTConfig(
        hidden_sizes=[8, 8, 8], neck_hidden_sizes=[4, 4, 4, 8, 8, 8, 8], num_hidden_layers=1, num_labels=NUM_LABELS
    )
    plain = CMDLAdapter(MobileViTForSemanticSegmentation(config), num_distributions=2).train()
    checkpointed, batch = copy.deepcopy(plain), make_batch(2, 64, 64, NUM_LABELS)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(step(checkpointed, batch), step(plain, batch), atol=1e-6, rtol=1e-4)
    checkpointed.gradient_checkpointing_disable()
    assert not any(module._forward_pre_hooks for module in checkpointed.modules())


@pytest.mark.parametrize(("backbone", "has_patches"), [(RESNET, False), (SWIN, True)], ids=["resnet", "swin"])
def test_the_embeddings_of_patches_are_the_backbones(make, backbone, has_patches):
    model = make(backbone)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Module) if has_patches else embeddings is None
    if has_patches:
        other = copy.deepcopy(embeddings)
        model.set_input_embeddings(other)
        assert model.get_input_embeddings() is model.backbone.get_input_embeddings() is other
    else:
        with pytest.raises(NotImplementedError):
            model.set_input_embeddings(torch.nn.Identity())
