import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cmdl_hf.visualization import VOID_COLOR, default_palette, distribution_shades, draw_prediction, figure

PALETTE = [[255, 0, 0], [0, 128, 0], [0, 0, 255]]
ID2LABEL = {0: "sky", 1: "a road, the name of which is very long", 2: "caché $x$"}


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


@pytest.mark.parametrize("size", [pytest.param((1, 1), marks=pytest.mark.slow), (3, 400), (400, 3)])
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
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        draw_prediction(**prediction, path=tmp_path / "figure.png")


def test_figures_leave_no_global_state(prediction, tmp_path):
    draw_prediction(**prediction, path=tmp_path / "figure.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(("count", "num_shown"), [(40, 40), (41, 39), (300, 39)])
def test_of_many_classes_the_largest_are_listed_and_the_others_counted(tmp_path, monkeypatch, count, num_shown):
    ids = np.repeat(np.arange(count), np.arange(count) + 1)[None]
    rows = []
    monkeypatch.setattr(figure, "_draw_legend", lambda axes, shown: rows.extend(shown))
    names, palette = {i: f"class {i}" for i in range(count)}, default_palette(count)
    draw_prediction(Image.new("RGB", ids.shape[::-1]), None, ids, None, names, palette, tmp_path / "figure.png")
    assert [row.name for row in rows[1 : 1 + num_shown]] == [f"class {i}" for i in range(count - num_shown, count)]
    assert [row.name for row in rows[1 + num_shown :]] == ([f"and {count - num_shown} more"] if count > 40 else [])
    assert colors_of(tmp_path / "figure.png")[0][0] < 1200
