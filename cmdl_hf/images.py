"""The one way in which this package reads images: a file's header is checked before anything is decoded.

Whoever reads an image of somebody else's takes `open_image` or `read_image`. Formats that Pillow reads with the help
of a program (EPS, PDF), that hold files of other formats (ICO, ICNS) or that are rarely met are not on the list.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from .files import NotRegularError, open_regular

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of the images that are read, whatever a file's name says."""

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Names under which files of these formats are looked for."""

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is read, the limit at which Pillow suspects a decompression bomb."""

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
"""What is raised on files that are no whole image."""

REFETCH = "fetch it again: it is damaged or not an image"
"""What to do about a file that is no whole image."""

_OPENERS: dict[str, Any] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_SIGNATURES = {
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    **{b"P%d" % digit: "PPM" for digit in range(1, 7)},
}
_TIFF_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # bands of RGB, CMYK, YCbCr and Lab; grey and palettes have one
_MOST_BANDS = 6  # that Pillow opens
_UNSIGNED = (1, 4)  # what TIFF's SampleFormat says of whole numbers from 0; 4 is unknown
_THREE_BANDS = "save three bands of 8 bits, or a mask as one band of class ids"
_TRANSPARENCY = ((1,), (2,))  # what TIFF's ExtraSamples says of such a band


class UnfitImageError(ValueError):
    """An image that is not read.

    Args:
        problem (`str`): The rule and what was found.
        cure (`str`): What to do about it.
        is_too_large (`bool`): Whether another limit would let it pass.
    """

    def __init__(self, problem: str, cure: str, is_too_large: bool = False) -> None:
        super().__init__(problem, cure, is_too_large)
        self.problem, self.cure, self.is_too_large = problem, cure, is_too_large

    def __str__(self) -> str:
        return f"{self.problem}; {self.cure}"


