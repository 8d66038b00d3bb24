"""Own masks of colours, or COCO's annotations, as masks of class ids."""

import importlib.util
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from cmdl_hf.cli import main
from cmdl_hf.data import load_folder, make_builder, prepare_from_coco, prepare_from_colours
from cmdl_hf.data.coco_masks import CocoImage, draw_mask, read_coco
from cmdl_hf.data.colour_masks import ColourReader, read_colour_table
from cmdl_hf.extras import install_command

needs_coco = pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="pycocotools is missing: pip install -e '.[coco]'"
)
RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (128, 128, 128)


@pytest.fixture
def colours(tmp_path):
    (tmp_path / "colours.csv").write_text("name,red,green,blue\nroof,255,0,0\nwater,0,0,255\n")
    return tmp_path / "colours.csv"


def _write_rgb(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(path)


def _read(path):
    return np.asarray(Image.open(path)).tolist()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", "name,red,green,blue\nroof,255,0,0\nwater,0,0,255\n"),
        ("c.csv", "raw_id,train_id,name,red,green,blue\n7,0,roof,255,0,0\n9,1,water,0,0,255\n"),
        ("c.json", '{"roof": [255, 0, 0], "water": "#0000ff"}'),
        ("c.txt", "255 0 0\troof\n0 0   255 water\n"),
    ],
)
def test_tables_of_colours_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_colour_table(tmp_path / name)
    assert [(row.train_id, row.name, row.colour) for row in table.rows] == [(0, "roof", RED), (1, "water", BLUE)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "name,r\nroof,3\n", "expected the columns name,red,green,blue or raw_id"),
        ("c.csv", "name,red,green,blue\nroof,256,0,0\n", "red, green and blue in 0..255, found"),
        ("c.json", '{"roof": [1, 2]}', "red, green and blue in 0..255, found"),
        ("c.json", "[", "c.json: "),
        ("c.txt", "1 2 3\n", "every line must hold red, green, blue and a name"),
        ("c.txt", "1 2 3 a\n1 2 3 b\n", r"every colour must occur once, found \(1, 2, 3\)"),
        ("c.txt", "1 2 3 a\n1 2 4 a\n", "every name must occur once, found 'a'"),
        ("c.xml", "", "are read from .csv, .json and .txt"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_colour_table(tmp_path / name)


def test_the_nearest_colour_within_the_tolerance_counts(colours):
    table = read_colour_table(colours)
    pixels = Image.fromarray(np.array([[RED, (250, 5, 0), (240, 0, 0), GREY]], dtype=np.uint8))
    exact, near = ColourReader(table), ColourReader(table, 5)
    assert np.asarray(exact.read(pixels)).tolist() == [[0, 255, 255, 255]]
    assert np.asarray(near.read(pixels)).tolist() == [[0, 0, 255, 255]]
    assert near.unknown == {"#f00000": 1, "#808080": 1}
    near.read(pixels)
    assert (near.unknown.total(), near.num_pixels) == (4, 8)
    with pytest.raises(ValueError, match=r"tolerance must lie in 0\.\.255, found 256"):
        ColourReader(table, 256)


def test_colours_become_own_data_that_loads(tmp_path, colours, write_image, cache_dir, capsys):
    for split, stem in (("train", "a"), ("valid", "b")):
        write_image(tmp_path / f"own/{split}/images/{stem}.jpg", size=(2, 1))
        _write_rgb(tmp_path / f"own/{split}/masks/{stem}_mask.png", [RED, BLUE])
    out = tmp_path / "out"
    main(
        [
            "prepare",
            "own",
            "--from",
            "rgb",
            "--data-dir",
            str(tmp_path / "own"),
            "--colors",
            str(colours),
            "--out",
            str(out),
        ]
    )
    assert "train: 1 images\nvalidation: 1 images" in capsys.readouterr().out
    assert _read(out / "masks/validation/b.png") == [[0, 1]]
    assert (out / "images/train/a.jpg").stat().st_ino == (tmp_path / "own/train/images/a.jpg").stat().st_ino
    assert (out / "classes.txt").read_text() == "roof\nwater\n"
    dataset = load_folder(out, out / "label_table.csv", cache_dir=cache_dir)
    assert dataset.palette == [list(RED), list(BLUE)]
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 1, "validation": 1}
    assert [path.name for path in tmp_path.glob(".writing-*")] == []


