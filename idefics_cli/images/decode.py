"""The one decoder: bytes or a file in, upright RGB pixels and their digest out.

What a conversion dropped or changed is told in `Image.warnings`; what cannot be decoded is a SourceError.
Knows nothing of where bytes come from, nor of what a model wants.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import PIL.Image
from PIL.ExifTags import Base
from PIL.Image import Transpose

from ..errors import SourceError
from ..values import Image
from .formats import COMMON, describe_unreadable, list_formats
from .limits import Limits
from .names import name_source
from .opening import open_data
from .pixels import DEEP_CHANNELS, to_rgb

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
_PILLOW_MODULES = re.compile(r"PIL\.")
_settings_lock = threading.Lock()


def decode(data: bytes | Path, source: str, limits: Limits) -> Image:
    """Decode one image. `source` is what the image and its errors are called.

    Raises SourceError: not_found (files only), not_an_image, too_large.
    """
    _prepare_pillow(limits)
    name = name_source(source)
    with open_data(data, name) as opened:
        head = opened.file.read(1024)
        if not head:
            raise SourceError(f"{name} is empty (0 bytes)", code="not_an_image")
        notes: list[str] = []
        with _translate_damage(name, limits):
            image = _load_pixels(opened.file, head, name, limits)
            pixels = _turn_upright(image, to_rgb(image, limits.background, notes), notes)
        _note_frames(image, notes)
    return Image(source, pixels, _digest(opened.content, limits, pixels), tuple(notes))


def _digest(content: bytes | None, limits: Limits, pixels: PIL.Image.Image) -> str:
    """What tells these pixels from all others: the bytes they were decoded from, or they themselves.

    Equal digests mean equal pixels, so whatever option changes pixels is part of it; not the other way round.
    """
    width, height = pixels.size
    if content is not None and len(content) <= width * height * 3:
        kind, data = f"file {limits.background} ", content
    else:
        kind, data = f"pixels {width}x{height} ", pixels.tobytes()
    digest = hashlib.sha256(kind.encode())
    digest.update(data)
    return digest.hexdigest()[:32]


def _load_pixels(file: IO[bytes], head: bytes, name: str, limits: Limits) -> PIL.Image.Image:
    try:
        try:
            image: PIL.Image.Image = PIL.Image.open(file, formats=COMMON)
        except PIL.UnidentifiedImageError:
            image = PIL.Image.open(file, formats=list_formats())
    except PIL.UnidentifiedImageError:
        message, hint = describe_unreadable(head)
        raise SourceError(f"{name} {message}", code="not_an_image", hint=hint) from None
    _check_size(image, name, limits)
    # Pillow reduces 16-bit channels while loading; only the raw modes of the unread tiles tell of them.
    image.info[DEEP_CHANNELS] = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    _check_size(image, name, limits)  # an icon's header may lie about the picture inside
    return image


def _check_size(image: PIL.Image.Image, name: str, limits: Limits) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise SourceError(f"{name} has no pixels ({width} x {height})", code="not_an_image")
    if width * height > limits.max_pixels:
        raise SourceError(
            f"{name} has {width} x {height} pixels, more than the limit of {limits.max_pixels:,}",
            code="too_large",
            hint="make it smaller first",
        )


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
        count = getattr(image, "n_frames", 1)
    except _DAMAGE:
        # Damage after the first frame is no concern of ours, but there are more frames.
        notes.append("only the first frame is used")
        return
    if count > 1:
        notes.append(f"only the first of {count} frames is used")


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
    """Silence Pillow's Python warnings and make its own bomb limit follow ours, for the whole process.

    Process-wide and only ever upwards, because both settings are global and decoding happens in threads:
    `warnings.catch_warnings` in one thread would undo what another relies on.
    """
    with _settings_lock:
        first = warnings.filters[0] if warnings.filters else None
        if first is None or first[3] != _PILLOW_MODULES:
            warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)
        # Pillow refuses at twice this number; it guards pictures in pictures, whose headers we do not see.
        half = (limits.max_pixels + 1) // 2
        if PIL.Image.MAX_IMAGE_PIXELS is not None and half > PIL.Image.MAX_IMAGE_PIXELS:
            PIL.Image.MAX_IMAGE_PIXELS = half
