"""Readers of images: known formats, regular files, and size, frames and depth from the header."""

import io
import os
import shutil
import stat
import struct
import sys
import threading
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from cmdl_hf import images
from cmdl_hf.data import BadDataError, load_folder, load_hub
from cmdl_hf.data.reading import BadFileError, image_value, open_mask
from cmdl_hf.files import NotRegularError, open_regular
from cmdl_hf.inference.images import find_inputs

SPACE = Path(__file__).parents[2] / "examples" / "space"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n(out) (w) file\nshowpage\n%%EOF\n"


@pytest.fixture(scope="module")
def space():
    sys.path.insert(0, str(SPACE))
    import segmenter

    yield segmenter
    sys.path.remove(str(SPACE))
    sys.modules.pop("segmenter")


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of Ghostscript's name, which notes that it was started."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\ntouch {folder}/started\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    yield folder / "started"
    assert not (folder / "started").exists()


def _bytes(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width, height, bits, colour, pixels=b"\0"):
    """A PNG file whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")
    )


def _tiff(bands, bits, extra=None, pages=1, photometric=2, sample_format=None, size=(8, 6)):
    """A TIFF file of one strip a page, written by hand: Pillow writes neither 16-bit RGB nor more bands."""
    width, height = size
    file = bytearray(b"II*\0" + struct.pack("<I", 8))
    for page in range(pages):
        entries = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * bands), 259: (3, [1])}
        entries |= {262: (3, [photometric]), 277: (3, [bands]), 278: (3, [height]), 284: (3, [1])}
        if extra is not None:
            entries[338] = (3, list(extra))
        if sample_format is not None:
            entries[339] = (3, [sample_format] * bands)
        data = bytes(width * height * bands * bits // 8)
        entries |= {273: (4, [0]), 279: (4, [len(data)])}
        after = len(file) + 2 + 12 * len(entries) + 4
        blob, table = bytearray(), bytearray()
        for tag in sorted(entries):
            kind, values = entries[tag]
            packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
            if tag == 273:
                packed = struct.pack("<I", 0xFFFFFFFF)  # set below
            if len(packed) > 4:
                value = struct.pack("<I", after + len(blob))
                blob += packed
            else:
                value = packed.ljust(4, b"\0")
            table += struct.pack("<HHI", tag, kind, len(values)) + value
        strip = after + len(blob)
        table = bytes(table).replace(struct.pack("<I", 0xFFFFFFFF), struct.pack("<I", strip))
        end = strip + len(data)
        file += (
            struct.pack("<H", len(entries)) + table + struct.pack("<I", end if page + 1 < pages else 0) + blob + data
        )
    return bytes(file)


def _animated(format):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    return _bytes(frames[0], format, save_all=True, append_images=frames[1:])


PPM = {"P6 of 16 bits": b"P6 8 6 65535\n" + bytes(288), "P6 of 12 bits": b"P6\n# x\n8 6\n4095\n" + bytes(288)}
BMP = _bytes(Image.new("RGB", (8, 6)), "BMP")
RIFF = b"RIFF" + struct.pack("<I", 22) + b"WEBP"
HUGE = {
    "PNG": _png(50_000, 50_000, 8, 2),
    "16-bit PNG": _png(50_000, 50_000, 16, 0),
    "PPM": b"P5 50000 50000 255\n",
    "BMP": BMP[:18] + struct.pack("<ii", 50_000, 50_000) + BMP[26:],
    "GIF": b"GIF89a" + struct.pack("<HHBBB", 50_000, 50_000, 0, 0, 0) + b",\0\0\0\0\t\0\t\0\0\2\0;",
    "TIFF": _tiff(3, 8).replace(struct.pack("<HHIHH", 256, 3, 1, 8, 0), struct.pack("<HHII", 256, 4, 1, 10**9)),
    "WEBP": RIFF + b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\0\xff\xff\0",
    "WEBP lossless": RIFF + b"VP8L" + struct.pack("<I", 10) + b"\x2f\xff\xff\xff\xff" + bytes(9),
}
DEEP = {
    "PNG RGB": _png(8, 6, 16, 2, (b"\0" + bytes(48)) * 6),
    "PNG RGBA": _png(8, 6, 16, 6, (b"\0" + bytes(64)) * 6),
    "PNG grey": _png(8, 6, 16, 0, (b"\0" + bytes(16)) * 6),
    "PNG grey and alpha": _png(8, 6, 16, 4, (b"\0" + bytes(32)) * 6),
    "TIFF RGB": _tiff(3, 16),
    "TIFF grey": _tiff(1, 16, photometric=1),
    "TIFF float": _tiff(1, 32, photometric=1, sample_format=3),
    **PPM,
}
BANDS = {
    "4, one unspecified": _tiff(4, 8, extra=(0,)),
    "4, one not declared": _tiff(4, 8),
    "5": _tiff(5, 8, extra=(0, 0)),
    "5, one of transparency": _tiff(5, 8, extra=(2, 0)),
    "12": _tiff(12, 8, extra=(0,) * 9),
    "4, in planes": _tiff(4, 8, extra=(0,)).replace(
        struct.pack("<HHIH", 284, 3, 1, 1), struct.pack("<HHIH", 284, 3, 1, 2)
    ),
}


def _refusals(space, tmp_path, content, name="photo.jpg"):
    """What the three doors say of an image: predict's reader, the data sets' reader, and the Space's."""
    path = tmp_path / name
    path.write_bytes(content)
    said = []
    for read in (
        images.read_image,
        lambda path: image_value(path, None, None),
        lambda path: space.read_image(str(path)),
    ):
        with pytest.raises((*images.UNREADABLE, BadFileError)) as caught:
            read(path)
        said.append(str(caught.value))
    with pytest.raises((*images.UNREADABLE, BadFileError)):
        image_value(Path("row/image"), content, None)
    with pytest.raises((*images.UNREADABLE, BadFileError)):
        images.read_image(content)
    return said


# Formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.eps", "photo"])
def test_eps_never_starts_a_program(space, ghostscript, tmp_path, name):
    predict, data, _ = _refusals(space, tmp_path, EPS, name)
    assert "of no format that is read, which are BMP, GIF" in predict
    assert "save it as PNG" in predict
    assert f"{name}: cannot be decoded" in data
    with pytest.raises(BadFileError, match="of no format that is read"):
        open_mask(tmp_path / name)


def _ico():
    inner = HUGE["PNG"]
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 8, 6, 0, 0, 1, 32, len(inner), 22) + inner


@pytest.mark.parametrize(
    "content", [_ico(), b"%PDF-1.4", b"\xd7\xcd\xc6\x9a" + bytes(40), b"icns\0\0\0\x10" + bytes(8)]
)
def test_containers_and_formats_off_the_list_are_refused(space, ghostscript, tmp_path, content):
    _refusals(space, tmp_path, content, "photo.png")


def test_there_is_one_list_of_formats(space):
    assert space.FORMATS == images.FORMATS
    assert not {"EPS", "PDF", "ICO", "ICNS", "WMF", "MPEG", "FITS"} & set(images.FORMATS)
    root = Path(__file__).parents[2]
    for file in [*(root / "cmdl_hf").rglob("*.py"), *SPACE.glob("*.py")]:
        for line in file.read_text().splitlines():
            if "Image.open(" in line and '"street.png"' not in line:
                assert "formats=FORMATS" in line, f"{file}: {line}"
    assert "MAX_IMAGE_PIXELS" not in "".join(file.read_text() for file in (root / "cmdl_hf").rglob("*.py"))


@pytest.mark.parametrize("format", images.FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_every_format_on_the_list_is_read(space, tmp_path, format, mode):
    image = Image.new("RGB", (8, 6), (200, 30, 30)).convert(mode)
    if format == "WEBP" or (format in ("JPEG", "PPM") and mode == "P"):
        image = image.convert("RGB")
    content = _bytes(image, format, **({"lossless": True} if format == "WEBP" else {}))
    (tmp_path / "a").write_bytes(content)
    for read in (images.read_image(tmp_path / "a"), images.read_image(content), space.read_image(str(tmp_path / "a"))):
        assert read.mode == "RGB"
        assert read.size == (8, 6)
        assert abs(np.asarray(read).astype(int) - np.asarray(image.convert("RGB")).astype(int)).max() < (
            60 if format == "JPEG" else 6
        )


TRANSPARENT = [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "TIFF"), ("CMYK", "TIFF"), ("RGBA", "WEBP")]


@pytest.mark.parametrize(("mode", "format"), TRANSPARENT)
def test_transparency_and_cmyk_are_read(tmp_path, mode, format):
    assert images.read_image(_bytes(Image.new(mode, (8, 6)), format)).mode == "RGB"
    assert images.read_image(_bytes(Image.new("RGB", (8, 6)), "WEBP")).size == (8, 6)


