"""Folded batch norms: the network computes the same with fewer operators."""

import copy

import pytest
import torch
from PIL import Image
from tiny_models import CONTEXT_MODULES
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from varied_models import make_varied

from cmdl_hf import make_image_processor, segment
from cmdl_hf.inference import kept_models, predict_files
from cmdl_hf.inference.files import Segmenter
from cmdl_hf.models import fold_batch_norms
from cmdl_hf.models.context_cmdl import ConvNormReLU


@pytest.fixture
def make_trained(make_model):
    """Make a model in eval mode whose norms have statistics, scales and shifts of their own."""

    def make(**options):
        model = make_model(**options)
        for norm in norms_of(model):
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias, std=0.2)
        return model.eval()

    return make


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def outputs_of(model, shape=(2, 3, 96, 128)):
    pixel_values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(model.dtype)
    with torch.no_grad():
        output = model(pixel_values, output_distributions=model.config.use_distributions)
    return {name: getattr(output, name) for name in ("logits", "similarity") if getattr(output, name) is not None}


def timm_backbone(name, **options):
    return {"backbone_config": {"model_type": "timm_backbone", "backbone": name, "out_indices": [3, 4]} | options}


@pytest.mark.parametrize(
    ("options", "num_left"),
    [
        *(({"context_module": name}, 2) for name in CONTEXT_MODULES),  # those of the votes and the auxiliary head
        ({"voting": "posterior"}, 2),
        ({"use_distributions": False}, 1),
        (timm_backbone("resnet18", output_stride=8), 2),
        (timm_backbone("mobilenetv3_small_050", output_stride=8), 2),  # norms that include the activation
        (timm_backbone("seresnext26d_32x4d"), 2),
        (timm_backbone("vgg11_bn"), 2),  # convolutions with a bias
        (timm_backbone("densenet121"), 64),  # half of the norms come before their convolution
    ],
)
def test_outputs_do_not_change(make_trained, options, num_left):
    model = make_trained(**options)
    folded = copy.deepcopy(model)
    num_norms = len(norms_of(model))
    assert fold_batch_norms(folded) == num_norms - len(norms_of(folded))
    assert len(norms_of(folded)) == num_left
    expected, found = outputs_of(model), outputs_of(folded)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=1e-4 * float(values.abs().max()), rtol=1e-4)


def test_an_image_takes_as_many_operators_less_as_there_are_norms(make_trained):
    class Count(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.number += 1
            return func(*args, **(kwargs or {}))

    model = make_trained(use_distributions=False)
    numbers = []
    for _ in range(2):
        with torch.no_grad(), Count() as count:
            model(torch.randn(1, 3, 64, 64))
        numbers.append(count.number)
        folded = fold_batch_norms(model)
    assert numbers[0] - numbers[1] >= len(norms_of(make_trained(use_distributions=False))) - 1
    assert folded == 0  # the second time there is nothing left


class UsedTwice(ConvNormReLU):
    """The convolution's output goes around the norm, too."""

    def forward(self, hidden_state):
        convolved = self[0](hidden_state)
        return self[2](self[1](convolved) + convolved)


class WeightUsedTwice(ConvNormReLU):
    """A second operator takes the weight."""

    def forward(self, hidden_state):
        return super().forward(hidden_state) + self[0].weight.sum()


def _hooked(block):
    block[0].register_forward_hook(lambda _module, _inputs, output: output * 2)


class Doubled(nn.Conv2d):
    """A convolution of its own kind."""

    def forward(self, hidden_state):
        return self._conv_forward(hidden_state, 2 * self.weight, self.bias)


def _own_kind(block):
    block[0].__class__ = Doubled


class NormUsedTwice(ConvNormReLU):
    """Two convolutions have one norm."""

    def forward(self, hidden_state):
        return super().forward(hidden_state) + self[1](self.others[0](hidden_state))


def _shared_norm(block):
    block.others = [copy.deepcopy(block[0])]  # a sequence would call it if it were a module of its own
    block.__class__ = NormUsedTwice


def _of_class(cls):
    return lambda block: setattr(block, "__class__", cls)


@pytest.mark.parametrize(
    "change", [_hooked, _own_kind, _shared_norm, _of_class(UsedTwice), _of_class(WeightUsedTwice)]
)
def test_what_does_more_than_convolve_and_normalise_is_left(make_trained, change):
    model = make_trained()
    block = next(module for module in model.bottleneck.modules() if isinstance(module, ConvNormReLU))
    change(block)
    expected = outputs_of(model)
    assert fold_batch_norms(model) > 5
    assert len(norms_of(model)) == 3
    found = outputs_of(model)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=1e-4 * float(values.abs().max()), rtol=1e-4)


def test_bfloat16_folds_from_float32_and_keeps_the_layout(make_trained):
    model = make_trained().to(memory_format=torch.channels_last)
    expected = outputs_of(model)["logits"]
    half = copy.deepcopy(model).to(torch.bfloat16)
    apart = (outputs_of(half)["logits"].float() - expected).abs().mean()
    assert fold_batch_norms(half) > 5
    assert half.dtype == torch.bfloat16
    assert (outputs_of(half)["logits"].float() - expected).abs().mean() < 2 * apart
    fold_batch_norms(model)
    weights = [p for p in model.backbone.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_models_that_are_left_as_they_are(make_trained):
    assert fold_batch_norms(make_trained().half()) == 0
    config = SegformerConfig(hidden_sizes=[8] * 4, decoder_hidden_size=8, num_attention_heads=[1] * 4)
    assert fold_batch_norms(SegformerForSemanticSegmentation(config).eval()) == 0


def test_a_folded_model_is_for_inference_only(make_trained, tmp_path):
    model = make_trained()
    with pytest.raises(ValueError, match="for inference only"):
        fold_batch_norms(model.train())
    fold_batch_norms(model.eval())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="load it again"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_segment_and_predict_fold_what_they_load(make_trained, tmp_path, monkeypatch):
    model, image = make_varied(make_trained()), tmp_path / "image.png"
    model.save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    Image.effect_noise((96, 64), 80).convert("RGB").save(image)
    seen = []

    def watch(segmenter, network, *args, **kwargs):
        seen.append(network)
        made(segmenter, network, *args, **kwargs)

    made = Segmenter.__init__
    monkeypatch.setattr(Segmenter, "__init__", watch)
    kept_models._kept.clear()
    found = segment(tmp_path / "model", image)
    assert len(seen) == 1
    predict_files(tmp_path / "model", [image], tmp_path / "out")
    assert len(seen) > 1
    assert {len(norms_of(network)) for network in seen} == {2}
    assert (found.ids == segment(model, image).ids).mean() > 0.999
    assert len(norms_of(model)) > 5  # a model that was handed over stays as it is
