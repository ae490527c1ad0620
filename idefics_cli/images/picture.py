"""From an opened file to a loaded Pillow image: the right page, by a library that decodes it right.

Knows the quirks of formats; modes and colours are converted elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import struct
from dataclasses import dataclass
from typing import IO, Any

import PIL._imaging
import PIL.Image

from ..errors import SourceError
from .coded_colours import note_heif_colours, note_png_colours
from .deadline import Deadline, time_bytes
from .formats import COMMON, describe_unreadable, list_formats
from .limits import Limits, check_size
from .misread import (
    DNG_VERSION,
    OLD_SUBFILE,
    SUBFILE,
    Foreign,
    describe_tiff,
    find_misread,
    find_unread,
    is_heavy,
)
from .opening import Opened
from .pixels import DEEP_CHANNELS, OPAQUE
from .restarts import reaches_last_interval

MAX_PAGES = 64
"""Pages of a TIFF that are looked at for one that is no thumbnail."""
DRAFT_MARGIN = 2
"""How many times what is wanted is left of an image that is decoded smaller: the rest is resized with care."""
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_UNFILLED = bytes(4)
_PADDINGS = (b"\xaa" * 256, b"\x55" * 256)
_KEPT_TEXT = (b"XML:com.adobe.xmp", b"Raw profile type")


class NeedsProcess(Exception):
    """Raised for a file that must be decoded in a process of its own."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One file that is being decoded."""

    opened: Opened
    head: bytes
    name: str
    limits: Limits
    deadline: Deadline
    is_isolated: bool
    notes: list[str]


def load_picture(reading: Reading) -> PIL.Image.Image:
    """The loaded image. Raises SourceError, NeedsProcess, or whatever Pillow raises on damage."""
    silence_libtiff()
    try:
        return _load(reading, reading.opened.file)
    except ValueError as error:
        content = reading.opened.content
        if "text" not in str(error).lower() or content is None or not reading.head.startswith(b"\x89PNG"):
            raise
        return _load(reading, time_bytes(_drop_text(content), reading.deadline))


def _load(reading: Reading, file: IO[bytes]) -> PIL.Image.Image:
    image = _open(reading, file)
    if not isinstance(image, PIL.Image.Image):
        return _load_foreign(reading, image, 0)
    check_size(*image.size, reading.name, reading.limits)
    page = _choose_page(image, reading) if image.format == "TIFF" else 0
    check_size(*image.size, reading.name, reading.limits)
    if foreign := find_misread(image, reading.head):
        return _load_foreign(reading, foreign, page)
    if is_heavy(image, reading.opened.content) and not reading.is_isolated:
        raise NeedsProcess
    # Pillow reduces 16-bit channels while loading; only the raw modes of the unread tiles tell of them.
    image.info[DEEP_CHANNELS] = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    try:
        if image.format == "JPEG" and _is_unfilled(reading.opened.content):
            raise EOFError
        shrink = _draft(image, reading.limits)
        image.load()
        if shrink > 1:
            reading.notes.append(f"decoded at 1/{shrink} of its size, as --fast-decode allows")
    except (OSError, EOFError):
        if image.format != "JPEG" or (whole := _load_without_end(reading)) is None:
            raise
        image = whole
    check_size(*image.size, reading.name, reading.limits)  # an icon's header may lie about the picture inside
    _mend(image, reading.head)
    if image.format == "PNG":
        note_png_colours(image, reading.opened.file, reading.name, reading.notes)
    elif image.format == "HEIF":
        note_heif_colours(image, reading.name, reading.notes)
    return image


def _open(reading: Reading, file: IO[bytes]) -> PIL.Image.Image | Foreign:
    if foreign := find_unread(reading.head):
        return foreign
    try:
        try:
            return PIL.Image.open(file, formats=COMMON)
        except PIL.UnidentifiedImageError:
            return PIL.Image.open(file, formats=list_formats())
    except PIL.UnidentifiedImageError:
        if reading.head.startswith(_TIFF_HEADS) and (foreign := _describe_tiff(reading)):
            return foreign
        message, hint = describe_unreadable(reading.head, reading.name)
        raise SourceError(f"{reading.name} {message}", code="not_an_image", hint=hint) from None


