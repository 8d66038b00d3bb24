import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cmdl_hf import make_image_processor
from cmdl_hf.data import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform
from cmdl_hf.data.scale_crop import RandomScaleCrop
from cmdl_hf.data.transforms import PadTo

VOID = 255
H, W = 101, 151  # odd, so that no pixel centre falls between two source pixels
MEAN = torch.tensor(IMAGENET_MEAN)[:, None, None]
STD = torch.tensor(IMAGENET_STD)[:, None, None]


def make_sample(height=H, width=W, num_labels=6, cell=12, seed=0):
    """Draw a smooth image and labels in blocks of `cell` pixels, some of them void."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    ids = rng.integers(0, num_labels + 1, coarse.shape[:2], dtype=np.uint8)
    ids[ids == num_labels] = VOID
    label = Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST)
    return image, label


def as_batch(*pairs):
    images, labels = zip(*pairs, strict=True)
    return {"image": list(images), "label": list(labels), "id": [f"sample{i}" for i in range(len(pairs))]}


def as_mask(label):
    return tv_tensors.Mask(F.pil_to_tensor(label)[0])


def resize_whole_then_crop(image, mask, size, box):
    """Go the straightforward way, with torchvision's own kernels."""
    image = F.resize(image, size, interpolation=InterpolationMode.BILINEAR)
    mask = F.resize(mask[None], size, interpolation=InterpolationMode.NEAREST_EXACT)[0]
    return F.pil_to_tensor(F.crop(image, *box)), F.crop(mask, *box)


@pytest.mark.parametrize("seed", range(12))
def test_choosing_the_crop_first_gives_what_resizing_the_whole_gives(seed):
    torch.manual_seed(seed)
    image, label = make_sample(seed=seed)
    mask = as_mask(label)
    transform = RandomScaleCrop(crop_size=(64, 80))
    params = transform.make_params([image, mask])
    found_image, found_mask = transform.transform(image, params), transform.transform(mask, params)
    expected_image, expected_mask = resize_whole_then_crop(image, mask, **params)
    assert torch.equal(found_mask, expected_mask)
    assert isinstance(found_image, tv_tensors.Image)
    assert isinstance(found_mask, tv_tensors.Mask)
    assert (found_image.int() - expected_image.int()).abs().max() <= 1


def test_scales_and_crops_are_drawn_uniformly():
    torch.manual_seed(0)
    mask = as_mask(make_sample()[1])
    transform = RandomScaleCrop(crop_size=(64, 80), max_class_share=1.0)
    draws = [transform.make_params([mask]) for _ in range(3000)]
    scales = torch.tensor([draw["size"][0] / H for draw in draws])
    tops = torch.tensor([draw["box"][0] / (draw["size"][0] - 64) for draw in draws if draw["size"][0] > 100])
    lefts = torch.tensor([draw["box"][1] / (draw["size"][1] - 80) for draw in draws if draw["size"][1] > 140])
    for values, low, high in ((scales, 0.5, 2.0), (tops, 0.0, 1.0), (lefts, 0.0, 1.0)):
        assert values.min() >= low - 0.01
        assert values.max() <= high + 0.01
        quartiles = values.quantile(torch.tensor([0.25, 0.5, 0.75]))
        assert quartiles == pytest.approx(np.linspace(low, high, 5)[1:4], abs=0.05 * (high - low))


@pytest.mark.parametrize(
    ("resize", "height", "width", "expected"),
    [(None, 360, 480, (360, 480)), ((512, 2048), 256, 384, (512, 768)), ((512, 2048), 100, 1000, (205, 2048))],
)
def test_resize_bounds_both_edges(resize, height, width, expected):
    mask = tv_tensors.Mask(torch.zeros(height, width, dtype=torch.uint8))
    transform = RandomScaleCrop((8, 8), scale_range=(1.0, 1.0), resize=resize)
    assert transform.make_params([mask])["size"] == expected


def dominated_label():
    """Left three quarters class 0, right quarter in stripes of classes 1 and 2; the top half void."""
    ids = np.zeros((80, 160), dtype=np.uint8)
    ids[:, 120:] = 1 + np.arange(80)[:, None] % 2
    ids[:40] = VOID
    return tv_tensors.Mask(torch.from_numpy(ids))


