import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional._color import _hsv_to_rgb, _rgb_to_hsv

from cmdl_hf.data.photometric import PhotometricDistortion, scale_saturation_, shift_hue_


@pytest.mark.parametrize("hue", [-1 / 6, -0.1, -0.01, 0.0, 0.05, 0.1, 1 / 6])
def test_hue_shift_equals_the_way_through_hsv(hue):
    image = colour_cube()
    torch.testing.assert_close(shift_hue_(image.clone(), hue), F.adjust_hue(image, hue), atol=1e-5, rtol=0)


@pytest.mark.parametrize("saturation", [0.0, 0.5, 0.9, 1.0, 1.2, 1.5, 4.0])
def test_saturation_equals_the_way_through_hsv(saturation):
    image = colour_cube()
    hue, saturations, value = _rgb_to_hsv(image)
    expected = _hsv_to_rgb(torch.stack((hue, (saturations * saturation).clamp(0, 1), value)))
    torch.testing.assert_close(scale_saturation_(image.clone(), saturation), expected, atol=1e-5, rtol=0)


def colour_cube():
    """All colours of a 16³ grid, with black, white, grey and every tie between channels."""
    steps = torch.linspace(0, 1, 16)
    return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).flatten(2)


def distort_as_the_original(image, brightness, contrast, saturation, hue, is_contrast_first):
    """Distort step by step as mmsegmentation's PhotoMetricDistortion does, with the roundings of 8 bits left out."""
    image = (image + brightness).clamp(0, 1)
    if is_contrast_first:
        image = (image * contrast).clamp(0, 1)
    h, s, v = _rgb_to_hsv(image)
    image = F.adjust_hue(_hsv_to_rgb(torch.stack((h, (s * saturation).clamp(0, 1), v))), hue)
    return image if is_contrast_first else (image * contrast).clamp(0, 1)


def test_photometric_distortion_takes_the_steps_of_the_original():
    transform = PhotometricDistortion()
    image = tv_tensors.Image(torch.randint(256, (3, 70, 50), dtype=torch.uint8))  # more than one strip of rows
    before = image.clone()
    drawn = []
    for seed in range(24):
        torch.manual_seed(seed)
        drawn.append(transform.make_params([image]))
        found = transform.transform(image, drawn[-1])
        assert found.dtype == torch.float32
        expected = distort_as_the_original(image.as_subclass(torch.Tensor) / 255, **drawn[-1])
        torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, atol=1e-5, rtol=0)
    assert torch.equal(image, before)
    for name, neutral in (("brightness", 0), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        num_neutral = sum(draw[name] == neutral for draw in drawn)
        assert 5 <= num_neutral <= 19, name
    assert {draw["is_contrast_first"] for draw in drawn} == {True, False}


def test_photometric_distortion_stays_in_its_ranges_and_leaves_labels_alone():
    transform = PhotometricDistortion()
    draws = [transform.make_params([]) for _ in range(500)]
    for name, low, high in (
        ("brightness", -32 / 255, 32 / 255),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -0.1, 0.1),
    ):
        values = [draw[name] for draw in draws]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    mask = tv_tensors.Mask(torch.zeros(4, 4, dtype=torch.uint8))
    assert transform(mask) is mask


def test_floats_are_taken_as_they_are():
    transform = PhotometricDistortion(0.0, (1.0, 1.0), (1.0, 1.0), 0.0)
    image = tv_tensors.Image(torch.rand(3, 5, 7))
    assert torch.equal(transform(image), image)
    assert transform(image) is not image


def test_a_hue_beyond_a_sixth_of_the_turn_is_refused():
    with pytest.raises(ValueError, match="hue must lie"):
        PhotometricDistortion(hue=0.2)