def _describe_tiff(reading: Reading) -> Foreign | None:
    """The properties of a TIFF for which Pillow has no mode; None if its header cannot be read."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2(reading.head[: 16 if 43 in reading.head[2:4] else 8])
    try:
        reading.opened.file.seek(tags.next)
        tags.load(reading.opened.file)
        if DNG_VERSION in tags:
            return Foreign("a camera RAW file (DNG)", "")
        return Foreign(describe_tiff(tags), "tiff") if 256 in tags and 257 in tags else None
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, AssertionError):
        return None


def _load_foreign(reading: Reading, foreign: Foreign, page: int) -> PIL.Image.Image:
    """With tifffile or imagecodecs, always in a process of its own: neither has our limits."""
    if not foreign.codec:
        hint = "develop it to JPEG or PNG first"
        raise SourceError(f"{reading.name} is {foreign.what}", code="not_an_image", hint=hint)
    from . import precise  # which imports NumPy

    precise.require(foreign.what, reading.name)
    if not reading.is_isolated:
        raise NeedsProcess
    content = reading.opened.content
    if content is None:
        message = f"{reading.name} is {foreign.what}, and too large a file to be read whole"
        raise SourceError(message, code="too_large", hint="make it smaller first")
    if foreign.codec == "tiff":
        image = precise.read_tiff(content, page, foreign.what, reading.name, reading.limits)
    else:
        image = precise.read_codec(content, foreign, reading.name, reading.limits)
    if foreign.bits > 8 or image.mode == "F":
        image.info[DEEP_CHANNELS] = True
    return image


def _choose_page(image: Any, reading: Reading) -> int:
    """Go to the first page of a TIFF that is no thumbnail; returns its number."""
    page = 0
    is_raw = DNG_VERSION in image.tag_v2
    while image.tag_v2.get(SUBFILE, 0) & 5 or image.tag_v2.get(OLD_SUBFILE) == 2:
        reading.deadline.check()
        try:
            if page + 1 >= MAX_PAGES:
                raise EOFError
            image.seek(page + 1)
        except EOFError:
            what = "a camera RAW file" if is_raw or image.tag_v2.get(330) else "a TIFF that holds only a thumbnail"
            hint = "develop it to JPEG or PNG first" if "RAW" in what else "save the full image instead"
            raise SourceError(f"{reading.name} is {what}", code="not_an_image", hint=hint) from None
        page += 1
    if page:
        reading.notes.append(f"page {page + 1} is used; the pages before it are smaller copies")
    return page


def _draft(image: PIL.Image.Image, limits: Limits) -> int:
    """Decode a JPEG at a fraction of its size, as long as that is twice the wanted size. Returns the divisor."""
    longer = max(image.size)
    if limits.draft_edge is None or image.format != "JPEG" or longer < 2 * DRAFT_MARGIN * limits.draft_edge:
        return 1
    least = DRAFT_MARGIN * limits.draft_edge / longer
    width, height = (max(1, math.ceil(side * least)) for side in image.size)
    image.draft(None, (width, height))
    return round(longer / max(image.size))


def _is_unfilled(content: bytes | None) -> bool:
    """Whether a JPEG ends in zeros, as an interrupted download does. Decoded, they would become pixels."""
    if content is None or not content.endswith(_UNFILLED):
        return False
    return content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN)


def _load_without_end(reading: Reading) -> PIL.Image.Image | None:
    """A JPEG in which only the end marker is missing; None if more is missing.

    A decoder would fill in missing data from any bytes that follow: two different ones then give two different images.
    """
    content = reading.opened.content
    if content is None:
        return None
    content = (content.rstrip(b"\0") if content.endswith(_UNFILLED) else content).removesuffix(b"\xff")
    if not reaches_last_interval(content):
        return None
    pictures: list[PIL.Image.Image] = []
    for padding in _PADDINGS:
        picture = PIL.Image.open(time_bytes(content + padding + _JPEG_END, reading.deadline), formats=("JPEG",))
        try:
            picture.load()
        except OSError:
            return None
        pictures.append(picture)
    if pictures[0].tobytes() != pictures[1].tobytes():
        return None
    reading.notes.append("the end marker is missing; all pixels are there")
    return pictures[0]


def _mend(image: PIL.Image.Image, head: bytes) -> None:
    """Correct Pillow's assumptions about transparency."""
    if image.format == "PNG" and head[25:26] == b"\0" and head[24] < 8:
        key = image.info.get("transparency")
        if isinstance(key, int) and image.mode != "1":
            image.info["transparency"] = key * (255 // (2 ** head[24] - 1))
    if image.format in {"TGA", "BMP", "DIB"} and image.mode == "RGBA":
        # Alpha that nobody set: no bits of it by the header, or all of it 0.
        has_none = image.format == "TGA" and head[17] & 15 == 0
        if has_none or image.getchannel("A").getextrema() == (0, 0):
            image.putalpha(OPAQUE[0])


def _drop_text(content: bytes) -> bytes:
    """A PNG without its texts, except those that give its orientation."""
    kept, place = [content[:8]], 8
    while place + 8 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        kind, end = content[place + 4 : place + 8], place + size + 12
        if kind not in {b"tEXt", b"zTXt", b"iTXt"} or content.startswith(_KEPT_TEXT, place + 8):
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


@functools.cache
def silence_libtiff() -> None:
    """Keep messages of libtiff off standard error, in all threads: ours say the same."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(PIL._imaging.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
