"""Large images in blended windows: exact weights, no seams, and little memory."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from large_tensors import LargeTensors
from PIL import Image
from transformers.modeling_outputs import SemanticSegmenterOutput
from varied_models import make_varied

from cmdl_hf import make_image_processor, segment
from cmdl_hf.inference.blending import Axis, BlendedWindows, WindowScores


class _Network(torch.nn.Module):
    """Scores pixels by a function of the normalised images."""

    def __init__(self, config, score):
        super().__init__()
        self.config, self.score, self.weight = config, score, torch.nn.Parameter(torch.ones(1))
        self.shapes = []

    def forward(self, pixel_values):
        self.shapes.append(tuple(pixel_values.shape))
        return SemanticSegmenterOutput(logits=self.score(pixel_values) * self.weight)


@pytest.fixture
def make_network(make_config):
    return lambda score: _Network(make_config(num_labels=2, use_distributions=False), score).eval()


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (13, 17, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((170, 130), Image.Resampling.BICUBIC)


def of_each_pixel(pixel_values):
    brightness = pixel_values.mean(dim=1)
    return torch.stack([-brightness, brightness], dim=1)


def of_surroundings(pixel_values):
    """Darkens towards the edges of a window, where zeros are taken for surroundings."""
    return of_each_pixel(F.avg_pool2d(pixel_values + 3, 9, 1, padding=4) - 3)


def of_the_window(pixel_values):
    """One score for a whole window, as far as a network looks at its context."""
    return of_each_pixel(pixel_values).mean(dim=(2, 3), keepdim=True).expand(-1, -1, *pixel_values.shape[-2:]) * 5


@pytest.mark.parametrize(("length", "window"), [(100, 100), (10, 100), (101, 100), (1000, 64), (7, 1), (333, 50)])
def test_windows_cover_an_edge_and_their_weights_sum_to_one(length, window):
    axis = Axis(length, window)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.extent == length
    assert max(np.diff(axis.starts), default=0) <= max(1, window // 2)
    total = torch.zeros(length)
    for index, start in enumerate(axis.starts):
        total[start : start + axis.extent] += axis.spread(index, 5).sum(dim=1)
    torch.testing.assert_close(total, torch.ones(length))
    owned = [place for part in axis.owned for place in range(part.start, part.stop)]
    assert owned == list(range(length))


def test_one_window_is_the_whole_image(make_model, image):
    model = make_varied(make_model())
    whole, blended = segment(model, image), segment(model, image, window=(500, 500))
    assert (whole.ids != blended.ids).mean() < 1e-3
    np.testing.assert_allclose(whole.confidence, blended.confidence, atol=1e-4)
    assert (whole.distribution_ids != blended.distribution_ids).mean() < 1e-3
    np.testing.assert_allclose(whole.outliers, blended.outliers, atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("window", [(64, 64), (40, 200), (33, 57)])
def test_what_depends_on_pixels_alone_does_not_depend_on_windows(make_network, image, window, turned):
    image = image.rotate(90, expand=True) if turned else image
    network = make_network(of_each_pixel)
    whole = segment(network, image, processor=make_image_processor())
    blended = segment(network, image, processor=make_image_processor(), window=window)
    np.testing.assert_allclose(whole.confidence, blended.confidence, atol=1e-5)
    assert (whole.ids != blended.ids)[whole.confidence > 0.5001].sum() == 0
    assert {shape[-2:] for shape in network.shapes[1:]} == {tuple(np.minimum(window, (image.height, image.width)))}


def test_edges_of_windows_count_little(make_network, image):
    """The error at an edge is as large as the scores; blended, it is within 0.02 of a probability."""
    network, processor = make_network(of_surroundings), make_image_processor()
    whole = segment(network, image, processor=processor).confidence[8:-8, 8:-8]
    blended = segment(network, image, processor=processor, window=(64, 64)).confidence[8:-8, 8:-8]
    assert np.abs(whole - blended).max() < 0.02


def test_the_place_of_the_windows_matters_little(make_network, image):
    """The image without some rows and columns has its windows elsewhere."""
    network, processor = make_network(of_surroundings), make_image_processor()
    first = segment(network, image, processor=processor, window=(48, 48))
    for left, top in [(1, 0), (13, 29), (24, 24)]:
        part = image.crop((left, top, *image.size))
        other = segment(network, part, processor=processor, window=(48, 48))
        inside = np.s_[8:-8, 8:-8]
        difference = np.abs(first.confidence[top:, left:] - other.confidence)[inside]
        assert difference.max() < 0.05
        assert (first.ids[top:, left:] != other.ids)[inside].mean() < 0.01


def test_there_are_no_seams(make_network, image):
    """Where windows disagree as a whole, the probability goes smoothly from one to the other."""
    found = segment(make_network(of_the_window), image, processor=make_image_processor(), window=(64, 64))
    first = np.where(found.ids == 0, found.confidence, 1 - found.confidence)
    assert np.ptp(first) > 0.1
    assert np.abs(np.diff(first, axis=0)).max() < 0.05 * np.ptp(first) + 0.02
    assert np.abs(np.diff(first, axis=1)).max() < 0.05 * np.ptp(first) + 0.02


@pytest.mark.parametrize("size", [(3000, 64), (64, 3000)])
def test_memory_does_not_grow_with_the_longer_edge(size):
    """The ids have 192,000 values, scores at image size 3.8 million; the pieces here 64 rows of 20 classes."""
    blended = BlendedWindows(size, (64, 64))
    rows = ([WindowScores(torch.randn(20, 8, 8)) for _ in row] for row in blended.rows())
    with LargeTensors(200_000) as large:
        maps = blended.blend(rows, with_confidence=False)
    assert maps.ids.shape == size
    assert not large.storages


def test_windows_that_do_not_fit_memory_are_fewer_at_once(make_network, image, caplog):
    def score(pixel_values):
        if len(pixel_values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return of_each_pixel(pixel_values)

    expected = segment(make_network(of_each_pixel), image, processor=make_image_processor(), window=(64, 64))
    found = segment(make_network(score), image, processor=make_image_processor(), window=(64, 64))
    assert np.array_equal(found.ids, expected.ids)
    assert "4 windows do not fit into memory at once; continuing with 2" in caplog.text
    assert "continuing with 1" in caplog.text


def test_a_window_that_does_not_fit_memory_is_told(make_network, image):
    def score(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match=r"the image does not fit into memory; make it smaller, or set smaller wind"):
        segment(make_network(score), image, processor=make_image_processor(), window=(64, 64))
