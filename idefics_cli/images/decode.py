"""The only decoder: bytes or a file in, upright RGB pixels and their digest out.

What a conversion dropped or changed is in `Image.warnings`; what cannot be decoded is a SourceError. Knows neither
where bytes come from nor what a model wants.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
from PIL.ExifTags import Base
from PIL.Image import Transpose

from ..content import Content, describe_bytes, describe_file
from ..errors import SourceError
from ..values import Image
from .deadline import Deadline
from .document import draw_page, is_document, require
from .isolated import decode_isolated
from .limits import Limits
from .names import name_source, split_page
from .opening import Opened, open_data
from .picture import NeedsProcess, Reading, load_picture
from .pixels import to_rgb

# All that Pillow's decoders are known to raise on damaged data, MemoryError apart.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_UNCOUNTED = {"GIF", "TIFF"}
"""Formats whose frames are counted by going through the whole file, which may have a million."""
HEAD_BYTES = 4096
_PILLOW_MODULES = re.compile(r"PIL\.")
MAX_PROFILE_BYTES = 16_000_000
"""Of a PNG's colour profile, or of one of its texts; Pillow's own limit is a megabyte."""
_log = logging.getLogger("PIL")
_settings_lock = threading.Lock()


def decode(data: bytes | Path, source: str, limits: Limits, deadline: Deadline | None = None) -> Image:
    """Decode one image. `source` names the image in errors; `deadline` lets the caller give up.

    Raises SourceError: not_found (files only), not_an_image, too_large, timeout.
    """
    name = name_source(source)
    named = split_page(source)
    page = None if named is None else named[1]
    deadline = Deadline() if deadline is None else deadline
    deadline.start(limits.decode_seconds, name)
    with open_data(data, name, deadline) as opened:
        try:
            pixels, notes = _decode(opened, page, name, limits, deadline, is_isolated=False)
        except NeedsProcess:
            whole = data if opened.content is None else opened.content
            pixels, notes = decode_isolated(whole, page, name, limits, deadline)
        content = None if opened.content is None else describe_bytes(opened.content, opened.status)
        digest = _digest(None if page is not None else content, limits, pixels)
        if content is None and isinstance(data, Path):
            content = describe_file(data)
        return Image(source, pixels, digest, tuple(notes), content)


def decode_here(data: bytes | Path, page: int | None, name: str, limits: Limits) -> tuple[PIL.Image.Image, list[str]]:
    """Pixels and notes, without a limit of time: for a process that can be stopped."""
    with open_data(data, name, Deadline()) as opened:
        return _decode(opened, page, name, limits, Deadline(), is_isolated=True)


def _decode(
    opened: Opened, page: int | None, name: str, limits: Limits, deadline: Deadline, *, is_isolated: bool
) -> tuple[PIL.Image.Image, list[str]]:
    _prepare_pillow(limits)
    notes: list[str] = []
    with _translate_damage(name, limits):
        head = opened.file.read(HEAD_BYTES)
        opened.file.seek(0)
        if not head:
            raise SourceError(f"{name} is empty (0 bytes)", code="not_an_image")
        if is_document(head):
            return _draw_page(opened, page, name, limits, notes, is_isolated=is_isolated), notes
        reading = Reading(opened, head, name, limits, deadline, is_isolated, notes)
        image = load_picture(reading)
        pixels = _turn_upright(image, to_rgb(image, limits.background, notes), notes)
    _note_frames(image, notes)
    return pixels, notes


def _draw_page(
    opened: Opened, page: int | None, name: str, limits: Limits, notes: list[str], *, is_isolated: bool
) -> PIL.Image.Image:
    """A page of a document. Raises NeedsProcess, or SourceError."""
    require(name)
    if not is_isolated:
        raise NeedsProcess
    content = opened.content if opened.content is not None else opened.file.read()
    return draw_page(content, page, name, limits, notes)


def _digest(content: Content | None, limits: Limits, pixels: PIL.Image.Image) -> str:
    """A digest of the pixels: of the bytes they were decoded from, or of the pixels themselves.

    Equal digests mean equal pixels, so it includes every option that changes pixels; the reverse does not hold.
    """
    width, height = pixels.size
    if content is not None and content.size <= width * height * 3:
        draft = "" if limits.draft_edge is None else f"draft {limits.draft_edge} "
        return hashlib.sha256(f"{draft}file {limits.background} {content.digest}".encode()).hexdigest()[:32]
    digest = hashlib.sha256(f"pixels {width}x{height} ".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()[:32]


def _turn_upright(image: PIL.Image.Image, rgb: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    try:
        exif = image.getexif()
        orientation = exif.get(Base.Orientation, 1)
        is_broken = len(exif) == 0 and bool(image.info.get("exif"))
    except _DAMAGE:
        orientation, is_broken = 1, True
    if is_broken:
        notes.append("the EXIF block is broken; the pixels are used as they are stored")
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return rgb if method is None else rgb.transpose(method)


def _note_frames(image: PIL.Image.Image, notes: list[str]) -> None:
    # The other pictures in an MPO or HEIF photo are previews and depth maps, not frames.
    if image.format in {"MPO", "HEIF", "ICO", "PSD"}:
        return
    try:
        is_animated = bool(getattr(image, "is_animated", False))
    except _DAMAGE:
        is_animated = True  # damage after the first frame is no concern of ours, but there are more frames
    if not is_animated:
        return
    if image.format in _UNCOUNTED:
        notes.append("only the first frame is used")
    else:
        notes.append(f"only the first of {getattr(image, 'n_frames', 2)} frames is used")


@contextlib.contextmanager
def _translate_damage(name: str, limits: Limits) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except PIL.Image.DecompressionBombError:
        message = f"{name} has more pixels than the limit of {limits.max_pixels:,}"
        raise SourceError(message, code="too_large", hint="make it smaller first") from None
    except MemoryError:
        message = f"{name} does not fit into memory"
        raise SourceError(message, code="too_large", hint="make it smaller first") from None
    except _DAMAGE as error:
        is_truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
        reason = str(error) or type(error).__name__
        what = "truncated: its end is missing" if is_truncated else f"damaged ({reason})"
        raise SourceError(f"{name} is {what}", code="not_an_image") from error


def _prepare_pillow(limits: Limits) -> None:
    """Silence Pillow's warnings and log and make its own bomb limit follow ours, for the whole process.

    Process-wide and only ever upwards, because both settings are global and decoding happens in threads:
    `warnings.catch_warnings` in one thread would undo what another relies on.
    """
    from PIL import PngImagePlugin  # which Pillow loads with the first image, and a help text never

    with _settings_lock:
        first = warnings.filters[0] if warnings.filters else None
        if first is None or first[3] != _PILLOW_MODULES:
            warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)
        if _log.propagate:
            _log.addHandler(logging.NullHandler())  # without one, errors would be lines on stderr
            _log.propagate = False
        # Pillow refuses at twice this number; it guards pictures in pictures, whose headers we do not see.
        PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES
        half = (limits.max_pixels + 1) // 2
        if PIL.Image.MAX_IMAGE_PIXELS is not None and half > PIL.Image.MAX_IMAGE_PIXELS:
            PIL.Image.MAX_IMAGE_PIXELS = half
