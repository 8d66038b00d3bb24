import numpy as np
import pytest
from PIL import Image

from cmdl_hf.visualization import LegendEntry, add_legend, format_share


def entries(count):
    return [LegendEntry(f"class {index}", (200, index % 256, 0), 1 / count) for index in range(count)]


def colors_of(picture, left):
    return {tuple(color) for color in np.asarray(picture)[:, left:].reshape(-1, 3).tolist()}


def test_the_legend_is_beside_the_picture_and_has_every_colour():
    picture = Image.new("RGB", (400, 300), (1, 2, 3))
    whole = add_legend(picture, [*entries(4), LegendEntry("hidden", None, 0.1)])
    assert whole.height == 300
    assert np.array_equal(np.asarray(whole)[:, :400], np.asarray(picture))
    assert {(200, index, 0) for index in range(4)} <= colors_of(whole, 400)


def test_a_low_picture_grows_for_its_legend_unless_it_may_not():
    picture = Image.new("RGB", (60, 40))
    assert {(200, index, 0) for index in range(8)} <= colors_of(add_legend(picture, entries(8)), 60)
    assert add_legend(picture, entries(8)).height > 40
    assert add_legend(picture, entries(8), may_grow=False).height == 40


@pytest.mark.parametrize("count", [27, 300])
def test_of_many_classes_the_first_are_listed_and_the_others_counted(count):
    whole = add_legend(Image.new("RGB", (200, 100)), entries(count))
    assert whole.height < 700
    shown = colors_of(whole, 200) & {(200, index % 256, 0) for index in range(count)}
    assert len(shown) == 25


def test_odd_names_stay_one_line_of_bounded_width():
    plain = add_legend(Image.new("RGB", (200, 100)), [LegendEntry("x" * 32, (1, 1, 1))])
    for name in ("a\nb\x1b[31m" + "x" * 500, "שלום עולם" * 20, "<b>$x^2$</b>" * 9, ""):
        assert add_legend(Image.new("RGB", (200, 100)), [LegendEntry(name, (1, 1, 1))]).width < 2 * plain.width


def test_shares_are_percent():
    assert [format_share(share) for share in (1.0, 0.256, 0.01, 0.009, None)] == ["100 %", "26 %", "1 %", "<1 %", ""]
