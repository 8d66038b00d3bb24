import builtins

import numpy as np
import pytest
from PIL import Image

from cmdl_hf.data import contact_sheet
from cmdl_hf.data.contact_sheet import draw_contact_sheet

NAMES = {0: "sky", 1: "road", 2: "a class whose name is far too long for the legend"}
PALETTE = [[0, 0, 255], [255, 0, 0], [0, 255, 0]]


def _sample(name, size=(40, 30), ids=(0, 1, 255)):
    label = np.resize(np.repeat(np.array(ids, dtype=np.uint8), 10), (size[1], size[0]))
    return name, Image.new("RGB", size, (100, 100, 100)), Image.fromarray(label)


def _colors(picture):
    return {color for _, color in picture.getcolors(1 << 24)}


def test_a_sheet_shows_images_overlays_and_the_classes_that_occur():
    colors = _colors(draw_contact_sheet([_sample("train  0001")], NAMES, PALETTE))
    assert {(100, 100, 100), (0, 0, 255), (255, 0, 0)} <= colors
    assert (0, 255, 0) not in colors  # class 2 does not occur
    assert any(blue > red + 50 for red, _, blue in colors - {(0, 0, 255)})  # class 0 over the image


def test_images_of_any_shape_stay_within_their_panels():
    samples = [_sample(f"{index}", size) for index, size in enumerate([(8, 6), (2000, 10), (10, 2000), (640, 480)])]
    sheet = draw_contact_sheet(samples, NAMES, PALETTE)
    assert sheet.width == draw_contact_sheet(samples[:1], NAMES, PALETTE).width
    assert sheet.height < 2 * 320 + 100


def test_names_of_any_length_and_script_are_written_differently():
    sheets = [
        draw_contact_sheet([_sample(name)], NAMES, PALETTE).tobytes()
        for name in ("grün", "grïn", "街", "道", "x" * 500)
    ]
    assert len(set(sheets)) == len(sheets)


def test_without_matplotlib_the_cure_is_named(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args):
        if name == "matplotlib":
            raise ImportError(name)
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    contact_sheet.load_font.cache_clear()
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        contact_sheet.load_font()


def test_of_300_classes_the_largest_are_listed_and_the_others_counted(monkeypatch):
    written = []
    monkeypatch.setattr(contact_sheet, "_write", lambda picture, place, text, width: written.append(text))
    label = Image.fromarray(np.repeat(np.arange(255, dtype=np.uint8), np.arange(255) + 1)[None])
    names = {i: f"class {i}" for i in range(255)}
    sheet = draw_contact_sheet([("a", Image.new("RGB", label.size), label)], names, [[i, i, 0] for i in range(255)])
    assert written[-70:] == [*(f"class {i}" for i in range(186, 255)), "and 186 more"]
    assert sheet.height < 600


def test_the_size_of_an_image_stands_apart_from_its_name(monkeypatch):
    """Beside a name from right to left, 40×30 would read as 30×40."""
    written = []
    monkeypatch.setattr(contact_sheet, "_write", lambda picture, place, text, width: written.append(text))
    draw_contact_sheet([_sample("שלום")], NAMES, PALETTE)
    assert written[:2] == ["40×30", "שלום"]