def test_no_class_has_more_than_its_share_of_the_crop():
    mask = dominated_label()
    transform = RandomScaleCrop((40, 40), scale_range=(1.0, 1.0), num_tries=1000)
    for seed in range(20):
        torch.manual_seed(seed)
        crop = transform.transform(mask, transform.make_params([mask]))
        counts = torch.bincount(crop[crop != VOID])
        assert counts.max() < 0.75 * counts.sum()


def test_the_last_try_is_taken_as_it_comes():
    mask = tv_tensors.Mask(torch.zeros(80, 160, dtype=torch.uint8))
    seen = []

    class Recording(RandomScaleCrop):
        def _is_mixed(self, label):
            seen.append(label.shape)
            return super()._is_mixed(label)

    Recording((40, 40), scale_range=(1.0, 1.0)).make_params([mask])
    assert seen == [(40, 40)] * 10


def test_labels_are_never_interpolated_and_the_flip_is_joint():
    _, label = make_sample()
    ids = set(np.unique(np.asarray(label)).tolist())
    rgb = Image.fromarray(np.repeat(np.asarray(label)[..., None], 3, axis=2))  # an image that shows its labels
    transform = TrainTransform((90, 70), scale_range=(1.0, 1.0), color_strength=0.0)
    for seed in range(8):
        torch.manual_seed(seed)
        out = transform(as_batch((rgb, label)))
        assert set(out["labels"][0].unique().tolist()) <= ids
        pixels = (out["pixel_values"][0] * STD + MEAN) * 255
        torch.testing.assert_close(pixels[0], out["labels"][0].float(), atol=1e-3, rtol=0)


def test_half_of_the_samples_are_flipped():
    image, label = make_sample()
    transform = TrainTransform((H, W), scale_range=(1.0, 1.0))
    torch.manual_seed(0)
    labels = torch.stack(transform(as_batch(*[(image, label)] * 60))["labels"])
    original = as_mask(label).long()
    is_flipped = (labels == original.flip(1)).all(dim=(1, 2))
    assert (is_flipped ^ (labels == original).all(dim=(1, 2))).all()
    assert 18 <= is_flipped.sum() <= 42


@pytest.mark.parametrize("crop_size", [(64, 80), (120, 200), (64, 200)])
def test_outputs_have_the_crop_size_and_padding_is_zero_and_void(crop_size):
    image, label = make_sample()
    transform = TrainTransform(crop_size, scale_range=(0.6, 0.6))
    out = transform(as_batch((image, label), (image, label)))
    assert out.keys() == {"pixel_values", "labels"}
    height, width = min(crop_size[0], round(0.6 * H)), min(crop_size[1], round(0.6 * W))
    for pixel_values, labels in zip(out["pixel_values"], out["labels"], strict=True):
        assert (type(pixel_values), type(labels)) == (torch.Tensor, torch.Tensor)
        assert (pixel_values.shape, pixel_values.dtype) == ((3, *crop_size), torch.float32)
        assert (labels.shape, labels.dtype) == (crop_size, torch.int64)
        is_padding = torch.ones(crop_size, dtype=torch.bool)
        is_padding[:height, :width] = False
        assert (pixel_values[:, is_padding] == 0).all()
        assert (labels[is_padding] == VOID).all()
        assert (labels[:height, :width] != VOID).any()


def test_larger_inputs_are_not_padded():
    mask = tv_tensors.Mask(torch.zeros(9, 7, dtype=torch.uint8))
    assert PadTo((5, 5))(mask) is mask


def test_evaluation_keeps_the_labels_and_only_resizes_the_image():
    image, label = make_sample()
    for resize, size in ((None, (H, W)), ((50, 1000), (50, 74))):
        out = EvalTransform(resize)(as_batch((image, label)))
        assert out["pixel_values"][0].shape == (3, *size)
        assert torch.equal(out["labels"][0], as_mask(label).long())
        assert (type(out["labels"][0]), type(out["pixel_values"][0])) == (torch.Tensor, torch.Tensor)
    pixels = EvalTransform()(as_batch((image, label)))["pixel_values"][0] * STD + MEAN
    torch.testing.assert_close(pixels, F.pil_to_tensor(image) / 255)