def test_unknown_colours_are_ignored_up_to_a_share_and_then_refused(tmp_path, colours, write_image, caplog):
    write_image(tmp_path / "own/images/a.jpg", size=(200, 1))
    _write_rgb(tmp_path / "own/masks/a.png", [RED] * 199 + [GREY])
    prepare_from_colours(tmp_path / "own", colours, tmp_path / "out")
    assert _read(tmp_path / "out/masks/a.png")[0][-2:] == [0, 255]
    assert "ignored (255), 0.500 %: #808080 (1 px)" in caplog.text
    _write_rgb(tmp_path / "own/masks/a.png", [RED] * 190 + [GREY] * 10)
    with pytest.raises(ValueError, match=r"5\.0 % of the pixels have colours .*#808080 \(10 px\); add them, or raise"):
        prepare_from_colours(tmp_path / "own", colours, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []
    with pytest.raises(FileExistsError, match="is not empty"):
        prepare_from_colours(tmp_path / "own", colours, tmp_path / "out")


def test_the_colours_of_camvid_give_its_ids(shared_dir, tmp_path):
    camvid = shared_dir / "data/camvid_original"
    (tmp_path / "own").mkdir()
    (tmp_path / "own/images").symlink_to(camvid / "701_StillsRaw_full")
    (tmp_path / "own/masks").symlink_to(camvid / "LabeledApproved_full")
    prepare_from_colours(tmp_path / "own", camvid / "label_colors.txt", tmp_path / "out")
    builder = make_builder("camvid", camvid, splits=["validation"])
    (sample,) = builder.files["validation"].samples
    assert _read(tmp_path / f"out/masks/{sample.id}.png") == np.asarray(builder.read_ids(sample.mask)).tolist()


SQUARE = {"id": 1, "image_id": 5, "category_id": 30, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}


@pytest.fixture
def write_coco(tmp_path, write_image):
    def write(*annotations, name="instances.json", size=(8, 6), file_name="a.jpg", **changes):
        if not (tmp_path / "photos/in" / "a.jpg").exists():
            write_image(tmp_path / "photos/in/a.jpg")
        content = {
            "images": [{"id": 5, "file_name": file_name, "width": size[0], "height": size[1]}],
            "annotations": list(annotations),
            "categories": [{"id": 90, "name": "cat"}, {"id": 30, "name": "dog"}],
        }
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content | changes))
        return tmp_path / name

    return write


@needs_coco
@pytest.mark.parametrize(("flags", "around"), [([], 0), (["--no-background"], 255)])
def test_polygons_become_ids(write_coco, tmp_path, flags, around, capsys):
    words = ["--data-dir", tmp_path / "photos", "--annotations", write_coco(SQUARE), "--out", tmp_path / "out", *flags]
    main(["prepare", "own", "--from", "coco", *map(str, words)])
    mask = np.array(_read(tmp_path / "out/masks/a.png"))
    dog = 1 if around == 0 else 0
    assert mask.shape == (6, 8)
    assert set(mask[1:5, 1:5].ravel()) == {dog}
    assert (mask == around).sum() == 48 - 16
    names = (tmp_path / "out/classes.txt").read_text().split()
    assert names == (["background", "dog", "cat"] if around == 0 else ["dog", "cat"])
    assert "train: 1 images" in capsys.readouterr().out


@needs_coco
def test_rle_is_decoded_as_pycocotools_does_and_the_smaller_lies_on_top():
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for _ in range(20):
        region = np.asfortranarray(rng.random((37, 53)) < rng.random(), dtype=np.uint8)
        text = coco.encode(region)["counts"].decode()
        image = CocoImage("a", (53, 37), [{"segmentation": {"size": [37, 53], "counts": text}, "category_id": 1}])
        assert (np.asarray(draw_mask(image, {1: 7}, 0)) == 7 * region).all()
    big, small, crowd = ({"size": [2, 4], "counts": counts} for counts in ([0, 8], [2, 2, 4], [0, 8]))
    order = [(small, 2, 0), (big, 1, 0), (crowd, 3, 1)]
    parts = [{"segmentation": each, "category_id": id_, "iscrowd": is_crowd} for each, id_, is_crowd in order]
    assert np.asarray(draw_mask(CocoImage("a", (4, 2), parts), {1: 1, 2: 2, 3: 3}, 0)).tolist() == [[1, 2, 1, 1]] * 2
    assert np.asarray(draw_mask(CocoImage("a", (4, 2), parts[2:]), {3: 3}, 0)).tolist() == [[255] * 4] * 2


