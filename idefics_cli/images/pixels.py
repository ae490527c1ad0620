"""Any Pillow mode to RGB, with a note of each loss: alpha is composited, deep channels are scaled to 8 bits.

Knows modes and values, not files.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import PIL.Image
from PIL import ImageCms

from ..content import Content
from ..values import Image
from .colour import SRGB_GAMMA, apply_gamma, convert_profile

DEEP_CHANNELS = "idefics_deep_channels"
"""Key in an image's `info`: the file holds 16 bits a channel, whatever the mode says once it is loaded."""

OPAQUE = (255, 255)


_NO_PIXELS = PIL.Image.new("RGB", (1, 1))


def drop_pixels(image: Image) -> Image:
    """An image without its pixels, once nobody needs them."""
    return replace(image, pixels=_NO_PIXELS, data=None)


def leave_unread(source: str, data: bytes | None = None, content: Content | None = None) -> Image:
    """An image that whoever answers is to read, with its file if they cannot reach it."""
    return Image(source, _NO_PIXELS, digest="", content=content, data=data)


def to_rgb(image: PIL.Image.Image, background: tuple[int, int, int], notes: list[str]) -> PIL.Image.Image:
    """A loaded image as a new RGB image in sRGB; losses are appended to `notes`.

    Raises ValueError for values that are not colours.
    """
    profile, gamma = _find_colours(image)
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        image = _scale_deep(image, notes)
    elif image.info.get(DEEP_CHANNELS):
        notes.append("16-bit values were reduced to 8 bits")
        image = _scale_key(image)
    if image.has_transparency_data:
        return _composite(image, background, profile, gamma, notes)
    if image.mode == "CMYK":
        notes.append("CMYK colours were converted to RGB")
    if image.mode == "LAB":
        notes.append("LAB colours were converted to RGB")
        return _convert_lab(image)
    return _colour(image, profile, gamma, notes)


def _find_colours(image: PIL.Image.Image) -> tuple[bytes, float]:
    """The colour space of the values: an ICC profile, else the gamma of a PNG, else None."""
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    if isinstance(profile, bytes) and profile:
        return profile, SRGB_GAMMA
    if image.format != "PNG" or "srgb" in image.info or not isinstance(gamma, float):
        return b"", SRGB_GAMMA
    return b"", gamma if 0.05 < gamma < 20 else SRGB_GAMMA


def _colour(image: PIL.Image.Image, profile: bytes, gamma: float, notes: list[str]) -> PIL.Image.Image:
    """RGB of an image without alpha."""
    if not profile and gamma == SRGB_GAMMA:
        return _detach(image) if image.mode == "RGB" else image.convert("RGB")
    if image.mode not in {"L", "RGB", "CMYK"}:
        image = image.convert("RGB")
    image = convert_profile(image, profile, notes) if profile else apply_gamma(image, gamma)
    return _detach(image) if image.mode == "RGB" else image.convert("RGB")


def _detach(image: PIL.Image.Image) -> PIL.Image.Image:
    """The same pixels without their file and metadata. Not copied: a copy took as long as decoding."""
    plain = image._new(image.im)
    plain.info = {}
    return plain


def _composite(
    image: PIL.Image.Image, background: tuple[int, int, int], profile: bytes, gamma: float, notes: list[str]
) -> PIL.Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    grey = image.getchannel("L") if profile and image.mode in {"L", "LA"} else None
    rgb = _colour(rgba.convert("RGB") if grey is None else grey, profile, gamma, notes)
    if alpha.getextrema() == OPAQUE:
        return rgb
    ground = "white" if background == (255, 255, 255) else "#{:02x}{:02x}{:02x}".format(*background)
    notes.append(f"transparent areas were put on {ground}")
    canvas = PIL.Image.new("RGB", rgb.size, background)
    canvas.paste(rgb, mask=alpha)
    return canvas


def _scale_deep(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    """One deep channel as L. 16-bit values are scaled by the full range, wider ones by their own range."""
    if image.mode == "F":
        return _scale_float(image, notes)
    key = image.info.get("transparency")
    deep = image if image.mode == "I" else image.convert("I")
    low, high = _find_range(deep)
    if low >= 0 and high <= 65535:
        notes.append("16-bit values were reduced to 8 bits")
        grey = deep.point(_to_8_bit(), "L")
        if isinstance(key, int):
            # Before the reduction: other values may come out like the transparent one.
            grey.putalpha(deep.point([0 if value == key else 255 for value in range(65536)], "L"))
        return grey
    notes.append(f"values from {low:g} to {high:g} were scaled to 8 bits")
    return _stretch(deep.convert("F"), low, high)


def _scale_float(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    low, high = _find_range(image)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("pixel values are not finite numbers")
    # The three customs for float images: 0 to 1, 0 to 255, anything.
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    notes.append(f"values from {low:g} to {high:g} were scaled to 8 bits")
    return _stretch(image, low, high)


def _find_range(image: PIL.Image.Image) -> tuple[float, float]:
    low, high = image.getextrema()
    if isinstance(low, tuple) or isinstance(high, tuple):
        raise ValueError(f"unexpected channels in mode {image.mode}")
    return low, high


def _stretch(image: PIL.Image.Image, low: float, high: float) -> PIL.Image.Image:
    scale = 255.0 / ((high - low) or 1.0)
    # Pillow wants an expression of this very form for floats; + 0.5 because converting cuts decimals off.
    offset = 0.5 - low * scale
    return image.point(lambda value: value * scale + offset).convert("L")


def _scale_key(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale a transparent colour given in 16 bits to the 8 bits that the pixels have now."""
    key = image.info.get("transparency")
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image


def _convert_lab(image: PIL.Image.Image) -> PIL.Image.Image:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    try:
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ValueError(str(error)) from None
    if converted is None:
        raise ValueError("LAB colours cannot be converted")
    return converted


@functools.cache
def _to_8_bit() -> tuple[int, ...]:
    return tuple(round(value / 257) for value in range(65536))
