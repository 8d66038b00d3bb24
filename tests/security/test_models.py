"""Models of strangers: what a config.json, an adapter or a recipe says never loads, fetches or runs anything else."""

import json
import pickle
import re
import socket
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_models import TINY_BACKBONE
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from cmdl_hf import CMDLAdapter, CMDLConfig, CMDLForSemanticSegmentation, make_image_processor
from cmdl_hf.data import BENCHMARKS
from cmdl_hf.inference import load_segmenter
from cmdl_hf.models.segmenter_cmdl import build_segmenter
from cmdl_hf.training import CMDLTrainingArguments, make_config

REFUSALS = (ValueError, StrictDataclassError)


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return open, (self.trace, "w")


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """Every address that something connects to; nobody may."""
    calls = []

    def refuse(self, address):
        calls.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield calls
    assert calls == []


@pytest.fixture
def trace(tmp_path):
    """A file that is there once an attack has run its code."""
    return tmp_path / "code_ran"


@pytest.fixture
def bomb(tmp_path, trace):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    return path


@pytest.fixture
def folder(make_model, tmp_path):
    """A saved model, whose config.json a stranger then edits."""
    make_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def timm_options(bomb):
    overlay = {"file": str(bomb), "url": "http://10.0.0.1/weights.pth", "hf_hub_id": "them/weights"}
    return {
        "a checkpoint": {"checkpoint_path": str(bomb)},
        "weights named by an overlay": {"pretrained": True, "pretrained_cfg_overlay": overlay},
        "weights named by a configuration": {"pretrained": True, "pretrained_cfg": overlay},
        "an overlay without weights": {"pretrained_cfg_overlay": overlay},
        "a folder of weights": {"pretrained": True, "cache_dir": str(bomb.parent)},
        "remote code of a backbone": {"trust_remote_code": True},
        "a pruned file": {"pruned": True},
        "a dictionary of arguments": {"block_args": {"drop_path": 0.1}},
        "a path as a norm": {"norm_layer": "../../x"},
        "a number without bound": {"embed_dim": 10**12},
    }


TIMM_ATTACKS = list(timm_options(Path("x")))


