"""Bad files: each is refused with its name, the rule, the value found and the cure."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from cmdl_hf.data import BadDataError, load_benchmark, load_folder
from cmdl_hf.data.reading import BadFileError, decode_colour_mask


def _load(root, cache_dir, **options):
    return load_benchmark("camvid", root, cache_dir=cache_dir, **options)


def _load_photos(root, cache_dir, **options):
    return load_folder(root, ["sky", "road"], cache_dir=cache_dir, **options)


def _save_turned(path, orientation, size=(8, 6)):
    """A photograph that its camera wants turned: left half red, right half blue, before turning."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    image.save(path, exif=exif, quality=95)


def test_an_rgb_mask_is_refused(make_camvid, cache_dir, write_image):
    root = make_camvid()
    path = write_image(root / "trainannot" / "0016E5_00001.png")
    with pytest.raises(BadDataError, match="one class id per pixel, found mode RGB; save the class ids") as caught:
        _load(root, cache_dir)
    assert str(path) in str(caught.value)


def test_a_palette_mask_keeps_its_ids(make_camvid, cache_dir, label_array):
    root = make_camvid()
    mask = Image.new("P", (8, 6), 3)
    mask.putpalette([200, 100, 50] * 256)
    mask.putpixel((2, 1), 11)
    mask.save(root / "trainannot" / "0016E5_00001.png")
    label = label_array(_load(root, cache_dir)["train"][0])
    assert label[1, 2] == 255
    assert (label == 3).sum() == 47


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, bool])
def test_masks_of_other_depths_keep_their_ids(make_camvid, cache_dir, label_array, dtype):
    root = make_camvid()
    ids = np.resize(np.array([0, 1], dtype=dtype), (6, 8))
    path = root / "trainannot" / "0016E5_00001.png"
    image = Image.fromarray(ids)
    if dtype is np.int32:
        path.unlink()
        image.save(path, format="TIFF")
    else:
        image.save(path)
    np.testing.assert_array_equal(label_array(_load(root, cache_dir)["train"][0]), ids.astype(int))


def test_an_unexpected_id_is_named_with_its_count(make_camvid, cache_dir, write_mask):
    root = make_camvid()
    path = write_mask(root / "valannot" / "0016E5_00002.png", [0, 12, 12, 255])
    with pytest.raises(BadDataError, match=r"ids must lie in 0\.\.11, found 12 \(24 px\), 255 \(12 px\)") as caught:
        _load(root, cache_dir)
    assert str(path) in str(caught.value)


def test_ids_above_255_are_named(make_camvid, cache_dir):
    root = make_camvid()
    Image.fromarray(np.full((6, 8), 26001, dtype=np.uint16)).save(root / "trainannot" / "0016E5_00001.png")
    with pytest.raises(BadDataError, match=r"found 26001 \(48 px\)"):
        _load(root, cache_dir)


def test_a_jpeg_mask_is_refused(photos, cache_dir, write_image):
    (photos / "masks" / "a.png").unlink()
    write_image(photos / "masks" / "a.jpg", mode="L")
    with pytest.raises(BadDataError, match=r"a\.jpg: a mask must be stored without loss"):
        _load_photos(photos, cache_dir)


def test_another_size_than_the_image_is_refused(make_camvid, cache_dir, write_mask):
    root = make_camvid()
    write_mask(root / "trainannot" / "0016E5_00001.png", [0], size=(4, 3))
    with pytest.raises(
        BadDataError, match=r"train/0016E5_00001\.png: .* same size, found 8×6 and 4×3; resize the mask"
    ):
        _load(root, cache_dir)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA"])
def test_grey_cmyk_and_transparent_images_become_rgb(make_camvid, cache_dir, write_image, mode):
    root = make_camvid(lists=None)
    (root / "train" / "0016E5_00001.png").unlink()
    suffix = ".png" if mode == "RGBA" else ".jpg"
    path = write_image(root / "train" / f"0016E5_00001{suffix}", mode=mode)
    image = _load(root, cache_dir)["train"][0]["image"]
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(path).convert("RGB")))


