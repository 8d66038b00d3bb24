"""Preset `reference` with the arg-max draw against outputs of the public reference implementation."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.modeling_outputs import BackboneOutput

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation, sinkhorn
from cmdl_hf.export.convert import rename_reference_key

FIXTURES = Path(__file__).parents[1] / "fixtures"
LOSSES = {
    "segmentation_loss": "cls_stage2",
    "coarse_loss": "cls_stage1",
    "auxiliary_loss": "aux",
    "prototype_loss": "ce",
    "contrastive_loss": "ppc",
    "class_margin_reference": "distance",
}


class _GivenFeatures(nn.Module):
    def __init__(self, *feature_maps):
        super().__init__()
        self.feature_maps = feature_maps

    def forward(self, pixel_values):
        return BackboneOutput(feature_maps=self.feature_maps)


@pytest.fixture(params=["none", "ppm", "aspp"])
def reference(request, make_config):
    """Our model with the reference's weights on the reference's features, and its figures."""
    tensors = load_file(FIXTURES / f"reference_{request.param}.safetensors")
    figures = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
    weights = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    config = CMDLConfig.from_preset(
        "reference",
        assignment="argmax",
        num_labels=7,
        num_distributions=4,
        hidden_size=16,
        attention_size=8,
        dropout=0.0,
        context_module=request.param,
        backbone_config=make_config().backbone_config,
    )
    model = CMDLForSemanticSegmentation(config)
    report = model.load_state_dict({rename_reference_key(key): value for key, value in weights.items()}, strict=False)
    assert not report.unexpected_keys
    left = [key for key in report.missing_keys if not key.startswith("backbone.") and "num_batches" not in key]
    assert left == ["memory_bank.num_updates"]
    model.backbone = _GivenFeatures(figures["features_stage3"], figures["features_stage4"])
    return model, figures, torch.zeros(2, 3, 96, 112)


def test_eval_logits(reference):
    model, figures, pixel_values = reference
    with torch.no_grad():
        logits = model.eval()(pixel_values).logits
    torch.testing.assert_close(logits, figures["eval_logits"], atol=1e-5, rtol=0)


def test_losses_gradients_and_updated_prototypes(reference):
    model, figures, pixel_values = reference
    output = model.train()(pixel_values, figures["labels"], output_distributions=True)

    assert output.loss_dict.keys() == LOSSES.keys()
    for name, reference_name in LOSSES.items():
        expected = figures[f"train_loss_{reference_name}"].squeeze()
        torch.testing.assert_close(output.loss_dict[name], expected, atol=1e-5, rtol=0, msg=name)
    torch.testing.assert_close(output.loss, figures["train_total"].squeeze(), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.pixel_embeddings, figures["train_embeddings"], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.memory_bank.prototypes, figures["train_updated_memory"], atol=1e-6, rtol=0)

    output.loss.backward()
    parameters = dict(model.named_parameters())
    gradients = {key.removeprefix("grad."): value for key, value in figures.items() if key.startswith("grad.")}
    assert len(gradients) == 8
    for key, expected in gradients.items():
        error = (parameters[rename_reference_key(key)].grad - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, key


def test_sinkhorn_plan():
    figures = load_file(FIXTURES / "reference_sinkhorn.safetensors")
    plan = sinkhorn(figures["similarity"])
    torch.testing.assert_close(plan, figures["transport_plan"], atol=1e-6, rtol=0)
