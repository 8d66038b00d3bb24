from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cmdl_hf.explore.roles import ROLE_FIGURES, make_copy, measure_roles

K, M, GRID = 2, 3, (4, 6)


class Network:
    """A stand-in whose similarities depend on the brightness of a cell, or on its column."""

    def __init__(self, uses_position=False):
        self.uses_position = uses_position
        self.config = SimpleNamespace(num_distributions=M, voting_temperature=0.1, voting="class")

    def __call__(self, image, name):
        cells = torch.from_numpy(np.array(image.convert("L").resize(GRID[::-1], Image.Resampling.BOX))).float() / 255
        if self.uses_position:
            cells = torch.arange(GRID[1]).expand(GRID) / GRID[1]
        similarity = torch.stack([-(cells - m / (M - 1)).abs() for m in range(M)], dim=-1)
        similarity = similarity.flatten(0, 1)[:, None].expand(-1, K, -1)
        logits = torch.zeros(1, K, *GRID)
        return SimpleNamespace(
            logits=logits, coarse_logits=logits, similarity=similarity, distribution_ids=torch.zeros(1, *GRID)
        )


def make_images(count=4):
    generator = torch.Generator().manual_seed(0)
    images = []
    for index in range(count):
        cells = (torch.rand(GRID, generator=generator) > 0.5).byte() * 200
        image = Image.fromarray(cells.numpy()).resize((60, 40), Image.Resampling.NEAREST).convert("RGB")
        labels = (cells > 0).long().flatten()  # the class is the brightness
        images.append((f"image {index}", image, lambda grid, labels=labels: labels))
    return images


def test_the_distribution_of_a_pixel_is_found_again_in_the_copy():
    network = Network()
    figures = measure_roles(network, network, make_images(), K)
    assert set(figures) == set(ROLE_FIGURES)
    assert figures["agreement"] == 1
    assert measure_roles(Network(uses_position=True), network, make_images(), K)["agreement"] < 0.5


def test_distributions_that_tell_the_class_help_the_probe():
    figures = measure_roles(Network(), Network(), make_images(), K)
    assert figures["probe_gain"] > 0.5  # the coarse logits are equal, the brightness is the class
    assert figures["permutation_effect"] is None
    assert measure_roles(Network(), Network(), make_images(1), K)["probe_gain"] is None


def test_images_without_labels_have_no_figures():
    void = [(name, image, lambda grid: torch.full((24,), 255)) for name, image, _ in make_images()]
    assert measure_roles(Network(), Network(), void, K) == dict.fromkeys(ROLE_FIGURES)


def test_permuted_votes_change_the_scores_and_leave_no_trace(make_model):
    fields = {"voting": "posterior", "voting_temperature": 0.01, "layer_scale_init_value": None}
    model = make_model(num_labels=K, num_distributions=M, **fields).eval()
    model.memory_bank.prototypes.normal_().mul_(30)  # votes that the prediction depends on
    pixel_values = torch.randn(1, 3, 64, 64)

    def network(image, name):
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 64
        return model(pixel_values=values, output_distributions=True)

    def images():
        generator = torch.Generator().manual_seed(0)
        for index in range(3):
            photo = Image.fromarray(torch.randint(0, 255, (64, 64, 3), generator=generator, dtype=torch.uint8).numpy())
            yield f"{index}", photo, lambda grid: torch.arange(grid[0] * grid[1]) % K

    with torch.no_grad():  # predictions of both classes
        logits = torch.cat([network(image, "").logits for _, image, _ in images()])
        model.decode_head[-1].bias -= logits.mean(dim=(0, 2, 3))
    before = model(pixel_values=pixel_values).logits
    figures = measure_roles(network, model, list(images()), K)
    assert figures["permutation_effect"] not in (None, 0)
    assert torch.equal(model(pixel_values=pixel_values).logits, before)


def test_a_copy_is_mirrored_paler_and_brighter():
    image = Image.new("RGB", (2, 1), (100, 0, 0))
    image.putpixel((0, 0), (0, 0, 200))
    copy = make_copy(image)
    assert copy.getpixel((1, 0))[2] == max(copy.getpixel((1, 0)))
    assert copy.getpixel((0, 0)) == pytest.approx((91, 11, 11), abs=3)