def test_a_photograph_with_a_second_view_is_read(space, tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    (tmp_path / "a.jpg").write_bytes(_bytes(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    for read in (images.read_image(tmp_path / "a.jpg"), space.read_image(str(tmp_path / "a.jpg"))):
        assert read.getpixel((0, 0))[0] > 200


# Regular files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe", "device"])
def test_only_regular_files_are_read(space, tmp_path, kind):
    path = tmp_path / "photo.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    found = kind.removeprefix("link to a ")
    with pytest.raises(NotRegularError, match=rf"photo\.png must be a regular file, found a {found}; put"):
        images.read_image(path)
    for read in (open_mask, lambda path: image_value(path, None, None)):
        with pytest.raises(BadFileError, match=f"must be a regular file, found a {found}"):
            read(path)
    with pytest.raises(ValueError, match=r"photo\.png"):
        space.read_image(str(path))


def test_a_pipe_among_images_is_named_and_nobody_waits(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert [path.name for path, _ in find_inputs(tmp_path / "a.png", tmp_path / "out")] == ["a.png"]
    assert [path.name for path, _ in find_inputs(tmp_path, tmp_path / "out")] == ["a.png"]
    for folder in ("images", "masks"):
        (tmp_path / "own" / folder).mkdir(parents=True)
        Image.new("L", (8, 6)).save(tmp_path / "own" / folder / "a.png")
        os.mkfifo(tmp_path / "own" / folder / "b.png")
    with pytest.raises(BadDataError, match=r"b\.png: must be a regular file, found a pipe"):
        load_folder(tmp_path / "own", ["sky"], cache_dir=tmp_path / "cache")


def test_a_file_that_becomes_a_pipe_after_the_look_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")
    regular = os.stat(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with pytest.raises(NotRegularError, match="found a pipe"):
        open_regular(tmp_path / "a.png")
    assert stat.S_ISREG(regular.st_mode)


# Size, frames, depth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HUGE)
def test_the_size_is_taken_from_the_header(space, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    for said in _refusals(space, tmp_path, HUGE[kind])[:2]:
        assert "pixels, more than 178,956,970" in said
    with pytest.raises(BadFileError, match="pixels, more than"):
        open_mask(tmp_path / "photo.jpg")


@pytest.mark.parametrize("content", [_png(0, 6, 8, 2), b"P5 0 6 255\n"])
def test_no_pixels_are_no_image(space, tmp_path, content):
    _refusals(space, tmp_path, content)


def test_the_limit_of_pixels_is_the_callers_and_no_switch_of_the_process(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    path = tmp_path / "a.png"
    Image.new("L", (64, 64)).save(path)
    seen = set()

    def read():
        for _ in range(30):
            images.read_image(path, 10_000)
            seen.add(Image.MAX_IMAGE_PIXELS)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {before}
    with pytest.raises(images.UnfitImageError, match="has 64 × 64 = 4,096 pixels, more than 4,095; cut it"):
        images.read_image(path, 4095)


def test_a_larger_limit_than_pillows_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    assert images.read_image(tmp_path / "a.png").size == (64, 64)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(space, tmp_path, format):
    content = _tiff(3, 8, pages=2) if format == "TIFF" else _animated(format)
    predict, data, there = _refusals(space, tmp_path, content)
    assert f"must hold one picture, found several ({format}); save each" in predict
    assert "must hold one picture" in data
    assert "several pictures" in there
    with pytest.raises(BadFileError, match="must hold one picture"):
        open_mask(tmp_path / "photo.jpg")


@pytest.mark.parametrize("kind", DEEP)
def test_more_than_8_bits_are_refused_by_the_header(space, tmp_path, kind):
    predict, data, there = _refusals(space, tmp_path, DEEP[kind])
    assert "an image must have 8-bit channels, found mode" in predict
    assert "an image must have 8-bit channels, found mode" in data
    assert "more than 8 bits" in there


@pytest.mark.parametrize("kind", BANDS)
def test_bands_are_not_dropped(space, tmp_path, kind):
    path = tmp_path / "a.tif"
    path.write_bytes(BANDS[kind])
    with pytest.raises(images.UnfitImageError, match=r"bands"):
        images.read_image(path)
    with pytest.raises(BadFileError, match="bands"):
        image_value(path, None, None)
    with pytest.raises(ValueError, match=r"bands|cannot be read"):
        space.read_image(str(path))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (BANDS["12"], "12 bands of 8 bits; save three bands of 8 bits, or a mask as one band"),
        (_tiff(3, 32, sample_format=3), "3 bands of 32 bits; save three bands"),
        (_tiff(1, 8, photometric=1, sample_format=2), "signed ones; shift them"),
        (DEEP["TIFF grey"], "I;16; save it with 8 bits a channel, the values scaled to 0..255"),
    ],
)
def test_what_was_found_and_a_cure_that_helps_are_named(space, tmp_path, content, found):
    predict, data, _ = _refusals(space, tmp_path, content)
    assert found in predict
    assert found in data


def test_declared_transparency_and_plain_tiffs_are_read():
    for content in (_tiff(3, 8), _tiff(4, 8, extra=(2,)), _tiff(4, 8, extra=(1,)), _tiff(1, 8, photometric=1)):
        assert images.read_image(content).size == (8, 6)


def test_masks_keep_16_bits_and_are_not_stretched(tmp_path):
    Image.fromarray(np.full((6, 8), 7, dtype=np.uint16)).save(tmp_path / "a.png")
    assert open_mask(tmp_path / "a.png").getextrema() == (7, 7)
    for name, content in {
        "2 bits": _png(8, 6, 2, 0, (b"\0" + bytes([0b00011011] * 2)) * 6),
        "4 bits": _png(8, 6, 4, 0, (b"\0" + bytes([0x12] * 4)) * 6),
        "maximum 11": b"P5 8 6 11\n" + bytes([5] * 48),
        "plain": b"P2 8 6 11\n" + b"5 " * 48,
    }.items():
        with pytest.raises(BadFileError, match="grey mask must have numbers of 8 or 16 bits"):
            open_mask(tmp_path / name, content)
    assert open_mask(tmp_path / "b", b"P5 8 6 255\n" + bytes([5] * 48)).getextrema() == (5, 5)


# Rows of the Hub --------------------------------------------------------------------------------------------------


def _rows(root, image, mask):
    """A folder of Parquet with the very values that its rows are to hold."""
    (root / "data").mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(decode=False), "mask": datasets.Image(decode=False)})
    rows = datasets.Dataset.from_dict({"image": [image], "mask": [mask]}, features=features)
    rows.data.table  # noqa: B018
    import pyarrow.parquet

    table = rows.with_format("arrow")[:]
    pyarrow.parquet.write_table(table.replace_schema_metadata(rows.data.schema.metadata), root / "data/train.parquet")
    return root


def _inline(image):
    return {"bytes": _bytes(image, "PNG"), "path": None}


PICTURE, MASK = Image.new("RGB", (8, 6), (1, 2, 3)), Image.new("L", (8, 6))


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize("way", ["absolute", "upwards", "through a link", "address"])
def test_a_row_gives_no_file_of_the_readers_machine(tmp_path, column, way):
    private = tmp_path / "home" / "private.png"
    private.parent.mkdir()
    (PICTURE if column == "image" else MASK).save(private)
    root = tmp_path / "theirs"
    path = {
        "absolute": str(private),
        "upwards": str(root / "data/../../home/private.png"),
        "through a link": str(root / "shortcut.png"),
        "address": "https://127.0.0.1:1/private.png",
    }[way]
    values = {"image": _inline(PICTURE), "mask": _inline(MASK)} | {column: {"bytes": None, "path": path}}
    _rows(root, **values)
    if way == "through a link":
        (root / "shortcut.png").symlink_to(private)
    with pytest.raises(BadDataError, match=rf"{column}: names the file .*, which lies outside the data set; write"):
        load_hub(str(root), ["sky"], cache_dir=tmp_path / "cache")


def test_a_row_may_name_a_file_of_its_own_folder(tmp_path):
    root = _rows(tmp_path / "theirs", {"bytes": None, "path": str(tmp_path / "theirs/a.png")}, _inline(MASK))
    PICTURE.save(root / "a.png")
    dataset = load_hub(str(root), ["sky"], cache_dir=tmp_path / "cache")
    assert dataset["train"][0]["image"].getpixel((0, 0)) == (1, 2, 3)
    shutil.rmtree(root)
    assert dataset["train"][0]["image"].size == (8, 6)  # its bytes are in the data set


def test_a_row_of_a_repository_may_name_what_was_fetched_for_it(tmp_path, monkeypatch):
    from cmdl_hf.data.sets.hub import _own_folders

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cache = str(tmp_path / "cache")
    repo, downloads = tmp_path / "hub/datasets--they--plants", tmp_path / "cache/downloads"
    assert _own_folders("they/plants", "parquet", cache, {}) == (repo,)
    assert _own_folders("they/plants", "imagefolder", cache, {}) == (repo, downloads)


@pytest.mark.parametrize("content", [EPS, HUGE["PNG"], _animated("GIF"), DEEP["PNG RGB"]])
def test_a_row_of_bytes_passes_the_same_reader(tmp_path, ghostscript, content):
    root = _rows(tmp_path / "theirs", {"bytes": content, "path": "a.jpg"}, _inline(MASK))
    with pytest.raises(BadDataError, match="train_000000/image: "):
        load_hub(str(root), ["sky"], cache_dir=tmp_path / "cache")
    root = _rows(tmp_path / "others", _inline(PICTURE), {"bytes": content, "path": "a.png"})
    with pytest.raises(BadDataError, match="train_000000/mask: "):
        load_hub(str(root), ["sky"], cache_dir=tmp_path / "cache")
