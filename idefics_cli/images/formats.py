"""The image formats that are read, by content and by file name.

The list is explicit: Pillow also opens formats that start other programs (EPS) or only name a file (stubs).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os

import PIL.features
import PIL.Image

from .signatures import describe_foreign

# Most frequent first. TGA is last: it has no signature, so it must not see what another format can claim.
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "MPO": (".mpo",),
    "HEIF": (".heic", ".heif", ".hif"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "ICO": (".ico",),
    "DIB": (".dib",),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "DDS": (".dds",),
    "PCX": (".pcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "TGA": (".tga",),
}
COMMON = ("JPEG", "PNG", "GIF", "BMP", "PPM")
"""The first of them: Pillow knows these without loading all its plugins, a tenth of the time of a short run."""
_IMAGE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)

_HEIF_READERS = ("pi_heif", "pillow_heif")
"""The one that the extra brings, and the larger one that also writes."""
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)
_SIGNATURES = (
    *(b"\xff\xd8", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"8BPS\0\x01", b"qoif", b"DDS "),
)


def has_image_suffix(name: str) -> bool:
    """Whether a file in a folder counts as an image, also if its extra is not installed: its row says so."""
    return os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES


@functools.cache
def list_formats() -> tuple[str, ...]:
    """The Pillow names of the formats that can be read here, in the order to try."""
    for reader in _HEIF_READERS:
        with contextlib.suppress(ImportError):
            importlib.import_module(reader).register_heif_opener()
            break
    PIL.Image.init()
    return tuple(name for name in _SUFFIXES if name in PIL.Image.OPEN)


def _is_supported(name: str) -> bool:
    # Pillow registers AVIF even where it was built without it.
    return name in list_formats() and (name != "AVIF" or bool(PIL.features.check("avif")))


def describe_unreadable(head: bytes, name: str) -> tuple[str, str]:
    """What kind of data it is, if it is no known image, and what to do about it."""
    brand = _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    if brand and not _is_supported(brand):
        return f"is a {brand} image, which needs an extra", "pip install 'idefics-cli[heif]'"
    is_riff = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    if brand or is_riff or head.startswith(_SIGNATURES) or _is_bitmap(head):
        return "is truncated or damaged: its header cannot be read", ""
    return describe_foreign(head, name)


def _is_bitmap(head: bytes) -> bool:
    return head.startswith(b"BM") and head[6:10] == b"\0\0\0\0"
