"""Which files Pillow decodes wrongly or endlessly, from their headers.

Each fault of Pillow is shown by a file in the tests; a layout that is not known to be right counts as wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import PIL.Image

BITS, COMPRESSION, PHOTOMETRIC = 258, 259, 262
PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING = 284, 338, 339, 530
SUBFILE, OLD_SUBFILE, DNG_VERSION = 254, 255, 50706
_UNCOMPRESSED, _JPEG = 1, (6, 7)
_PACKED = {_UNCOMPRESSED, 2, 3, 4, 5, *_JPEG, 8, 32773, 32946, 34925, 50000}
"""Compressions that every build of Pillow comes with."""
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_SEPARATE = 2
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3

_SIZ = re.compile(rb"\xff\x4f\xff\x51")
_SCAN = b"\xff\xda"

HEAVY_PIXELS = 40_000_000
"""A larger picture of a slow format takes seconds that nothing could interrupt."""
SCANNED_PIXELS = 500_000_000
"""Pixels times scans of a JPEG, which is read anew by each scan; a progressive one of 12 megapixels has about ten."""

_CODECS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\x0a", "a JPEG XL image", "jpegxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", "jpegxl"),
    (b"II\xbc\x01", "a JPEG XR image", "jpegxr"),
)
_JPEG_FRAMES = {0xC3: ("a lossless JPEG", "jpegsof3"), 0xF7: ("a JPEG-LS image", "jpegls")}


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file that another library must read, and which one."""

    what: str
    codec: str
    bits: int = 0
    """Of a value; 0 for as many as the array has that comes out."""


def is_heavy(image: PIL.Image.Image, content: bytes | None) -> bool:
    """Whether an opened file may keep a decoder busy for long without a read that could be interrupted."""
    pixels = image.width * image.height
    if image.format == "JPEG2000":
        return True  # layers and precincts cost time whatever the size
    if image.format in {"AVIF", "HEIF", "WEBP"}:
        return pixels > HEAVY_PIXELS
    is_jpeg = image.format in {"JPEG", "MPO"} and bool(image.info.get("progressive"))
    if is_jpeg or (image.format == "TIFF" and _tags(image).get(COMPRESSION) in _JPEG):
        return content is None or content.count(_SCAN) * max(pixels, 1_000) > SCANNED_PIXELS
    return False


def find_misread(image: PIL.Image.Image, head: bytes) -> Foreign | None:
    """The kind of an opened file that Pillow would decode wrongly, None for one that it decodes right."""
    if image.format == "TIFF":
        return None if _is_tiff_right(_tags(image)) else Foreign(describe_tiff(_tags(image)), "tiff")
    if image.format == "JPEG2000" and image.mode not in {"L", "I;16"} and (bits := _find_depth(head)) > 8:
        return Foreign(f"a JPEG 2000 of {bits} bits", "jpeg2k", bits)
    return None


def find_unread(head: bytes) -> Foreign | None:
    """The kind of a file that Pillow does not open but imagecodecs does; None for any other."""
    if head.startswith(b"II*\0") and head[8:10] == b"CR":
        return Foreign("a camera RAW file (Canon CR2)", "")  # of which Pillow would show the preview
    for signature, what, codec in _CODECS:
        if head.startswith(signature):
            return Foreign(what, codec)
    if not head.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 5 <= len(head) and head[place] == 0xFF:
        marker, bits = head[place + 1], head[place + 4]
        if marker in _JPEG_FRAMES:
            what, codec = _JPEG_FRAMES[marker]
            return Foreign(what, codec, bits)
        if 0xC0 <= marker <= 0xC2:
            return Foreign(f"a JPEG of {bits} bits", "jpeg8", bits) if bits != 8 else None
        place += 2 + int.from_bytes(head[place + 2 : place + 4], "big")
    return None


def describe_tiff(tags: Any) -> str:
    """The properties of a TIFF that decide who can read it: numbers, depth, colours and layout."""
    bits = _numbers(tags, BITS) or (1,)
    formats = _numbers(tags, SAMPLE_FORMAT) or (_UNSIGNED,)
    kind = {_FLOAT: "floating-point ", _SIGNED: "signed "}.get(formats[0], "")
    colours = {
        _MIN_IS_WHITE: "grey (0 is white)",
        _MIN_IS_BLACK: "grey",
        _RGB: "RGB",
        _PALETTE: "palette",
        _CMYK: "CMYK",
        _YCBCR: "YCbCr",
        _LAB: "LAB",
        32803: "sensor",
    }.get(tags.get(PHOTOMETRIC), "unusual")
    planes = " in planes" if tags.get(PLANAR) == _SEPARATE else ""
    return f"a TIFF of {kind}{colours} values of {bits[0]} bits{planes}"


def _is_tiff_right(tags: Any) -> bool:
    photometric, compression = tags.get(PHOTOMETRIC), tags.get(COMPRESSION, _UNCOMPRESSED)
    bits, formats = _numbers(tags, BITS) or (1,), set(_numbers(tags, SAMPLE_FORMAT)) or {_UNSIGNED}
    extra, is_separate = _numbers(tags, EXTRA_SAMPLES), tags.get(PLANAR, 1) == _SEPARATE
    if len(set(bits)) > 1 or len(formats) > 1 or compression not in _PACKED:
        return False
    (kind,) = formats
    if photometric == _MIN_IS_BLACK and len(bits) == 1 and kind != _UNSIGNED:
        return bits[0] in {_SIGNED: (16, 32), _FLOAT: (32,)}.get(kind, ())
    if kind != _UNSIGNED:
        return False
    if len(bits) > 1 and is_separate:
        # Compressed planes are put together by libtiff, plain ones by Pillow: of 8 bits only.
        is_known = bits[0] == 8 or compression != _UNCOMPRESSED
        return photometric == _RGB and is_known and (len(bits) == 3 or (bits[0] == 8 and extra == (2,)))
    depths = {
        _MIN_IS_WHITE: (1, 2, 4, 8),
        _MIN_IS_BLACK: (1, 2, 4, 8, 16),
        _PALETTE: (1, 2, 4, 8),
        _LAB: (8,),
    }
    if photometric == _YCBCR:
        is_whole = compression in _JPEG or _numbers(tags, SUBSAMPLING) == (1, 1)
        return bits[0] == 8 and (len(bits) == 1 or is_whole)
    return bits[0] in depths.get(photometric, (8, 16))


def _find_depth(head: bytes) -> int:
    """The bits of a JPEG 2000's first channel; 0 where its code stream does not begin in `head`."""
    start = _SIZ.search(head)
    if start is None or start.end() + 39 > len(head):
        return 99
    return (head[start.end() + 38] & 127) + 1


def _tags(image: PIL.Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _numbers(tags: Any, tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return tuple(value) if isinstance(value, tuple | list) else (value,)
