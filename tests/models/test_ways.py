"""The ways in which a model is moved, wrapped, copied and averaged: same logits, and a bank that is saved with it."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.utils.modeling import get_state_dict_offloaded_model
from peft import LoraConfig, PeftModel, get_peft_model
from segmenters import NUM_LABELS, segformer
from tiny_models import LIVE_AGGREGATION
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cmdl_hf import CMDLAdapter, CMDLForSemanticSegmentation

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LORA = {"target_modules": ["vote_fusion.0"], "r": 2}


@pytest.fixture(params=["class", "posterior"])
def model(request, make_model, make_batch):
    """A model whose bank, statistics and scales have moved."""
    model = make_model(context_module="criss_cross", voting=request.param, class_weights=[1.0, 2.0, 1.0, 1.0, 0.5])
    torch.nn.init.constant_(model.context_module.attention.gamma, 0.5)
    pixel_values, labels = make_batch(2, 64, 64)
    model.train()(pixel_values, labels=labels)
    return model.eval()


@torch.no_grad()
def predict(model):
    output = model(pixel_values=IMAGES, output_distributions=True)
    return output.logits, output.similarity, output.pixel_embeddings


def plain(model, _folder):
    return model


def dispatch(model, folder, offload_buffers):
    names = [name for name, _ in model.named_children()]
    on_disk = ("memory_bank", "semantic_aggregation", "distribution_learning", "context_attention")
    device_map = {name: "disk" if name in on_disk else "cpu" for name in [*names, "context_layer_scale"]}
    return dispatch_model(model, device_map, offload_dir=folder / "offload", offload_buffers=offload_buffers)


def with_little_memory(model, folder, offload_buffers):
    model.save_pretrained(folder / "whole")
    limits = {"device_map": "auto", "max_memory": {"cpu": "60KB"}, "offload_folder": folder / "offload"}
    loaded = CMDLForSemanticSegmentation.from_pretrained(folder / "whole", **limits, offload_buffers=offload_buffers)
    assert loaded.hf_device_map["memory_bank"] == "disk"
    return loaded


def average(model, _folder, **options):
    averaged = AveragedModel(model, **options)
    for _ in range(2):
        averaged.update_parameters(model)
    return averaged


def in_processes(model, _folder):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return DistributedDataParallel(model)
    finally:
        dist.destroy_process_group()


WAYS = {
    "as it is": plain,
    "copied": lambda model, _: copy.deepcopy(model),
    "pickled": lambda model, _: pickle.loads(pickle.dumps(model)),
    "cpu_offload": lambda model, _: cpu_offload(model),
    "cpu_offload with buffers": lambda model, _: cpu_offload(model, offload_buffers=True),
    "disk_offload": lambda model, folder: disk_offload(model, folder / "offload"),
    "disk_offload with buffers": lambda model, folder: disk_offload(model, folder / "offload", offload_buffers=True),
    "dispatch_model": partial(dispatch, offload_buffers=False),
    "dispatch_model with buffers": partial(dispatch, offload_buffers=True),
    "device_map": partial(with_little_memory, offload_buffers=False),
    "device_map with buffers": partial(with_little_memory, offload_buffers=True),
    "SWA": average,
    "EMA": partial(average, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    "DDP": in_processes,
    "LoRA": lambda model, _: get_peft_model(model, LoraConfig(**LORA)),
    "LoRA with the bank": lambda model, _: get_peft_model(model, LoraConfig(**LORA, modules_to_save=["memory_bank"])),
    "LoRA merged": lambda model, _: get_peft_model(model, LoraConfig(**LORA)).merge_and_unload(),
    "half precision and back": lambda model, _: model.bfloat16().float(),
}


def save_and_load(wrapped, base, folder):
    """Save as the documentation of each library says; an adapter of peft is loaded onto the model it was added to."""
    if isinstance(wrapped, PeftModel):
        wrapped.save_pretrained(folder / "saved")
        return PeftModel.from_pretrained(copy.deepcopy(base), folder / "saved")
    inner = getattr(wrapped, "module", wrapped)
    is_offloaded = any(tensor.device.type == "meta" for tensor in inner.state_dict().values())
    state_dict = get_state_dict_offloaded_model(inner) if is_offloaded else None
    inner.save_pretrained(folder / "saved", state_dict=state_dict)
    return CMDLForSemanticSegmentation.from_pretrained(folder / "saved")


@pytest.mark.parametrize("way", WAYS)
def test_logits_and_bank_stay(model, way, tmp_path):
    base = copy.deepcopy(model)
    bank, expected = model.memory_bank.read(), predict(copy.deepcopy(model))
    wrapped = WAYS[way](model, tmp_path).eval()
    tolerance = 0.1 if way.startswith("half") else 1e-6
    for _ in range(2):  # what the first pass keeps, the second finds
        torch.testing.assert_close(predict(wrapped), expected, atol=tolerance, rtol=0)
    loaded = save_and_load(wrapped, base, tmp_path).eval()
    torch.testing.assert_close(predict(loaded), predict(wrapped), atol=1e-6, rtol=0)
    loaded_bank = getattr(loaded, "base_model", loaded)
    torch.testing.assert_close(getattr(loaded_bank, "model", loaded_bank).memory_bank.read(), bank, atol=1e-6, rtol=0)


def test_an_average_that_moves_is_seen(model, make_batch):
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True).eval()
    before = predict(averaged)[0]
    with torch.no_grad():
        for tensor in (model.memory_bank.prototypes, model.semantic_aggregation.vote_fusion[0].weight):
            tensor.add_(torch.randn_like(tensor))
    for _ in range(2):
        averaged.update_parameters(model)
    assert not torch.equal(predict(averaged)[0], before)
    torch.testing.assert_close(predict(averaged), predict(copy.deepcopy(averaged)), atol=0, rtol=0)


@pytest.mark.parametrize("offload", [cpu_offload, partial(cpu_offload, offload_buffers=True)])
def test_an_adapter_is_offloaded_too(offload):
    model = CMDLAdapter(segformer(), num_distributions=3, attention_size=8, **LIVE_AGGREGATION).eval()
    labels = torch.randint(0, NUM_LABELS, (1, 64, 64))
    with torch.no_grad():
        expected = model(IMAGES, labels=labels)
        found = offload(model)(IMAGES, labels=labels)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.loss_dict, expected.loss_dict, atol=1e-6, rtol=0)


def test_losses_of_an_offloaded_model(model, make_batch):
    pixel_values, labels = make_batch(2, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values, labels=labels).loss_dict
        found = cpu_offload(model, offload_buffers=True)(pixel_values, labels=labels).loss_dict
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_data_parallel_is_refused(model):
    with pytest.raises(RuntimeError, match=r"DataParallel would lose the updates of the memory bank, .* torchrun"):
        [module._replicate_for_data_parallel() for module in model.modules()]  # as torch.nn.parallel.replicate does
