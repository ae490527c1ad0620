"""Colours to sRGB: by the ICC profile of a file, or by the gamma of a PNG.

A profile that has the same effect as sRGB costs a look-up; transforms are kept for the next image.
"""

from __future__ import annotations

import functools
import io
import itertools

import PIL.Image
from PIL import ImageChops, ImageCms

SRGB_GAMMA = 0.45455
KEPT_TRANSFORMS = 8
UNSEEN = 2
"""Values of 255 that a profile may differ from sRGB without being applied."""
_STEPS = (0, 24, 64, 104, 152, 200, 232, 255)
_SPACES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}
_COMPENSATED = ImageCms.Flags.BLACKPOINTCOMPENSATION


def convert_profile(image: PIL.Image.Image, profile: bytes, notes: list[str]) -> PIL.Image.Image:
    """An image of mode L, RGB or CMYK as sRGB; unchanged if its profile is sRGB."""
    if image.mode == "L" and profile[16:20] == b"RGB ":
        image = image.convert("RGB")  # programs that save grey leave the profile of the colours
    transform = _find_transform(profile, image.mode)
    if isinstance(transform, str):
        notes.append(transform)
    elif transform is not None:
        try:
            converted = transform.apply(image)
        except (ImageCms.PyCMSError, ValueError):
            notes.append("the colour profile is broken; the colours are used as they are stored")
        else:
            return converted
    return image


def apply_gamma(image: PIL.Image.Image, gamma: float) -> PIL.Image.Image:
    """An RGB image whose values are light to the power of `gamma`, with the screen's power of 1 / 2.2."""
    power = 1 / (2.2 * gamma)
    if abs(power - 1) < 0.02:
        return image
    return image.point([round(255 * (value / 255) ** power) for value in range(256)] * len(image.getbands()))


@functools.lru_cache(KEPT_TRANSFORMS)
def _find_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | str | None:
    """The transform of a mode to sRGB, None if it is sRGB already, or why there is none."""
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _SPACES.get(found.profile.xcolor_space) != mode:
            return f"the colour profile is for {found.profile.xcolor_space.strip()} colours; it is not used"
        transform = ImageCms.buildTransform(
            found,
            _srgb(),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=_COMPENSATED,
        )
        if mode != "CMYK":
            probe = _draw_probe(mode)
            changed = ImageChops.difference(transform.apply(probe), probe.convert("RGB"))
            if max(high for _, high in changed.getextrema()) <= UNSEEN:  # type: ignore[misc]  # RGB has three
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "the colour profile is broken; the colours are used as they are stored"
    return transform


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _draw_probe(mode: str) -> PIL.Image.Image:
    """Colours from the whole cube, or all greys."""
    if mode == "L":
        return PIL.Image.frombytes("L", (16, 16), bytes(range(256)))
    cube = bytes(itertools.chain.from_iterable(itertools.product(_STEPS, repeat=3)))
    return PIL.Image.frombytes("RGB", (len(_STEPS), len(_STEPS) ** 2), cube)