@pytest.mark.parametrize("attack", TIMM_ATTACKS)
def test_options_of_timm_in_a_config_are_refused_by_name(folder, bomb, trace, attack):
    options = timm_options(bomb)[attack]
    backbone = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [1, 2, 3, 4]}
    edit(folder, backbone_config=backbone, backbone_kwargs=options)
    for load in (AutoModelForSemanticSegmentation.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(REFUSALS, match=f"backbone_kwargs: .*{next(iter(options))}"):
            load(folder)
    assert not trace.exists()


@pytest.mark.parametrize("attack", TIMM_ATTACKS)
def test_so_they_are_in_a_recipe(bomb, trace, attack):
    options = timm_options(bomb)[attack]
    args = CMDLTrainingArguments(benchmark="camvid", backbone="resnet18", backbone_kwargs=options)
    with pytest.raises(ValueError, match=f"backbone_kwargs: .*{next(iter(options))}"):
        make_config(args, BENCHMARKS["camvid"])
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["hf-hub:them/network", "hf_hub:them/network", "local-dir:{folder}", "../x", "them/x"]
)
def test_a_backbone_is_an_architecture_of_timm_and_nothing_that_it_would_fetch(folder, tmp_path, name):
    name = name.format(folder=tmp_path)
    edit(folder, backbone_config={"model_type": "timm_backbone", "backbone": name, "out_indices": [1, 2, 3, 4]})
    with pytest.raises(REFUSALS, match=rf"{re.escape(repr(name)[:40])}.* is no architecture of timm"):
        AutoModelForSemanticSegmentation.from_pretrained(folder)
    with pytest.raises(ValueError, match="is no architecture of timm"):
        make_config(CMDLTrainingArguments(benchmark="camvid", backbone=name), BENCHMARKS["camvid"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "timm_wrapper", "architecture": "resnet18"}, "model_type 'timm_wrapper' is not allowed"),
        ({"model_type": "dpt", "backbone": "them/x"}, "model_type 'dpt' is not allowed"),
        ({"model_type": "no_such"}, "model_type 'no_such' is not allowed; known are beit"),
        ({"attn_implementation": "them/kernels"}, "attn_implementation must be eager or sdpa, got 'them/kernels'"),
        ({"_attn_implementation": "them/kernels"}, "attn_implementation must be eager or sdpa, got 'them/kernels'"),
        ({"auto_map": {"AutoBackbone": "them/x--code.Net"}}, "'auto_map' is no field of a resnet configuration"),
        ({"quantization_config": {"quant_method": "x"}}, "'quantization_config' is no field of a resnet"),
        ({"hidden_act": "os.system('x')"}, "hidden_act"),
        ({"hidden_sizes": [1] * 1000}, "hidden_sizes has 1,000 items"),
        ({"dtype": "load"}, "dtype must be one of"),
        ({"no_such": 1}, "'no_such' is no field of a resnet configuration"),
    ],
)
def test_a_nested_configuration_of_transformers_says_how_a_network_looks_and_no_more(folder, changes, message):
    edit(folder, backbone_config=TINY_BACKBONE | changes)
    with pytest.raises(REFUSALS, match=message):
        AutoModelForSemanticSegmentation.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_implementation": "them/kernels"}, "attn_implementation must be eager or sdpa"),
        ({"_attn_implementation": "them/kernels"}, "attn_implementation must be eager or sdpa"),
        ({"experts_implementation": "them/kernels"}, "experts_implementation is not allowed"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config is not allowed"),
        ({"to_dict": "x"}, "'to_dict' is a method of CMDLConfig"),
        ({"dtype": "load"}, "dtype must be one of"),
    ],
)
def test_a_configuration_names_no_code_and_replaces_no_method(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(REFUSALS, match=message):
        AutoConfig.from_pretrained(folder)


def test_what_we_save_is_allowed(make_config, tmp_path):
    backbones = [
        dict(TINY_BACKBONE),
        {"model_type": "swin", "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 1], "out_indices": [1, 2]},
        {"model_type": "convnext", "hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2, "out_indices": [1, 2]},
        {
            "model_type": "dinov2",
            "hidden_size": 12,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "out_indices": [1, 2],
        },
        {"backbone": "resnet50c.gluon_in1k", "out_indices": [1, 2, 3, 4], "output_stride": 8},
    ]
    for number, backbone in enumerate(backbones):
        config = make_config(backbone_config=backbone)
        config.save_pretrained(tmp_path / str(number))
        again = AutoConfig.from_pretrained(tmp_path / str(number))
        assert again.backbone_config.to_dict() == config.backbone_config.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_labels": 2_000_000, "id2label": None, "label2id": None},
            "num_labels must be at most 10,000, got 2,000,000",
        ),
        ({"num_distributions": 10**9}, "num_distributions must be at most 1,024"),
        ({"hidden_size": 10**9}, "hidden_size must be at most 16,384"),
        ({"attention_size": 10**9}, "attention_size must be at most 16,384"),
        ({"size_divisor": 10**6}, "size_divisor must be at most 256"),
        ({"criss_cross_recurrence": 10**9}, "criss_cross_recurrence must be at most 64"),
        ({"sinkhorn_iterations": 10**9}, "sinkhorn_iterations must be at most 1,000"),
        ({"pool_scales": [10**6]}, "pool_scales must have at most 64 numbers up to 64"),
        ({"aspp_dilations": [1] * 1000}, "aspp_dilations must have at most 64 numbers"),
        ({"hidden_size": 16_384, "num_distributions": 1_024, "num_labels": 5}, None),
        (
            {"hidden_size": 16_384, "num_distributions": 1_024, "id2label": {str(i): "x" for i in range(100)}},
            "memory bank",
        ),
    ],
)
def test_sizes_are_refused_before_memory_is_asked_for(folder, changes, message):
    if message is None:
        message = "describes a network of .* numbers, but model.safetensors holds only"
    edit(folder, **changes)
    start = time.process_time()
    with pytest.raises(REFUSALS, match=message):
        CMDLForSemanticSegmentation.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert time.process_time() - start < 20  # two million classes took 26 s, and 1.2 GB


