"""peft on a model: what it trains, what its adapter holds, and what it would lose."""

import copy
import logging

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from segmenters import segformer

from cmdl_hf import CMDLAdapter

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def add_lora(model, **options):
    return get_peft_model(model, LoraConfig(**({"target_modules": ["vote_fusion.0"], "r": 2} | options)))


def train(model, make_batch, num_labels=5):
    pixel_values, labels = make_batch(2, 64, 64, num_labels)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(pixel_values=pixel_values, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def predict(model):
    output = model.eval()(pixel_values=IMAGES, output_distributions=True)
    return output.logits, output.similarity


@pytest.fixture(params=["class", "posterior"])
def model(request, make_model):
    return make_model(voting=request.param).eval()


def test_low_ranks_of_the_fusion_get_a_gradient(model, make_batch):
    expected = predict(copy.deepcopy(model))
    lora = add_lora(model)
    torch.testing.assert_close(predict(lora), expected, atol=1e-6, rtol=0)  # the low ranks start at zero
    train(lora, make_batch)
    gradients = {name: p.grad for name, p in lora.named_parameters() if "lora_" in name}
    assert len(gradients) == 2
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    merged = copy.deepcopy(lora).merge_and_unload()
    torch.testing.assert_close(predict(merged), predict(lora), atol=1e-6, rtol=0)


def test_what_is_listed_comes_back(model, make_batch, tmp_path, caplog):
    base = copy.deepcopy(model)
    names = model.list_modules_to_save()
    assert names[0] == "memory_bank"
    lora = train(add_lora(model, modules_to_save=names), make_batch)
    assert "peft will save" not in caplog.text
    lora.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(predict(loaded), predict(lora), atol=0, rtol=0)
    bank, start = loaded.base_model.model.memory_bank, loaded.base_model.model.memory_bank.original_module
    assert bank.num_updates.sum() > 0
    assert not torch.equal(bank.prototypes, start.prototypes)
    with loaded.disable_adapter():
        assert torch.equal(loaded.base_model.model.memory_bank.read(), start.prototypes)
    plain = loaded.merge_and_unload()
    plain.save_pretrained(tmp_path / "plain")
    again = type(plain).from_pretrained(tmp_path / "plain").eval()
    assert torch.equal(again.memory_bank.prototypes, bank.prototypes)
    torch.testing.assert_close(predict(again), predict(plain), atol=0, rtol=0)


def test_every_method_of_the_bank_passes_a_wrapper(model, make_batch):
    lora = train(add_lora(model, modules_to_save=["memory_bank"]), make_batch)
    bank = lora.base_model.model.memory_bank
    inner = bank.modules_to_save["default"]
    assert bank.rule == inner.rule
    assert torch.equal(bank.directions(), inner.directions())
    assert torch.equal(bank.find_dead(), inner.find_dead())
    assert torch.equal(bank(), inner.prototypes)


def test_a_warning_names_what_is_lost(model, make_batch, tmp_path, caplog):
    base = copy.deepcopy(model)
    lora = train(add_lora(model), make_batch)
    assert caplog.text.count("peft will save its adapter without memory_bank, ") == 1  # for two steps
    assert "modules_to_save=model.list_modules_to_save()" in caplog.text
    lora.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert not torch.equal(loaded.base_model.model.memory_bank.read(), lora.base_model.model.memory_bank.read())


def test_running_statistics_are_lost_too(make_model, make_batch, caplog):
    model = make_model(use_distributions=False)
    assert "memory_bank" not in model.list_modules_to_save()
    train(add_lora(model, target_modules=["fusion.0", "layer.0.convolution"], r=2), make_batch)
    assert "peft will save its adapter without backbone.embedder.embedder.normalization, " in caplog.text


def test_what_does_not_move_is_not_missed(make_model, make_batch, caplog):
    model = make_model(is_memory_frozen=True)
    assert "memory_bank" not in model.list_modules_to_save()
    lora = add_lora(model).train()
    for module in lora.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    pixel_values, labels = make_batch(2, 64, 64)
    lora(pixel_values=pixel_values, labels=labels).loss.backward()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_end_of_a_name_that_catches_others_is_refused(model, make_batch, tmp_path):
    base = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"'fusion' is also semantic_aggregation\.vote_fusion; write 'model\.fusion'"):
        train(add_lora(copy.deepcopy(model), modules_to_save=["fusion"]), make_batch)
    lora = train(add_lora(model, modules_to_save=["model.fusion", *model.list_modules_to_save()]), make_batch)
    lora.save_pretrained(tmp_path)
    torch.testing.assert_close(predict(PeftModel.from_pretrained(base, tmp_path)), predict(lora), atol=0, rtol=0)


def test_an_adapter_as_a_whole(make_batch, tmp_path, caplog):
    model = CMDLAdapter(segformer(), num_distributions=3, attention_size=8, layer_scale_init_value=0.5)
    base = copy.deepcopy(model)
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    train(add_lora(copy.deepcopy(model)), make_batch, model.config.num_labels)
    assert "peft will save its adapter without memory_bank" in caplog.text
    lora = train(add_lora(model, modules_to_save=model.list_modules_to_save()), make_batch, model.config.num_labels)
    lora.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        found, expected = (each(pixel_values=IMAGES, labels=labels) for each in (loaded, lora))
    torch.testing.assert_close(found.logits, expected.logits, atol=0, rtol=0)
    assert found.loss_dict == expected.loss_dict