@pytest.mark.parametrize("seed", range(20))
def test_images_get_the_size_that_the_image_processor_of_a_saved_model_gives_them(seed):
    rng = np.random.default_rng(seed)
    height, width = (480, 360) if seed == 0 else rng.integers(20, 400, 2).tolist()
    shortest_edge = 512 if seed == 0 else int(rng.integers(20, 200))
    longest_edge = 4 * shortest_edge if seed == 0 else int(shortest_edge * rng.uniform(1, 4))
    image = Image.new("RGB", (width, height))
    processor = make_image_processor({"shortest_edge": shortest_edge, "longest_edge": longest_edge})
    expected = processor(image, return_tensors="pt").pixel_values.shape[2:]
    (found,) = EvalTransform((shortest_edge, longest_edge))(as_batch((image, None)))["pixel_values"]
    assert found.shape[1:] == expected


def test_withheld_labels_are_left_out_of_evaluation_and_refused_in_training():
    image, _ = make_sample()
    batch = as_batch((image, None), (image, None))
    out = EvalTransform()(batch)
    assert out.keys() == {"pixel_values"}
    assert len(out["pixel_values"]) == 2
    with pytest.raises(ValueError, match="needs a label, found none in sample sample0"):
        TrainTransform((32, 32))(batch)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1", "LA"])
def test_every_kind_of_image_becomes_rgb(mode):
    image, label = make_sample()
    image = image.convert(mode)
    batch = as_batch((image, label))
    assert TrainTransform((32, 48))(batch)["pixel_values"][0].shape == (3, 32, 48)
    pixels = EvalTransform()(batch)["pixel_values"][0] * STD + MEAN
    torch.testing.assert_close(pixels, F.pil_to_tensor(image.convert("RGB")) / 255)


def test_palette_labels_keep_their_ids():
    image, label = make_sample()
    palette_label = Image.frombytes("P", label.size, label.tobytes())
    palette_label.putpalette([7] * 768)
    assert torch.equal(EvalTransform()(as_batch((image, palette_label)))["labels"][0], as_mask(label).long())


@pytest.mark.parametrize(
    ("image_mode", "label_mode", "label_size", "message"),
    [
        ("RGB", "RGB", (W, H), "8-bit images of class ids .*found mode RGB in sample sample0; map colours"),
        ("RGB", "L", (W, H + 1), r"same size, found \(151, 101\) and \(151, 102\)"),
        ("I;16", "L", (W, H), "8 bits per channel, found mode I;16"),
    ],
)
@pytest.mark.parametrize("transform", [TrainTransform((32, 32)), EvalTransform()])
def test_unfit_samples_are_refused_by_name(transform, image_mode, label_mode, label_size, message):
    batch = as_batch((Image.new(image_mode, (W, H)), Image.new(label_mode, label_size)))
    with pytest.raises(ValueError, match=message):
        transform(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": (0, 4)}, "crop_size"),
        ({"scale_range": (2.0, 0.5)}, "scale_range"),
        ({"max_class_share": 0.0}, "max_class_share"),
        ({"ignore_index": -100}, r"0\.\.255"),
        ({"resize": (0, 4)}, r"resize must be .* at least 1, found \(0, 4\)"),
    ],
)
def test_unfit_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**{"crop_size": (4, 4)} | arguments)


def test_edges_that_no_image_has_are_refused_in_evaluation():
    with pytest.raises(ValueError, match=r"found \(-5, 10\)"):
        EvalTransform((-5, 10))


def test_a_pixel_wide_image_survives_the_smallest_scale():
    out = TrainTransform((4, 4))(as_batch((Image.new("RGB", (1, 1)), Image.new("L", (1, 1)))))
    assert out["pixel_values"][0].shape == (3, 4, 4)


def test_seeds_repeat_and_every_worker_and_epoch_differs():
    pair = make_sample(24, 32, cell=3)
    dataset = datasets.Dataset.from_dict(as_batch(*[pair] * 4)).with_transform(TrainTransform((16, 16)))
    loader = DataLoader(dataset, batch_size=1, num_workers=2)

    def two_epochs():
        torch.manual_seed(0)
        return [batch["pixel_values"] for _ in range(2) for batch in loader]

    first = two_epochs()
    assert len({tensor.numpy().tobytes() for tensor in first}) == 8
    assert all(torch.equal(*tensors) for tensors in zip(first, two_epochs(), strict=True))


@pytest.mark.parametrize("transform", [TrainTransform((32, 48)), EvalTransform((40, 400))])
def test_transforms_survive_pickling(transform):
    batch = as_batch(make_sample())
    outputs = []
    for copy in (transform, pickle.loads(pickle.dumps(transform))):
        torch.manual_seed(0)
        outputs.append(copy(batch))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
