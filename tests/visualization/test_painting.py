import numpy as np
import pytest
import torch
from PIL import Image

from cmdl_hf.visualization import (
    VOID_COLOR,
    colorize,
    distribution_shades,
    overlay,
    paint_distributions,
    paint_values,
    value_colors,
)

PALETTE = [[255, 0, 0], [0, 128, 0], [0, 0, 255]]
IDS = np.array([[0, 1, 2, 255], [2, 2, 255, 0]], dtype=np.uint8)


@pytest.mark.parametrize("as_type", [np.asarray, torch.from_numpy, Image.fromarray, lambda ids: ids.astype(np.int64)])
def test_colorize_paints_every_id_in_its_colour(as_type):
    picture = colorize(as_type(IDS.copy()), PALETTE)
    assert picture.mode == "RGB"
    expected = [[PALETTE[0], PALETTE[1], PALETTE[2], VOID_COLOR], [PALETTE[2], PALETTE[2], VOID_COLOR, PALETTE[0]]]
    assert np.array_equal(np.asarray(picture), expected)


def test_colorize_refuses_ids_without_a_colour():
    with pytest.raises(ValueError, match=r"0\.\.1, as the palette has 2 colours, .*found 2;"):
        colorize(IDS, PALETTE[:2])
    with pytest.raises(ValueError, match="found -100"):
        colorize(np.array([[0, -100]]), PALETTE)
    assert colorize(np.array([[0, -100]]), PALETTE, ignore_index=-100).getpixel((1, 0)) == VOID_COLOR


@pytest.mark.parametrize("ids", [np.zeros((1, 2, 2), dtype=int), np.zeros((2, 2)), torch.zeros(2, 3, 2, 2)])
def test_scores_and_batches_are_refused(ids):
    with pytest.raises(ValueError, match=r"integer class ids of shape \(H, W\).*argmax"):
        colorize(ids, PALETTE)


def test_overlay_blends_classes_and_leaves_void_alone():
    image = Image.new("L", (4, 2), 100)
    assert np.array_equal(np.asarray(overlay(image, IDS, PALETTE, 0.0)), np.full((2, 4, 3), 100))
    assert np.array_equal(
        np.asarray(overlay(image, IDS, PALETTE, 1.0))[IDS != 255], np.asarray(colorize(IDS, PALETTE))[IDS != 255]
    )
    half = np.asarray(overlay(image, IDS, PALETTE, 0.5)).astype(int)
    assert half[0, 0] == pytest.approx([178, 50, 50], abs=1)
    assert half[0, 3].tolist() == [100, 100, 100]


def test_overlay_refuses_other_sizes_and_opacities():
    with pytest.raises(ValueError, match=r"one size, found \(4, 2\) and \(2, 4\)"):
        overlay(Image.new("RGB", (2, 4)), IDS, PALETTE)
    with pytest.raises(ValueError, match="opacity"):
        overlay(Image.new("RGB", (4, 2)), IDS, PALETTE, opacity=50)


def test_paint_distributions_takes_a_coarser_grid_and_draws_the_borders_of_classes():
    prediction = np.array([[0, 0, 1, 1], [0, 0, 1, 255]])
    painted = np.asarray(paint_distributions(prediction, np.array([[1, 0]]), PALETTE, 2))
    assert painted[:, 0].tolist() == [distribution_shades(PALETTE[0], 2)[1]] * 2
    assert painted[0, 3].tolist() == distribution_shades(PALETTE[1], 2)[0]
    assert (painted[:, 2] == VOID_COLOR).all()  # the border
    assert (painted[1, 3] == VOID_COLOR).all()  # no class


def test_paint_values_spans_its_colours_from_low_to_high():
    painted = np.asarray(paint_values(torch.tensor([[-5.0, 0.0, 1.0, 2.0, 9.0]]), 0.0, 2.0))
    colors = value_colors(256)
    assert painted[0].tolist() == [colors[0], colors[0], colors[128], colors[255], colors[255]]
    luminance = np.array(value_colors(5)).sum(axis=1)
    assert (np.diff(luminance) > 0).all()
