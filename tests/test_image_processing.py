"""The image processor: images become what they are or are refused, masks stay untouched."""

import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, SegformerImageProcessor

from cmdl_hf import make_image_processor, segment
from cmdl_hf.images import UnfitImageError

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_masks_are_untouched():
    mask = torch.randint(0, 256, (37, 53), dtype=torch.uint8)
    palette_mask = Image.fromarray(mask.numpy()).convert("P")
    palette_mask.putdata(mask.flatten().tolist())
    image = Image.new("RGB", (53, 37))
    for given in (mask, palette_mask):
        batch = make_image_processor()(image, segmentation_maps=given, return_tensors="pt")
        assert batch["labels"].dtype == torch.int64
        assert torch.equal(batch["labels"][0], mask.long())
        assert batch["pixel_values"].shape == (1, 3, 37, 53)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_kind_of_image_becomes_rgb(mode):
    batch = make_image_processor()(Image.new(mode, (8, 6)), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 6, 8)


def test_size_survives_a_round_trip(tmp_path):
    make_image_processor({"height": 20, "width": 30}).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert processor(Image.new("L", (53, 37)), return_tensors="pt")["pixel_values"].shape == (1, 3, 20, 30)


def test_logits_go_once_to_the_original_size(make_model):
    image = Image.new("RGB", (75, 50))
    processor = make_image_processor({"height": 64, "width": 96})
    model = make_model().eval()
    with torch.no_grad():
        output = model(**processor(image, return_tensors="pt"))
    (segmentation,) = processor.post_process_semantic_segmentation(output, target_sizes=[(50, 75)])
    enlarged = torch.nn.functional.interpolate(output.logits, (50, 75), mode="bilinear", align_corners=False)
    assert torch.equal(segmentation, enlarged.argmax(dim=1)[0])


def _open_deep_png():
    """An RGB image of 16 bits a channel, not decoded yet."""
    import struct
    import zlib

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.tobytes() for row in (IMAGE.astype(">u2") * 16))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(content))


UNFIT = {
    "16-bit grey": lambda: Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 16),
    "32-bit grey": lambda: Image.fromarray(IMAGE[..., 0].astype(np.int32) * 256),
    "float grey": lambda: Image.fromarray(IMAGE[..., 0].astype(np.float32) / 255),
    "16-bit RGB": _open_deep_png,
    "uint16": lambda: IMAGE.astype(np.uint16) * 256,
    "int32": lambda: IMAGE.astype(np.int32),
    "negative": lambda: IMAGE.astype(np.int16) - 128,
    "float in 0..1": lambda: IMAGE / 255,
    "float in 0..255": lambda: IMAGE.astype(np.float32),
    "boolean": lambda: IMAGE > 100,
    "tensor in 0..1": lambda: torch.from_numpy(IMAGE).permute(2, 0, 1) / 255,
    "int64 tensor": lambda: torch.from_numpy(IMAGE).permute(2, 0, 1).long(),
    "second of a list": lambda: [Image.fromarray(IMAGE), Image.fromarray(IMAGE[..., 0].astype(np.uint16))],
    "batch": lambda: np.stack([IMAGE / 255] * 2),
}


@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT)
def test_images_that_would_become_others_are_refused(make):
    with pytest.raises(UnfitImageError, match=r"must (have 8-bit channels|be of uint8), found .*; s"):
        make_image_processor()(make(), return_tensors="pt")


@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT)
def test_segment_refuses_them_too(make, make_model):
    with pytest.raises((TypeError, ValueError), match=r"found|tensor"):
        segment(make_model().eval(), make(), processor=make_image_processor())


def test_images_of_bytes_are_one_image_whoever_holds_them():
    tensor = torch.from_numpy(IMAGE)
    expected = (tensor.permute(2, 0, 1) / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    for given in (Image.fromarray(IMAGE), IMAGE, tensor, tensor.permute(2, 0, 1), [IMAGE], IMAGE[None]):
        found = make_image_processor()(given, return_tensors="pt")["pixel_values"]
        assert torch.allclose(found[0], expected, atol=1e-5)
    for given in (IMAGE / 255, tensor.permute(2, 0, 1) / 255):
        found = make_image_processor()(given, do_rescale=False, return_tensors="pt")["pixel_values"]
        assert torch.allclose(found[0].float(), expected, atol=1e-5)


@pytest.mark.parametrize("given", [IMAGE, Image.fromarray(IMAGE), IMAGE / 100, IMAGE / 255 - 0.1], ids=range(4))
def test_unscaled_images_must_be_shares(given):
    with pytest.raises(UnfitImageError, match=r"floats in \[0, 1\], found .*; leave do_rescale out"):
        make_image_processor()(given, do_rescale=False, return_tensors="pt")


def test_a_saved_processor_is_one_of_transformers(tmp_path):
    processor = pickle.loads(pickle.dumps(make_image_processor({"height": 20, "width": 30})))
    processor.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert kept["image_processor_type"] == "SegformerImageProcessor"
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SegformerImageProcessor
    assert loaded.to_dict() == processor.to_dict()
