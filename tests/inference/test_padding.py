"""Image processors that pad: what they add is cut off, and every pixel lies where it was."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DPTImageProcessor, SegformerImageProcessor
from transformers.modeling_outputs import SemanticSegmenterOutput

from cmdl_hf.inference import files as prediction
from cmdl_hf.inference import predict_files
from cmdl_hf.inference.padding import Box, find_image

PADDING = {"do_resize": False, "do_pad": True, "size_divisor": 32}


class _Threshold(torch.nn.Module):
    """Says of every pixel whether it is bright, at the size of the input."""

    def __init__(self, config):
        super().__init__()
        self.config, self.weight = config, torch.nn.Parameter(torch.ones(1))

    def forward(self, pixel_values):
        brightness = pixel_values.mean(dim=1) * self.weight
        return SemanticSegmenterOutput(logits=torch.stack([-brightness, brightness], dim=1))


@pytest.fixture
def predict(make_config, tmp_path, monkeypatch):
    """Segment an image with the threshold and a processor; returns the class ids."""

    def predict(image, processor):
        model = _Threshold(make_config(num_labels=2))
        monkeypatch.setattr(prediction, "load_folded", lambda *_: (model, processor))
        image.save(tmp_path / "a.png")
        assert predict_files("threshold", [tmp_path / "a.png"], tmp_path / "out") == {}
        return np.asarray(Image.open(tmp_path / "out" / "a.png"))

    return predict


@pytest.mark.parametrize("size", [(70, 50), (64, 33), (31, 96), (64, 96)])
def test_the_padding_is_cut_off(predict, size):
    is_bright = np.random.default_rng(0).random((size[1], size[0])) > 0.5
    image = Image.fromarray(np.where(is_bright, 255, 0).astype(np.uint8)).convert("RGB")
    for processor in (DPTImageProcessor(**PADDING), SegformerImageProcessor(do_resize=False)):
        assert (predict(image, processor) == is_bright).all()


def test_a_resized_and_padded_image_is_enlarged_to_its_place(predict):
    image = Image.new("RGB", (120, 80))
    image.paste("white", (0, 0, 60, 80))
    processor = DPTImageProcessor(size={"height": 40, "width": 60}, do_pad=True, size_divisor=64)
    ids = predict(image, processor)
    assert (ids[:, :57] == 1).all()
    assert (ids[:, 63:] == 0).all()


def test_the_place_is_found_and_without_padding_it_is_all():
    image = Image.new("RGB", (70, 50))
    assert find_image(DPTImageProcessor(**PADDING), image, (64, 96)) == Box(7, 13, 50, 70)
    assert find_image(SegformerImageProcessor(), image, (512, 512)) == Box(0, 0, 512, 512)
    assert Box(7, 13, 50, 70).enlarged((64, 96), (100, 140)) == ((128, 192), (slice(14, 114), slice(26, 166)))