@contextmanager
def open_image(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image for a block: its format, size and number of frames are checked, and nothing is decoded.

    Args:
        source (`Path` or `bytes`): The file, or what it holds.
        max_pixels (`int`): Images of more pixels are refused.

    Yields:
        PIL image, as it is stored.

    Raises:
        UnfitImageError: if it breaks a rule.
        NotRegularError: if it is no regular file.
        OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error: if it is no whole image.
    """
    with open_regular(source) if isinstance(source, Path) else io.BytesIO(source) as stream:
        head = stream.read(30)
        stream.seek(0)
        format = _find_format(head)
        if format == "WEBP":  # its decoder makes room for the pixels when it is made
            _check_size(_webp_size(head), max_pixels)
        if format == "TIFF":
            _check_samples(stream)
        image = _open(stream, format)
        with image:
            _check_size(image.size, max_pixels)
            _check_frames(image, format)
            yield image


def check_depth(image: Image.Image) -> None:
    """Refuse a picture whose file has more than what 8 bits a channel, and three bands and transparency, can hold.

    Args:
        image (PIL image): Of `open_image`, not decoded yet. Pillow alone would drop bits and bands without a word.

    Raises:
        UnfitImageError: if it has.
    """
    bits = _bits(image)
    if bits > 8 or image.mode.startswith(("I", "F")):
        depth = "" if image.mode.startswith(("I", "F")) else f" of {bits} bits"
        raise UnfitImageError(
            f"an image must have 8-bit channels, found mode {image.mode}{depth}",
            "save it with 8 bits a channel, the values scaled to 0..255",
        )
    if image.format == "TIFF" and _is_signed(image):
        raise UnfitImageError("an image must have values in 0..255, found signed ones", "shift them to 0..255")
    if image.format == "TIFF" and (bands := _lost_bands(image)):
        raise UnfitImageError(
            f"an image must have up to three bands and transparency, found {bands} bands", "choose three of them"
        )


def check_given(image: Image.Image) -> None:
    """Refuse a PIL image that somebody hands over, if RGB of 8 bits a channel cannot hold it.

    Args:
        image (PIL image): Of whatever origin. Of one that is opened and not decoded yet, the file is checked.

    Raises:
        UnfitImageError: if it cannot.
    """
    if image.mode.startswith(("I", "F")):
        raise UnfitImageError(
            f"an image must have 8-bit channels, found mode {image.mode}", "scale its values to 0..255 first"
        )
    if getattr(image, "fp", None) is not None:  # not decoded yet, and Pillow would drop bits without a word
        check_depth(image)


def check_ids(image: Any) -> None:
    """Refuse a mask of which Pillow would leave a band out, or whose numbers it would stretch to its own depth.

    Args:
        image (PIL image): Of `open_image`, not decoded yet. Grey of 2 or 4 bits, or of another maximum, is stretched.

    Raises:
        UnfitImageError: if it would.
    """
    if image.format == "TIFF" and (bands := int(image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))) > 1:
        raise UnfitImageError(
            f"a mask must hold one class id per pixel, found {bands} bands", "save the class ids as one band"
        )
    if image.mode in ("L", "I") and (maximum := _maximum(image)) not in (255, 65535, None):
        raise UnfitImageError(
            f"a grey mask must have numbers of 8 or 16 bits, found {maximum} as the largest possible",
            "save the class ids as an 8-bit single-channel PNG",
        )


def load_whole(image: Any) -> None:
    """Decode an image of `open_image`; of a PNG file, check the sums of its pixels, which Pillow passes over.

    Raises:
        Those of `open_image`, which `UNREADABLE` names.
    """
    if image.format == "PNG":
        _check_sums(image.fp)
    image.load()


def explain_unreadable(error: Exception) -> str:
    """Say in one line why an image cannot be read, and the cure.

    Args:
        error (`Exception`): One of `UNREADABLE`.
    """
    if isinstance(error, UnfitImageError | NotRegularError):
        return f"{error.problem}; {error.cure}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be opened ({error.strerror}); put the file there, with the right to read it"
    return f"cannot be decoded ({error or type(error).__name__}); {REFETCH}"


def read_image(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture, upright and as RGB; transparency is dropped.

    Args:
        source (`Path` or `bytes`): The file, or what it holds.
        max_pixels (`int`): Images with more pixels are refused before they are decoded.

    Raises:
        Those of `open_image`, which `UNREADABLE` names.
    """
    with open_image(source, max_pixels) as image:
        check_depth(image)
        load_whole(image)
        return ImageOps.exif_transpose(image).convert("RGB")


def _find_format(head: bytes) -> str:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    for signature, format in _SIGNATURES.items():
        if head.startswith(signature):
            return format
    raise UnidentifiedImageError(f"of no format that is read, which are {', '.join(FORMATS)}; save it as PNG")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UnfitImageError(f"has no pixels, found a size of {width} × {height}", "save it again")
    if width * height > max_pixels:
        raise UnfitImageError(
            f"has {width} × {height} = {width * height:,} pixels, more than {max_pixels:,}", "cut it into tiles", True
        )


def _check_frames(image: Image.Image, format: str) -> None:
    """Refuse animations and files of several pages; a JPEG with views beside its photograph (MPO) is a photograph."""
    if format != "JPEG" and getattr(image, "is_animated", False):
        raise UnfitImageError(f"must hold one picture, found several ({format})", "save each as a file of its own")


def _open(stream: BinaryIO, format: str) -> Image.Image:
    """Read a header."""
    try:
        return _OPENERS[format](stream, None)
    except Image.DecompressionBombError as error:  # of the frame of a GIF file, which can be larger than its picture
        raise UnfitImageError(f"has a frame that is too large: {error}", "save it as PNG") from error
    except (SyntaxError, IndexError, TypeError, KeyError, struct.error) as error:
        if format == "TIFF" and ("pixel" in str(error) or "index" in str(error)):
            raise UnfitImageError("has bands or bits of a kind that is not read", _THREE_BANDS) from error
        raise UnidentifiedImageError(f"its header cannot be read: {error}") from error


def _check_samples(stream: BinaryIO) -> None:
    """Refuse a TIFF file with more bands or bits than Pillow can open, in words that name them."""
    try:
        header = stream.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(header + (stream.read(8) if header[2] == 43 else b""))
        stream.seek(tags.next)
        tags.load(stream)
        bands = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
        bits = int(max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    except (*UNREADABLE, IndexError, TypeError, KeyError):
        return  # damaged, as Pillow will find
    finally:
        stream.seek(0)
    if bands > _MOST_BANDS or (bands > 1 and bits > 16):
        raise UnfitImageError(
            f"must have up to three bands of 8 bits and transparency, found {bands} bands of {bits} bits", _THREE_BANDS
        )


def _check_sums(stream: BinaryIO) -> None:
    """Refuse a PNG file in which the check sum of a chunk of pixels is wrong."""
    position = stream.tell()
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        content, found = stream.read(int.from_bytes(head[:4], "big")), stream.read(4)
        if head[4:] == b"IDAT" and zlib.crc32(content, zlib.crc32(b"IDAT")).to_bytes(4, "big") != found:
            raise SyntaxError("the check sum of its pixels is wrong")
    stream.seek(position)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height in the first 30 bytes of a WebP file, of one of its three kinds; zeros where there are none."""
    if len(head) < 30:
        return 0, 0
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _bits(image: Any) -> int:
    """Bits a channel, as the file has them and not as Pillow would decode them."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    if image.format == "PNG":
        return _png_bits(image)
    if image.format == "PPM":
        return (_maximum(image) or 255).bit_length()
    return 8


def _maximum(image: Any) -> int | None:
    """The largest number that a channel of a file can hold; `None` where the file does not say."""
    if image.format == "PPM":
        decoder, _, _, options = image.tile[0]
        return options[-1] if decoder.startswith("ppm") else None  # else its numbers are taken as they are
    if image.format == "PNG" or (image.format == "TIFF" and image.mode == "L"):
        return 2 ** _bits(image) - 1
    return None


def _png_bits(image: Any) -> int:
    """The depth in the first chunk of a PNG file."""
    position = image.fp.tell()
    image.fp.seek(24)
    (bits,) = image.fp.read(1)
    image.fp.seek(position)
    return bits


def _is_signed(image: Any) -> bool:
    """Whether the values of a TIFF file are not whole numbers from 0; Pillow takes -1 for 255."""
    return (image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT) or (1,))[0] not in _UNSIGNED


def _lost_bands(image: Any) -> int:
    """The bands of a TIFF file of which Pillow would drop some that are no transparency; 0 where there are none."""
    tags = image.tag_v2
    bands = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    colours = _TIFF_COLOURS.get(tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION), 1)
    is_transparency = tags.get(TiffImagePlugin.EXTRASAMPLES) in _TRANSPARENCY
    return 0 if bands == colours or (bands == colours + 1 and is_transparency) else bands