@needs_coco
@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, r"a\.jpg: annotation 1: has no segmentation \(only a box\?\)"),
        ([[1, 1, 2, 2]], "a polygon must be a list of three points or more"),
        ([[1, 1, 2, 2, 3, "x"]], "a polygon must be a list of three points"),
        ([[1, 1, 2, 2, 3, float("nan")]], "a polygon must be a list of three points"),
        ([[1, 1, 1e12, 2, 3, 4]], "lies outside of the image of 8 × 6: x 1 to 1e"),
        ([[20, 1, 22, 2, 23, 4]], "outside of the image"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, r"the RLE must be of the image's size, \[6, 8\]"),
        ({"size": [6, 8], "counts": [10**12]}, "must sum to 48 pixels, found 1000000000000"),
        ({"size": [6, 8], "counts": [-2, 50]}, "whole numbers from 0"),
        ({"size": [6, 8], "counts": "oooooooooooooooo"}, "the text of an RLE is damaged"),
        ({"size": [6, 8], "counts": "\u00ff"}, "the text of an RLE is damaged"),
    ],
)
def test_bad_segmentations_are_refused_before_they_are_drawn(write_coco, tmp_path, segmentation, message):
    path = write_coco(SQUARE | {"segmentation": segmentation})
    with pytest.raises(ValueError, match=message):
        prepare_from_coco(tmp_path / "photos", [path], tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, "expected a list of objects named images"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "different ids and names"),
        ({"annotations": [SQUARE | {"image_id": 6}]}, "annotation 1 names image 6, which is not listed"),
        ({"annotations": [SQUARE | {"category_id": 6}]}, "annotation 1 names category 6, which is not listed"),
        ({"annotations": [SQUARE | {"category_id": "dog"}]}, "category_id of each annotation must be a whole number"),
        ({"annotations": [{"segments_info": []}]}, "panoptic"),
        ({"size": (10**6, 10**6)}, "image 5 has a size of 1000000 × 1000000; it must have 1 to"),
        ({"size": (0, 5)}, "image 5 has a size of 0 × 5"),
    ],
)
def test_bad_files_of_annotations_are_refused(write_coco, changes, message):
    path = write_coco(**changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_coco(path)
    assert str(caught.value).startswith(str(path))


def test_what_is_no_json_is_refused(tmp_path):
    for content in (b"{", b"[" * 200_000, b"\xff"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match="must be JSON, which it is not"):
            read_coco(tmp_path / "a.json")


@needs_coco
def test_images_are_found_by_name_below_the_folder_alone(write_coco, write_image, tmp_path):
    write_image(tmp_path / "secret.jpg")
    for name in ("b.jpg", "../secret.jpg", str(tmp_path / "secret.jpg")):
        with pytest.raises(FileNotFoundError, match=r"lists 1 image\(s\) that are not below .*photos"):
            prepare_from_coco(tmp_path / "photos", [write_coco(file_name=name)], tmp_path / "out")
    with pytest.raises(ValueError, match="image and mask must have the same size, found 8×6 and 9×6"):
        prepare_from_coco(tmp_path / "photos", [write_coco(size=(9, 6))], tmp_path / "out")


def test_without_pycocotools_the_command_that_installs_it_is_named(write_coco, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(ImportError, match=re.escape(f"which is not installed: {install_command('coco')}")):
        prepare_from_coco(tmp_path / "photos", [write_coco(SQUARE)], tmp_path / "out")


@needs_coco
def test_several_files_are_splits(write_coco, write_image, tmp_path):
    write_image(tmp_path / "photos/valid/a.jpg")
    files = [write_coco(SQUARE, name="instances_train2017.json"), write_coco(name="valid/_annotations.coco.json")]
    (tmp_path / "photos/in").rename(tmp_path / "photos/train")
    assert prepare_from_coco(tmp_path / "photos", files, tmp_path / "out") == {"train": 1, "validation": 1}
    assert (tmp_path / "out/masks/validation/a.png").is_file()
    with pytest.raises(ValueError, match=r"neither other\.json nor its folder names a split"):
        prepare_from_coco(tmp_path / "photos", [files[0], write_coco(name="other.json")], tmp_path / "new")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["own"], "own data need --from rgb --colors FILE"),
        (["own", "--from", "rgb"], "own data need --from rgb --colors FILE"),
        (["own", "--from", "coco", "--colors", "x"], "own data need --from rgb"),
        (["own", "--from", "coco", "--push", "a/b"], "own data have neither --push"),
        (["camvid", "--from", "rgb"], "are for own data, not for camvid"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main(["prepare", *words, "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")])
