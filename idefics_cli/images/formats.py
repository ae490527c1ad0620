"""The image formats that are read, by content and by file name.

A list of our own: Pillow also opens formats that start other programs (EPS) or only name a file (stubs).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os

import PIL.features
import PIL.Image

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

_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)
_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"8BPS")


def has_image_suffix(name: str) -> bool:
    """Whether a file in a folder is taken for an image. Also where an extra is missing: its row says so."""
    return os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES


@functools.cache
def list_formats() -> tuple[str, ...]:
    """The Pillow names of what can be read here, in the order to try."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    PIL.Image.init()
    return tuple(name for name in _SUFFIXES if name in PIL.Image.OPEN)


def _is_supported(name: str) -> bool:
    # Pillow registers AVIF even where it was built without it.
    return name in list_formats() and (name != "AVIF" or bool(PIL.features.check("avif")))


def describe_unreadable(head: bytes) -> tuple[str, str]:
    """What data is that no format claimed, and what to do about it."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    brand = _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    if brand and not _is_supported(brand):
        return f"is a {brand} image, which needs an extra", "pip install 'idefics-cli[heif]'"
    if brand or head.startswith(_SIGNATURES):
        return "is truncated or damaged: its header cannot be read", ""
    if b"<svg" in text:
        return "is an SVG drawing, not an image of pixels", "convert it to PNG first"
    if text.startswith((b"<!doctype html", b"<html")):
        return "is a web page (HTML), not an image", ""
    if head.startswith(b"%PDF"):
        return "is a PDF document, not an image", "convert its pages to PNG first"
    return "is not an image in a format that can be read", ""
