"""Damaged and odd image and mask files, drawn by a seed, with what a reader must find in them if it reads them."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = (64, 64)
NUM_LABELS = 3

_FORMATS = {"png": "PNG", "jpg": "JPEG", "tif": "TIFF", "bmp": "BMP", "gif": "GIF", "ppm": "PPM", "webp": "WEBP"}
_HUGE = (2**16 - 1, 2**31 - 1, 2**32 - 1, 200_000)
_TURNS = (0, 1, 2, 6, 8, 9, 65535)


def draw_picture():
    """A picture of smooth colours, which every format keeps apart."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.stack([rows * 3, columns * 3, (rows + columns) * 2], 2).clip(0, 255).astype(np.uint8)


def draw_ids():
    """The class ids of a mask, and some ignored pixels."""
    ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]) // 100 % NUM_LABELS
    ids[:4] = 255
    return ids.astype(np.uint8)


def damage_image(seed):
    """Make an image file.

    Returns:
        Its suffix, its content, what was done to it, and the picture in it (H, W, 3), or `None` if any is right.
    """
    draw = random.Random(seed)
    kinds = (_cut, _flip, _header, _huge, _mode, _turn, _frames, _bands, _depth, _other, _flip)
    return kinds[seed % len(kinds)](draw, draw_picture(), False)


def damage_mask(seed):
    """Make a mask file; as `damage_image`, with class ids (H, W) for the picture."""
    draw = random.Random(f"mask {seed}")
    kinds = (_cut, _flip, _header, _huge, _mask_mode, _turn, _frames, _bands, _depth, _other, _flip)
    return kinds[seed % len(kinds)](draw, draw_ids(), True)