def test_a_header_that_lists_more_than_its_file_holds_is_refused(folder):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        CMDLForSemanticSegmentation.from_pretrained(folder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "DPTForSemanticSegmentation", "config": {"backbone": "them/x"}}, "backbone is not allowed"),
        (
            {"name": "UperNetForSemanticSegmentation", "config": {"backbone_config": {"backbone": "hf-hub:them/x"}}},
            "is no architecture of timm",
        ),
        (
            {"name": "SegformerForSemanticSegmentation", "config": {"attn_implementation": "them/x"}},
            "attn_implementation",
        ),
        ({"name": "TimmWrapperModel", "config": {"architecture": "hf-hub:them/x"}}, "TimmWrapperModel is not allowed"),
        ({"name": "AutoModel", "config": {}}, "AutoModel"),
    ],
)
def test_an_adapter_builds_segmenters_of_transformers_and_no_more(spec, message):
    with pytest.raises(ValueError, match=message):
        build_segmenter({"library": "transformers"} | spec)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_weights": "imagenet"}, "'encoder_weights' is not allowed"),
        ({"encoder_name": "tu-hf-hub:them/x"}, "encoder_name: 'tu-hf-hub:them/x' is not allowed"),
        ({"checkpoint_path": "weights.pth"}, "'checkpoint_path' is not allowed"),
        ({"pretrained": True}, "'pretrained' is not allowed"),
        ({"classes": 10**12}, "classes: 1000000000000 is not allowed"),
    ],
)
def test_an_adapter_on_smp_downloads_nothing(tmp_path, config, message):
    pytest.importorskip("segmentation_models_pytorch")
    settings = {"encoder_name": "resnet18", "classes": 3}
    spec = {"library": "segmentation_models_pytorch", "name": "FPN", "config": settings | config}
    saved = {"classifier": "segmentation_head.0", "num_labels": 3, "options": {}, "segmenter": spec}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=message):
        CMDLAdapter.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'get_encoder'|no segmenter|get_encoder"):
        build_segmenter({"library": "segmentation_models_pytorch", "name": "get_encoder", "config": {}})


def test_options_of_an_adapter_are_checked_as_a_configuration_is(tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    spec = {
        "library": "segmentation_models_pytorch",
        "name": "FPN",
        "config": {"encoder_name": "resnet18", "classes": 3},
    }
    saved = {
        "classifier": "segmentation_head.0",
        "num_labels": 3,
        "options": {"num_distributions": 10**9},
        "segmenter": spec,
    }
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(REFUSALS, match="num_distributions must be at most 1,024"):
        CMDLAdapter.from_pretrained(tmp_path)


def test_timm_is_of_a_version_that_unpickles_nothing():
    assert tuple(map(int, timm.__version__.split(".")[:3])) >= (1, 0, 27)


def test_weights_of_a_backbone_are_safetensors_and_a_pickle_is_refused(make_model, bomb, trace):
    backbone = {"backbone": "resnet18", "out_indices": [1, 2, 3, 4]}
    with pytest.raises(ValueError, match="is not a safetensors file"):
        make_model(backbone_config=backbone).load_backbone_weights(bomb)
    assert not trace.exists()


def test_a_pickle_in_place_of_weights_is_not_run(folder, bomb, trace):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bomb.read_bytes())
    with pytest.raises(Exception, match=r"weights_only|Weights only|safetensors|pickle|Unpickl"):
        CMDLForSemanticSegmentation.from_pretrained(folder)
    assert not trace.exists()


