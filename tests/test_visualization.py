import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cmdl_hf.visualization import (
    VOID_COLOR,
    colorize,
    default_palette,
    distribution_shades,
    draw_prediction,
    overlay,
    paint_distributions,
    paint_values,
    value_colors,
)

PALETTE = [[255, 0, 0], [0, 128, 0], [0, 0, 255]]
IDS = np.array([[0, 1, 2, 255], [2, 2, 255, 0]], dtype=np.uint8)
ID2LABEL = {0: "sky", 1: "a road, the name of which is very long", 2: "caché $x$"}


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


@pytest.mark.parametrize("num_labels", [0, 1, 19, 171, 1000, 3000])
def test_default_palette_is_distinct_and_deterministic(num_labels):
    palette = default_palette(num_labels)
    assert len({tuple(color) for color in palette}) == len(palette) == num_labels
    assert palette == default_palette(num_labels)
    assert all(type(channel) is int and 0 <= channel <= 255 for color in palette for channel in color)


def test_default_palette_begins_alike_and_is_far_apart():
    palette = np.array(default_palette(30))
    assert default_palette(8) == palette[:8].tolist()
    colors = np.vstack([palette, VOID_COLOR, (255, 255, 255)])
    distances = np.abs(colors[:, None] - colors[None]).max(axis=-1)
    assert distances[~np.eye(len(colors), dtype=bool)].min() > 30


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (64, 0, 128)])
@pytest.mark.parametrize("num_distributions", [1, 2, 9, 20])
def test_every_distribution_has_its_own_shade_from_dark_to_light(color, num_distributions):
    shades = distribution_shades(color, num_distributions)
    assert len(shades) == num_distributions
    brightness = [sum(shade) for shade in shades]
    assert brightness == sorted(set(brightness))


@pytest.fixture
def prediction():
    pytest.importorskip("matplotlib")
    ids = np.arange(6 * 8).reshape(6, 8) // 16
    label = ids.copy()
    label[0] = 255
    return {
        "image": Image.new("RGB", (8, 6), (90, 60, 30)),
        "label": label,
        "prediction": torch.from_numpy(ids),
        "distribution_ids": torch.arange(12).reshape(3, 4) % 4,
        "id2label": ID2LABEL,
        "palette": PALETTE,
    }


def colors_of(path):
    picture = np.asarray(Image.open(path).convert("RGB"))
    return picture.shape[:2], {tuple(color) for color in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def test_draw_prediction_shows_classes_void_and_distributions(prediction, tmp_path):
    path = tmp_path / "figure.png"
    draw_prediction(**prediction, path=path, per_class_iou=[0.5, float("nan"), 1.0], num_distributions=4)
    (_, width), colors = colors_of(path)
    assert width == 1600
    assert {tuple(color) for color in (*PALETTE, VOID_COLOR, (90, 60, 30))} <= colors
    for color in PALETTE:
        assert {tuple(shade) for shade in distribution_shades(color, 4)} <= colors


def test_draw_prediction_does_without_truth_and_distributions(prediction, tmp_path):
    full, bare = tmp_path / "full.png", tmp_path / "bare.png"
    draw_prediction(**prediction, path=full)
    draw_prediction(**prediction | {"label": None, "distribution_ids": None}, path=bare)
    assert colors_of(bare)[0][0] < colors_of(full)[0][0]


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3)])
def test_draw_prediction_takes_any_size(size, prediction, tmp_path):
    ids = np.zeros(size[::-1], dtype=int)
    pictures = {"image": Image.new("CMYK", size), "label": ids, "prediction": ids, "distribution_ids": ids[:1, :1]}
    draw_prediction(**prediction | pictures, path=tmp_path / "figure.png")
    height, width = colors_of(tmp_path / "figure.png")[0]
    assert width == 1600
    assert height < 2000


def test_legend_texts_stay_apart_and_inside(prediction, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args)))
    wide = {
        "palette": default_palette(40),
        "id2label": {i: f"{'W' * i} class {i}" for i in range(40)},
        "prediction": np.arange(48).reshape(6, 8) % 40,
        "label": None,
    }
    draw_prediction(**prediction | wide, path=tmp_path / "figure.png", per_class_iou=[0.5] * 40)
    (figure,) = figures
    boxes = [text.get_window_extent() for axes in figure.axes for text in (*axes.texts, axes.title) if text.get_text()]
    boxes += [axes._left_title.get_window_extent() for axes in figure.axes if axes._left_title.get_text()]
    assert len(boxes) > 80
    for index, box in enumerate(boxes):
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_draw_prediction_refuses_what_does_not_fit(prediction, tmp_path):
    path = tmp_path / "figure.png"
    with pytest.raises(ValueError, match=r"distribution_ids must lie in 0\.\.1, found 0 to 3"):
        draw_prediction(**prediction, path=path, num_distributions=2)
    with pytest.raises(ValueError, match="image and prediction must have one size"):
        draw_prediction(**prediction | {"prediction": np.zeros((3, 4), dtype=int)}, path=path)
    with pytest.raises(ValueError, match="image and label must have one size"):
        draw_prediction(**prediction | {"label": np.zeros((3, 4), dtype=int)}, path=path)
    assert not path.exists()


def test_missing_matplotlib_names_the_extra(prediction, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'cmdl_hf\[plot\]'"):
        draw_prediction(**prediction, path=tmp_path / "figure.png")


def test_figures_leave_no_global_state(prediction, tmp_path):
    draw_prediction(**prediction, path=tmp_path / "figure.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


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
