"""How training images are varied, by ours and by transforms of others."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from cmdl_hf import register_transform
from cmdl_hf.data import Augmentation, TrainTransform, augmentation
from cmdl_hf.data.augmentation import RandomFlip

VOID = 255
LABEL = np.arange(48, dtype=np.uint8).reshape(6, 8)  # every pixel is a class of its own


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    registry = type(augmentation.TRANSFORMS)("transform")
    for name, make in augmentation.TRANSFORMS.items():
        registry.register(name, make)
    monkeypatch.setattr(augmentation, "TRANSFORMS", registry)
    monkeypatch.setattr("cmdl_hf.data.transforms.TRANSFORMS", registry)


def vary(count=60, label=LABEL, crop_size=(6, 8), **options):
    """Transform one sample many times; returns images (n, 3, H, W) in [0, 1] times 255 and labels (n, H, W)."""
    image = Image.fromarray(np.repeat(label[..., None], 3, axis=2))  # an image that shows its labels
    transform = TrainTransform(crop_size, (1.0, 1.0), max_class_share=1.0, **options)
    out = transform({"image": [image] * count, "label": [Image.fromarray(label)] * count})
    pixels = torch.stack(out["pixel_values"]) * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (pixels + torch.tensor([0.485, 0.456, 0.406])[:, None, None]) * 255, torch.stack(out["labels"])


def count_of(labels, expected):
    return int((labels == torch.from_numpy(np.ascontiguousarray(expected)).long()).all(dim=(1, 2)).sum())


def test_flips_are_as_asked_for_and_images_go_along():
    every = {"as it is": LABEL, "mirrored": LABEL[:, ::-1], "upside down": LABEL[::-1], "both": LABEL[::-1, ::-1]}
    cases = {
        (True, False): ["as it is", "mirrored"],
        (False, False): ["as it is"],
        (False, True): ["as it is", "upside down"],
        (True, True): list(every),
    }
    for (use_flip, use_vertical_flip), expected in cases.items():
        images, labels = vary(use_flip=use_flip, use_vertical_flip=use_vertical_flip, color_strength=0.0)
        counts = {name: count_of(labels, label) for name, label in every.items()}
        assert [name for name, count in counts.items() if count > 5] == expected
        assert sum(counts.values()) == 60
        torch.testing.assert_close(images[:, 0], labels.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [{}, {"use_flip": False, "use_vertical_flip": True}])
def test_a_mirror_swaps_the_classes_that_it_has_to(options):
    label = np.array([[1, 2, 3, VOID]] * 4, dtype=np.uint8)
    label[0] = 4
    _, labels = vary(label=label, crop_size=(4, 4), swapped_classes=[(1, 2), (4, 0)], **options)
    mirrored = label[::-1] if options else label[:, ::-1]
    swapped = np.select([mirrored == 1, mirrored == 2, mirrored == 4], [2, 1, 0], mirrored.astype(int))
    assert 15 < count_of(labels, label) < 45
    assert count_of(labels, label) + count_of(labels, swapped) == 60


def test_what_turns_in_from_outside_is_void_and_black():
    label = np.full((32, 32), 200, dtype=np.uint8)
    images, labels = vary(20, label, (32, 32), rotation=45, color_strength=0.0)
    assert set(labels.unique().tolist()) == {200, VOID}
    assert (labels == VOID).float().mean() > 0.03
    is_far_outside = erode(labels == VOID)
    assert is_far_outside.any()
    assert images[:, 0][is_far_outside].abs().max() < 1e-3
    is_far_inside = erode(labels == 200)
    torch.testing.assert_close(images[:, 0][is_far_inside], torch.full_like(images[:, 0][is_far_inside], 200.0))
    assert vary(20, label, (32, 32), rotation=0)[1].unique().tolist() == [200]


def erode(mask):
    """Pixels (n, H, W) all of whose neighbours are in the mask, and in the picture."""
    around = torch.nn.functional.pad((~mask).float()[:, None], (1, 1, 1, 1), value=1.0)
    return torch.nn.functional.max_pool2d(around, 3, 1)[:, 0] == 0


def test_colours_change_as_far_as_asked_for():
    label = np.full((8, 8), 100, dtype=np.uint8)
    spreads = [vary(80, label, (8, 8), color_strength=strength)[0].std() for strength in (0.0, 0.5, 1.0, 5 / 3)]
    assert spreads[0] < 1e-4
    assert spreads[0] < spreads[1] < spreads[2] < spreads[3]


def test_the_usual_strength_is_the_papers():
    transform = augmentation.make_papers_transform(Augmentation(crop_size=(8, 8)))
    scale_crop, flip, distortion = transform.transforms
    assert (scale_crop.scale_range, flip.is_vertical, flip.swapped_classes) == ((0.5, 2.0), False, ())
    assert (distortion.brightness, distortion.contrast, distortion.saturation, distortion.hue) == (
        32 / 255,
        (0.5, 1.5),
        (0.5, 1.5),
        0.1,
    )


def test_the_flip_draws_what_torchvisions_draws():
    image = tv_tensors.Image(torch.arange(6, dtype=torch.uint8).view(1, 2, 3))
    for seed in range(8):
        torch.manual_seed(seed)
        expected = v2.RandomHorizontalFlip()(image)
        torch.manual_seed(seed)
        assert torch.equal(RandomFlip()(image), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": 181}, r"rotation must lie in \[0, 180\] degrees, found 181"),
        ({"color_strength": 2}, r"color_strength must lie in \[0, 5/3\], found 2"),
        ({"swapped_classes": [(1, 2), (2, 3)]}, r"no class occurs twice, found \[\(1, 2\), \(2, 3\)\]"),
        ({"swapped_classes": [(1, 255)]}, "swapped_classes must be pairs of class ids"),
        ({"swapped_classes": [(1, 2)], "use_flip": False}, "swapped_classes needs a flip"),
        ({"name": "newspapers"}, "no transform 'newspapers'; known are papers"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform((4, 4), **options)


@pytest.mark.parametrize("kind", ["PIL image", "uint8", "float"])
def test_a_transform_of_others_stands_in_place_of_ours(kind):
    def make(augmentation):
        def transform(image, mask):
            cut = v2.functional.crop(mask, 0, 0, 3, augmentation.crop_size[1])
            image = v2.functional.crop(image, 0, 0, 3, augmentation.crop_size[1])
            if kind != "PIL image":
                image = v2.functional.to_dtype(
                    v2.functional.to_image(image), torch.uint8 if kind == "uint8" else torch.float32, scale=True
                )
            return image, cut

        return transform

    register_transform("top", make)
    images, labels = vary(2, crop_size=(5, 4), name="top")
    assert labels.shape == (2, 5, 4)
    assert torch.equal(labels[0, :3], torch.from_numpy(LABEL[:3, :4]).long())
    assert (labels[0, 3:] == VOID).all()
    torch.testing.assert_close(images[:, 0, :3], labels[:, :3].float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(7, 8), (6, 9)])
def test_a_transform_that_gives_more_than_the_crop_is_named(size):
    register_transform("large", lambda _: v2.Resize(size))
    with pytest.raises(ValueError, match=r"transform 'large' must return .* at most the crop_size \(6, 8\), found"):
        vary(1, name="large")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="there is already a transform 'papers'"):
        register_transform("papers", lambda _: v2.Identity())
