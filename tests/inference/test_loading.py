import json

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import SegformerConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from cmdl_hf import CMDLAdapter, CMDLForSemanticSegmentation, make_image_processor
from cmdl_hf.export import export_model
from cmdl_hf.inference import choose_device, load_segmenter, predict_files

SMALL = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}


@pytest.fixture
def folder(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_cmdl_models_run_the_code_of_this_package(folder):
    model, processor = load_segmenter(folder)
    assert type(model) is CMDLForSemanticSegmentation
    assert not model.training
    assert processor.image_mean
    assert choose_device().type == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_half_precision_is_loaded_as_float32_by_every_door(make_model, tmp_path, dtype):
    model = make_model().eval().to(dtype)
    model.save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    loaded, _ = load_segmenter(tmp_path / "model")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    pixel_values = torch.randn(1, 3, 64, 64).to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values.float()).logits, model(pixel_values).logits, atol=0.1, rtol=0)
    Image.new("RGB", (64, 64), (90, 20, 200)).save(tmp_path / "image.png")
    predict_files(tmp_path / "model", [tmp_path / "image.png"], tmp_path / "results")
    assert list((tmp_path / "results").glob("image*"))
    export_model(tmp_path / "model", tmp_path / "model.onnx")


def test_other_segmenters_are_loaded(tmp_path):
    SegformerForSemanticSegmentation(SegformerConfig(**SMALL)).save_pretrained(tmp_path)
    make_image_processor().save_pretrained(tmp_path)
    model, _ = load_segmenter(str(tmp_path))
    assert isinstance(model, SegformerForSemanticSegmentation)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    SegformerForImageClassification(SegformerConfig(**SMALL)).save_pretrained(tmp_path)
    make_image_processor().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"not a trained semantic segmenter: .* weights are missing, such as decode_head"
    ):
        load_segmenter(tmp_path)


def test_remote_code_needs_permission(folder):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "elsewhere"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="--trust-remote-code"):
        load_segmenter(folder)


def _without_config(folder):
    (folder / "config.json").unlink()
    return folder


def _without_weights(folder):
    (folder / "model.safetensors").unlink()
    return folder


def _with_damaged_weights(folder):
    (folder / "model.safetensors").write_bytes(b"\\x00" * 20)
    return folder


def _with_damaged_config(folder):
    (folder / "config.json").write_text("{")
    return folder


def _with_shards_beside(folder):
    (folder / "model.safetensors.index.json").write_text("{}")
    return folder


def _without_processor(folder):
    (folder / "preprocessor_config.json").unlink()
    return folder


def _of_another_kind(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_without_config, FileNotFoundError, "it has no config.json"),
        (_without_weights, FileNotFoundError, "model.safetensors"),
        (_with_damaged_weights, ValueError, "cannot be loaded"),
        (_with_damaged_config, FileNotFoundError, "cannot be loaded"),
        (_with_shards_beside, ValueError, "two shapes, model.safetensors and model.safetensors.index.json"),
        (_without_processor, FileNotFoundError, r"no image processor .*make_image_processor"),
        (_of_another_kind, ValueError, "not a semantic segmenter"),
        (lambda folder: folder / "model.safetensors", ValueError, "found the file"),
        (lambda folder: folder / "missing", FileNotFoundError, "the folder .* has no missing; correct the path"),
        (lambda _: "./missing", FileNotFoundError, "there is no folder"),
        (
            lambda _: "outputs/nothere",
            FileNotFoundError,
            "there is no folder outputs/nothere; name the folder of a model, or ORG/NAME on the Hub",
        ),
        (
            lambda _: "nobody/nothing",
            FileNotFoundError,
            "nobody/nothing cannot be loaded: there is no such folder here, and the Hub cannot be reached: correct "
            "the path",
        ),
        (lambda _: "not a name!", FileNotFoundError, "cannot be loaded"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(folder, damage, error, message):
    model = damage(folder)
    with pytest.raises(error, match=message) as raised:
        load_segmenter(model)
    assert "\n" not in str(raised.value)


def test_loading_leaves_the_random_numbers_alone(folder):
    before = torch.get_rng_state()
    load_segmenter(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_whole_images_are_segmented_though_the_processor_would_crop_them(make_model, tmp_path):
    from transformers import MobileViTImageProcessor

    make_model().save_pretrained(tmp_path)
    MobileViTImageProcessor(do_center_crop=True, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    _, processor = load_segmenter(tmp_path)
    assert not processor.do_center_crop


def test_a_saved_adapter_is_told_with_what_takes_it(tmp_path):
    segmenter = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 5, 1))
    CMDLAdapter(segmenter, "1", num_labels=5).save_pretrained(tmp_path)
    message = (
        r"is a CMDLAdapter, and the cmdl commands do not accept adapters: load it with CMDLAdapter.from_pretrained"
        r"\('.*'\) in Python, and score it with cmdl_hf.evaluation.evaluate"
    )
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match=message):
            load_segmenter(folder)