def test_a_checkpoint_of_views_asks_for_no_more_than_its_file_holds(tmp_path):
    from cmdl_hf.export import convert_reference_checkpoint

    state = {"memory_module.memory": torch.zeros(1).expand(150, 9, 2_000_000)}
    state["memory_module.attention.value_project.0.weight"] = torch.zeros(1).expand(256, 512, 1, 1)
    torch.save(state, tmp_path / "small.pth")
    assert (tmp_path / "small.pth").stat().st_size < 4_000
    with pytest.raises(ValueError, match=r"memory_module\.memory of shape .* is no plain tensor with all its numbers"):
        convert_reference_checkpoint(tmp_path / "small.pth", tmp_path / "out", "resnet50c", 150)
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_no_reference_checkpoint(tmp_path, bomb, trace):
    from cmdl_hf.export import convert_reference_checkpoint

    with pytest.raises(ValueError, match="not a PyTorch checkpoint that can be read without running code"):
        convert_reference_checkpoint(bomb, tmp_path / "out", "resnet50c", 150)
    assert not trace.exists()


def test_a_small_configuration_still_loads_with_another_number_of_classes(folder):
    model = CMDLForSemanticSegmentation.from_pretrained(folder, num_labels=9, ignore_mismatched_sizes=True)
    assert model.memory_bank.prototypes.shape[0] == 9
    assert CMDLConfig(num_labels=171).num_labels == 171


def test_an_index_leads_to_no_weights_outside_the_folder(folder, make_model, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "model.safetensors").rename(tmp_path / "elsewhere" / "weights.safetensors")
    names = make_model().state_dict()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere/weights.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names weights outside its folder"):
        CMDLForSemanticSegmentation.from_pretrained(folder)


@pytest.fixture
def segformer(tmp_path):
    """A saved SegFormer with its image processor."""
    sizes = {"hidden_sizes": [4, 4, 4, 4], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]}
    config = SegformerConfig(**sizes, decoder_hidden_size=4, num_labels=3)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "segformer")
    make_image_processor().save_pretrained(tmp_path / "segformer")
    return tmp_path / "segformer"


def test_models_of_transformers_load_with_fields_of_other_versions(segformer):
    edit(segformer, downsampling_rates=[1, 4, 8, 16], image_size=224, reshape_last_stage=True)
    assert load_segmenter(segformer)[0].config.num_labels == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_implementation": "them/kernels"}, "attn_implementation must be eager or sdpa"),
        ({"_experts_implementation": "them/kernels"}, "'_experts_implementation' is no field"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "'quantization_config' is no field"),
        ({"to_dict": 1}, "'to_dict' is no field"),
        ({"model_type": "dpt", "backbone": "them/x", "use_pretrained_backbone": True}, "backbone is not allowed"),
        ({"model_type": "upernet", "backbone_config": {"backbone": "hf-hub:them/x"}}, "is no architecture of timm"),
    ],
)
def test_so_nobody_elses_code_runs_for_them(segformer, changes, message):
    edit(segformer, **changes)
    with pytest.raises(ValueError, match=message):
        load_segmenter(segformer)


def test_an_adapter_of_peft_loads_no_other_model(segformer):
    (segformer / "adapter_config.json").write_text('{"base_model_name_or_path": "them/x", "peft_type": "LORA"}')
    with pytest.raises(ValueError, match="is an adapter of peft, which would load another model"):
        load_segmenter(segformer)


@pytest.mark.parametrize("size", [{"height": 10**6, "width": 10**6}, {"shortest_edge": 10**6}])
def test_an_image_processor_enlarges_no_image_beyond_memory(segformer, size):
    file = segformer / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_resize": True, "size": size}))
    with pytest.raises(ValueError, match="has size 1,000,000, and at most 16,384 pixels are allowed"):
        load_segmenter(segformer)
