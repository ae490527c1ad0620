"""What phones write: HEIC by another program (libheif with x265), read by the extra's reader (libde265)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import pillow_heif
import pytest
from PIL import ImageOps
from PIL.ExifTags import Base

from idefics_cli.errors import SourceError
from idefics_cli.images import Limits, decode
from tests.images.matrix import colours, quantize
from tests.images.test_colour import from_p3, meant, rgb_profile

LOSSLESS: dict[str, Any] = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
CLOSE: dict[str, Any] = {"quality": 98, "chroma": 444}


def write_heic(array: Any, options: dict[str, Any], **info: Any) -> bytes:
    image = PIL.Image.fromarray(array)
    image.info.update(info)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def read(data: bytes) -> tuple[Any, tuple[str, ...]]:
    image = decode(data, "IMG_1.HEIC", Limits())
    return np.asarray(image.pixels, float), image.warnings


def test_values_are_those_that_were_written() -> None:
    stored = quantize(colours(), 8)
    pixels, notes = read(write_heic(stored, LOSSLESS))
    assert (pixels == stored).all()
    assert notes == ()
    glass = np.dstack([stored, np.full(stored.shape[:2], 128, np.uint8)])
    pixels, notes = read(write_heic(glass, LOSSLESS))
    assert np.abs(pixels - (stored * (128 / 255) + 127)).mean() <= 1
    assert notes == ("transparent areas were put on white",)


def test_ten_bits_become_eight() -> None:
    deep = quantize(colours(), 16)
    height, width, _ = deep.shape
    buffer = io.BytesIO()
    file = pillow_heif.from_bytes("RGB;16", (width, height), deep.tobytes())
    file.save(buffer, **CLOSE)
    pixels, _ = read(buffer.getvalue())
    assert np.abs(pixels - 255 * colours()).mean() <= 1


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
def test_a_profile_is_converted(name: str) -> None:
    stored = quantize(0.15 + 0.7 * colours(), 8)
    pixels, notes = read(write_heic(stored, LOSSLESS, icc_profile=rgb_profile(name)))
    expected = meant(stored.astype(float), name)
    assert np.abs(pixels - expected).mean() <= 1
    assert np.abs(expected - stored).mean() > 2
    assert notes == ()


def test_numbers_in_place_of_a_profile_are_followed() -> None:
    stored = quantize(0.15 + 0.7 * colours(), 8)
    p3 = {**LOSSLESS, "color_primaries": 12, "transfer_characteristics": 13}
    pixels, notes = read(write_heic(stored, p3))
    assert np.abs(pixels - from_p3(stored)).mean() <= 1
    assert notes == ()
    pixels, _ = read(write_heic(stored, p3, icc_profile=rgb_profile("Adobe RGB")))
    assert np.abs(pixels - meant(stored.astype(float), "Adobe RGB")).mean() <= 1, "a profile says more"
    for transfer, kind in ((16, "PQ"), (18, "HLG")):
        with pytest.raises(SourceError, match=rf"IMG_1.HEIC is an HDR HEIF \({kind}\)"):
            read(write_heic(stored, {**CLOSE, "color_primaries": 9, "transfer_characteristics": transfer}))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_upright_once(orientation: int) -> None:
    """Phones write a HEIC's turn twice: as a property of the image, which counts, and in its EXIF."""
    stored = quantize(colours(), 8)
    exif = PIL.Image.Exif()
    exif[Base.Orientation] = orientation
    as_png, as_heic = io.BytesIO(), io.BytesIO()
    PIL.Image.fromarray(stored).save(as_png, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(PIL.Image.open(as_png)))
    pillow_heif.from_pillow(PIL.Image.fromarray(stored)).save(as_heic, exif=exif.tobytes(), **LOSSLESS)
    pixels, _ = read(as_heic.getvalue())
    assert pixels.shape == upright.shape
    assert (pixels == upright).all()


def test_what_is_cut_off_is_said() -> None:
    whole = write_heic(quantize(colours(), 8), CLOSE)
    for size in (len(whole) // 2, len(whole) - 40):
        with pytest.raises(SourceError) as caught:
            read(whole[:size])
        assert caught.value.code == "not_an_image"
        assert "IMG_1.HEIC is " in str(caught.value)