def test_a_16_bit_image_is_refused(make_camvid, cache_dir):
    root = make_camvid()
    Image.fromarray(np.zeros((6, 8), dtype=np.uint16)).save(root / "train" / "0016E5_00001.png")
    with pytest.raises(
        BadDataError, match="8-bit channels, found mode I;16; save it with 8 bits a channel, the values scaled"
    ):
        _load(root, cache_dir)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_turned_image_keeps_its_turn_if_the_mask_was_drawn_on_it(photos, cache_dir, write_mask, orientation):
    _save_turned(photos / "images/turned.jpg", orientation)
    write_mask(photos / "masks/turned.png", [0], size=(6, 8))
    sample = _load_photos(photos, cache_dir)["train"][2]
    assert sample["image"].size == sample["label"].size == (6, 8)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_turned_image_is_turned_back_if_the_mask_was_drawn_before(photos, cache_dir, write_mask, orientation):
    _save_turned(photos / "images/turned.jpg", orientation)
    write_mask(photos / "masks/turned.png", [0], size=(8, 6))
    sample = _load_photos(photos, cache_dir)["train"][2]
    assert sample["image"].size == sample["label"].size == (8, 6)
    red, _, blue = sample["image"].getpixel((0, 3))
    assert red > blue


@pytest.mark.parametrize(("orientation", "size"), [(3, (8, 6)), (2, (8, 6)), (6, (6, 6))])
def test_a_turn_that_cannot_be_judged_is_refused(photos, cache_dir, write_mask, orientation, size):
    _save_turned(photos / "images/turned.jpg", orientation, size)
    write_mask(photos / "masks/turned.png", [0], size=size)
    with pytest.raises(
        BadDataError, match=rf"EXIF orientation {orientation} rotates or mirrors it.*apply the orientation"
    ):
        _load_photos(photos, cache_dir)


def _tag_mask(path, orientation, target):
    """Move a mask, with an EXIF orientation in the new file."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    with Image.open(path) as mask:
        mask.load()
    path.unlink()
    mask.save(target, exif=exif)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_that_would_be_turned_is_refused(photos, cache_dir, write_mask, suffix, orientation):
    """No reading of it is sure: tools write masks without the tag, and copy it with the image's."""
    write_mask(photos / "masks/turned.png", [0], size=(8, 6))
    _save_turned(photos / "images/turned.png", 1)
    path = photos / f"masks/turned.{suffix}"
    _tag_mask(photos / "masks/turned.png", orientation, path)
    with pytest.raises(BadDataError, match=rf"EXIF orientation {orientation} would .*; apply the ori") as error:
        _load_photos(photos, cache_dir)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_turns_nothing_is_no_matter(photos, cache_dir, write_mask, orientation):
    write_mask(photos / "masks/upright.png", [1], size=(8, 6))
    _save_turned(photos / "images/upright.png", 1)
    _tag_mask(photos / "masks/upright.png", orientation, photos / "masks/upright.png")
    assert _load_photos(photos, cache_dir)["train"].num_rows == 3


def test_a_mask_of_colours_that_would_be_turned_is_refused(tmp_path):
    _save_turned(tmp_path / "mask.png", 6)
    with pytest.raises(BadFileError, match=r"mask\.png: its EXIF orientation 6 would rotate"):
        decode_colour_mask(tmp_path / "mask.png")


def test_a_size_that_does_not_fit_names_the_turn(photos, cache_dir, write_mask):
    _save_turned(photos / "images/turned.jpg", 6)
    write_mask(photos / "masks/turned.png", [0], size=(9, 9))
    with pytest.raises(BadDataError, match=r"found 8×6 \(its EXIF orientation 6 rotates or mirrors it\) and 9×9"):
        _load_photos(photos, cache_dir)


@pytest.mark.parametrize("folder", ["train", "trainannot"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_zero_bytes_and_truncated_files_are_named(make_camvid, cache_dir, folder, share):
    path = make_camvid() / folder / "0016E5_00002.png"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadDataError, match=rf"{folder}/0016E5_00002\.png: cannot be decoded.*fetch it again"):
        _load(path.parents[1], cache_dir)


def test_a_truncated_jpeg_is_named(make_camvid, cache_dir):
    path = make_camvid(suffix=".jpg") / "train" / "0016E5_00002.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadDataError, match=r"0016E5_00002\.jpg: cannot be decoded"):
        _load(path.parents[1], cache_dir)


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(make_camvid, cache_dir):
    path = make_camvid(suffix=".jpg") / "train" / "0016E5_00002.jpg"
    path.write_bytes(path.read_bytes() + b"\0" * 16)
    assert len(_load(path.parents[1], cache_dir)["train"]) == 2