def encode(pixels, suffix, **options):
    """Encode an array as an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, _FORMATS[suffix], **options)
    return stream.getvalue()


def _whole(draw, pixels, is_mask):
    suffix = draw.choice(["png", "png", "tif", "bmp", "gif"] if is_mask else [*_FORMATS])
    content = encode(pixels, suffix, **({"lossless": True} if suffix == "webp" else {}))
    return suffix, content, _decode(content, is_mask)


def _decode(content, is_mask):
    """What Pillow finds in a file that is whole."""
    image = Image.open(io.BytesIO(content))
    return np.asarray(image if is_mask else image.convert("RGB"))


def _cut(draw, pixels, is_mask):
    suffix, content, found = _whole(draw, pixels, is_mask)
    end = draw.randrange(len(content))
    return suffix, content[:end], f"{suffix} cut at {end} of {len(content)}", found


def _flip(draw, pixels, is_mask):
    """Flip bits anywhere. PNG has check sums; in other formats another picture may come of it."""
    suffix, content, found = _whole(draw, pixels, is_mask)
    content = bytearray(content)
    places = [draw.randrange(len(content)) for _ in range(draw.choice([1, 1, 3, 20]))]
    for place in places:
        content[place] ^= 1 << draw.randrange(8)
    return suffix, bytes(content), f"{suffix} with bits flipped at {places}", found if suffix == "png" else None


def _header(draw, pixels, is_mask):
    """Overwrite some of the first bytes, or give the file another name."""
    suffix, content, found = _whole(draw, pixels, is_mask)
    if draw.random() < 0.3:
        other = draw.choice([each for each in ("png", "tif", "bmp", "gif") if each != suffix])
        return other, content, f"{suffix} named {other}", found
    start, count = draw.randrange(40), draw.choice([1, 2, 4, 16])
    content = content[:start] + draw.randbytes(count) + content[start + count :]
    return suffix, content, f"{suffix} with {count} bytes of noise at {start}", found if suffix == "png" else None


def _huge(draw, pixels, is_mask):
    """A header that promises far more pixels than the file has."""
    suffix = draw.choice(["png", "bmp", "tif", "gif"] if is_mask else ["png", "bmp", "tif", "gif", "ppm", "webp"])
    width, height = draw.choice(_HUGE), draw.choice([1, 64, *_HUGE])
    content = encode(pixels, suffix)
    if suffix == "png":
        bits, colour = content[24], content[25]
        content = make_png(width, height, bits, colour, b"\0")
    elif suffix == "bmp":
        content = content[:18] + struct.pack("<II", width, height) + content[26:]
    elif suffix == "tif":
        content = make_tiff(np.zeros((1, 1, 1), np.uint8), size=(width, height))
    elif suffix == "gif":
        size = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
        content = content[:6] + size + content[10:]
    elif suffix == "ppm":
        content = b"P6\n%d %d\n255\n" % (width, height) + content[-100:]
    else:
        content = content[:12] + b"VP8X" + bytes([10, 0, 0, 0, 0, 0, 0, 0]) + b"\xff" * 6 + content[12:]
    return suffix, content, f"{suffix} that promises {width} × {height}", None


def _mode(draw, pixels, _):
    """A picture of another mode, as Pillow turns it into RGB."""
    mode = draw.choice(["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"])
    image = Image.fromarray(pixels)
    if mode in ("I;16", "I", "F"):
        image = image.convert("L").convert(mode)
    elif mode == "LAB":
        image = Image.frombytes("LAB", image.size, image.tobytes())
    else:
        image = image.convert(mode)
    suffix = "tif" if mode in ("CMYK", "I", "F", "YCbCr", "LAB") else "png"
    stream = io.BytesIO()
    image.save(stream, _FORMATS[suffix])
    found = np.asarray(image.convert("RGB")) if mode in ("1", "L", "LA", "P", "RGBA", "CMYK") else None
    return suffix, stream.getvalue(), f"{suffix} of mode {mode}", found


def _mask_mode(draw, ids, _):
    """A mask of another mode: its ids are its numbers, or it is refused."""
    mode = draw.choice(["1", "P", "LA", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "jpeg"])
    image = Image.fromarray(ids)
    if mode == "P":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([draw.randrange(256) for _ in range(768)])
    elif mode == "1":
        ids = np.where(ids == 1, 1, 0).astype(np.uint8)
        image = Image.fromarray(ids.astype(bool))
    elif mode != "jpeg":
        image = image.convert(mode)
    suffix = "jpg" if mode == "jpeg" else "tif" if mode in ("I", "F", "CMYK") else "png"
    stream = io.BytesIO()
    image.save(stream, _FORMATS[suffix])
    return suffix, stream.getvalue(), f"{suffix} of mode {mode}", ids


def _turn(draw, pixels, is_mask):
    """An EXIF orientation that is right, unknown or cut."""
    suffix = "png" if is_mask else draw.choice(["jpg", "png", "webp", "tif"])
    turn = draw.choice(_TURNS)
    exif = Image.Exif()
    exif[0x0112] = turn
    raw = exif.tobytes()
    raw = raw[: draw.randrange(6, len(raw))] if draw.random() < 0.4 else raw
    lossless = {"lossless": True} if suffix == "webp" else {}
    content = encode(pixels, suffix, exif=exif if suffix == "tif" else raw, **lossless)
    return suffix, content, f"{suffix} with {len(raw)} bytes of EXIF, orientation {turn}", None


def _frames(draw, pixels, is_mask):
    suffix = draw.choice(["gif", "tif", "png"] if is_mask else ["gif", "tif", "png", "webp"])
    others = [Image.fromarray(pixels[::-1].copy()) for _ in range(draw.choice([1, 5]))]
    content = encode(pixels, suffix, save_all=True, append_images=others)
    return suffix, content, f"{suffix} of {1 + len(others)} frames", None


def _bands(draw, pixels, is_mask):
    """A TIFF file of more or fewer bands than a picture has, with or without one of transparency."""
    count = draw.choice([1, 2, 3, 4, 5, 6, 7, 12])
    extra = draw.choice([None, 0, 1, 2])
    first = pixels[..., None] if is_mask else pixels
    bands = np.concatenate([first] + [pixels.reshape(*pixels.shape[:2], -1)[..., :1]] * 12, 2)[..., :count]
    content = make_tiff(bands, photometric=1 if is_mask or count < 3 else 2, extra=extra)
    found = pixels if is_mask or count >= 3 else np.repeat(bands, 3, 2) if count == 1 else None
    found = None if extra == 1 and not is_mask else found  # colours are divided by their transparency
    return "tif", content, f"tif of {count} bands, extra {extra}", found


def _depth(draw, pixels, is_mask):
    """Numbers of other depths. A mask's are its ids; an image's are refused beyond 8 bits."""
    grey = pixels if is_mask else pixels[..., 0]
    kind = draw.choice(["png", "ppm", "tif16", "tif32", "signed", "float"])
    if kind == "png":
        bits = draw.choice([1, 2, 4, 16])
        if bits == 16:
            rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
        else:
            grey = np.minimum(grey, 2**bits - 1)
            places = np.unpackbits(grey[..., None], axis=2)[..., -bits:].reshape(SIZE[1], -1)
            rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(places, axis=1))
        found = grey if is_mask else np.repeat((grey * (255 // (2**bits - 1)))[..., None], 3, 2)
        return (
            "png",
            make_png(*SIZE, bits, 0, rows),
            f"png of {bits} bits",
            None if bits == 16 and not is_mask else found,
        )
    if kind == "ppm":
        most = draw.choice([1, 3, 100, 255, 1000, 65535])
        numbers = np.minimum(grey.astype(int), most).astype(">u2" if most > 255 else "u1")
        found = numbers.astype(np.uint8) if is_mask else None
        return "pgm", b"P5\n64 64\n%d\n" % most + numbers.tobytes(), f"pgm up to {most}", found
    dtype = {"tif16": "<u2", "tif32": "<u4", "signed": "<i2", "float": "<f4"}[kind]
    format = {"signed": 2, "float": 3}.get(kind, 1)
    content = make_tiff(grey[..., None].astype(dtype), photometric=1, sample_format=format)
    return "tif", content, f"tif of {kind}", grey if is_mask else None


def _other(draw, pixels, is_mask):
    """What is no image: empty, text, noise, or an image inside other bytes."""
    suffix, content, found = _whole(draw, pixels, is_mask)
    kind = draw.choice(["empty", "text", "noise", "zeros", "git-lfs", "before", "behind"])
    if kind == "behind":
        return suffix, content + draw.randbytes(50), f"{suffix} with noise behind it", found
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n"
    made = {"empty": b"", "text": b"<html>404</html>", "noise": draw.randbytes(5000), "zeros": bytes(len(content))}
    return suffix, {**made, "git-lfs": pointer, "before": b"\n" + content}[kind], f"{suffix}: {kind}", None


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(width, height, bits, colour, rows):
    """A PNG file whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def make_tiff(bands, photometric=1, extra=None, sample_format=1, size=None):
    """A TIFF file of one strip with bands (H, W, N): Pillow writes neither more bands nor such sizes."""
    height, width, count = bands.shape
    shown = size or (width, height)
    tags = {256: [shown[0]], 257: [shown[1]], 258: [8 * bands.itemsize] * count, 259: [1], 262: [photometric]}
    tags |= {273: [8], 277: [count], 278: [shown[1]], 279: [bands.nbytes], 284: [1], 339: [sample_format] * count}
    if extra is not None and count > 1:
        tags[338] = [extra]
    data = np.ascontiguousarray(bands).tobytes()
    start = 8 + len(data)
    table, blob = bytearray(), bytearray()
    after = start + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        is_short = max(values) < 2**16
        packed = struct.pack(f"<{len(values)}{'H' if is_short else 'I'}", *values)
        value = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", after + len(blob))
        blob += packed if len(packed) > 4 else b""
        table += struct.pack("<HHI", tag, 3 if is_short else 4, len(values)) + value
    return b"II*\0" + struct.pack("<I", start) + data + struct.pack("<H", len(tags)) + table + bytes(4) + blob
