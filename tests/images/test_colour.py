"""Colours are those that the file means: profiles and gammas become sRGB, by formulas of their own standards."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from PIL import ImageCms

from idefics_cli.errors import SourceError
from idefics_cli.images import Limits, decode
from tests.images.matrix import chunk, colours, greys, quantize

# Primaries as XYZ seen under D50, and the power of light, as the standards have them.
SPACES = {
    "Display P3": (
        [0.51512, 0.24120, -0.00105],
        [0.29198, 0.69225, 0.04189],
        [0.15710, 0.06657, 0.78407],
        2.2,
    ),
    "Adobe RGB": (
        [0.60974, 0.31111, 0.01947],
        [0.20528, 0.62567, 0.06087],
        [0.14919, 0.06322, 0.74457],
        2.19921875,
    ),
    "ProPhoto": ([0.79767, 0.28804, 0.0], [0.13519, 0.71188, 0.0], [0.03134, 0.00009, 0.82491], 1.8),
}
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
Array = NDArray[Any]


def tag_curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">4xIH2x", 1, round(gamma * 256))


def tag_xyz(values: list[float]) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *(round(value * 65536) for value in values))


def write_profile(space: bytes, tags: dict[bytes, bytes], padding: int = 0) -> bytes:
    """A version 2 monitor profile, byte by byte."""
    tags = {b"desc": b"desc" + struct.pack(">4xI", 5) + b"test\0" + bytes(78 + 5), **tags}
    if padding:
        tags[b"fill"] = b"data" + bytes(8) + np.random.default_rng(1).bytes(padding)
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    head = struct.pack(">I4xI", place + len(body), 0x02400000) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    head += bytes(68 - len(head)) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name: str, padding: int = 0) -> bytes:
    *primaries, gamma = SPACES[name]
    tags = {b"wtpt": tag_xyz([0.9642, 1.0, 0.8249])}
    for letter, primary in zip(b"rgb", primaries, strict=True):
        assert isinstance(primary, list)
        tags |= {bytes([letter]) + b"XYZ": tag_xyz(primary)}
        assert isinstance(gamma, float)
        tags |= {bytes([letter]) + b"TRC": tag_curve(gamma)}
    return write_profile(b"RGB ", tags, padding)


INKS = np.array([[0.05, 0.30, 0.65], [0.60, 0.04, 0.25], [0.95, 0.80, 0.06], [0.0, 0.0, 0.0]])
"""Of linear sRGB, what a full layer of cyan, magenta, yellow and black lets through."""
GRID = 9


def print_inks(amounts: Array) -> Array:
    """XYZ under D50 of amounts of ink from 0 to 1: dots that cover as much of the paper, by chance."""
    through = 1 - amounts[..., None] * (1 - INKS)
    return np.asarray(through.prod(axis=-2) @ SRGB.T)


def ink_profile() -> bytes:
    """A version 2 profile of that press: one table of 9 steps an ink (ICC.1:2001-04, 6.5.8)."""
    steps = np.linspace(0, 1, GRID)
    amounts = np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 4)
    table = np.rint(print_inks(amounts) * 32768).astype(">u2").tobytes()
    line = struct.pack(">2H", 0, 65535)
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft2" + struct.pack(">4x4B", 4, 3, GRID, 0) + matrix + struct.pack(">2H", 2, 2)
    white = tag_xyz([0.9642, 1.0, 0.8249])
    return write_profile(b"CMYK", {b"wtpt": white, b"A2B0": lut + 4 * line + table + 3 * line})


def to_srgb(light_xyz: Array) -> Array:
    linear = np.clip(light_xyz @ np.linalg.inv(SRGB).T, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(curved * 255)


def meant(stored: Array, name: str) -> Array:
    """What 8-bit values of a space are in sRGB, by its definition."""
    *primaries, gamma = SPACES[name]
    return to_srgb((stored / 255) ** gamma @ np.array(primaries))


def encode(array: Array, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def read(data: bytes) -> tuple[Array, tuple[str, ...]]:
    image = decode(data, "pic", Limits())
    return np.asarray(image.pixels, float), image.warnings


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_a_profile_is_converted(name: str, kind: str) -> None:
    stored = quantize(0.15 + 0.7 * colours(), 8)
    options: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 98, "subsampling": 0},
        "AVIF": {"quality": 100},
    }
    data = encode(stored, kind, icc_profile=rgb_profile(name), **options.get(kind, {}))
    pixels, notes = read(data)
    if kind == "AVIF":
        stored = np.asarray(imagecodecs.avif_decode(data))  # the loss of which a wide space makes more
    expected = meant(stored.astype(float), name)
    assert np.abs(pixels - expected).mean() <= 1
    assert np.abs(expected - stored).mean() > 2
    assert notes == ()


def test_alpha_and_deep_values_are_converted_too() -> None:
    stored = quantize(colours(), 8)
    profile = rgb_profile("Display P3")
    glass = np.dstack([stored, np.full(stored.shape[:2], 128, np.uint8)])
    pixels, _ = read(encode(glass, "PNG", icc_profile=profile))
    expected = meant(stored.astype(float), "Display P3") * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels - expected).mean() <= 1
    palette = PIL.Image.fromarray(stored).quantize(64)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", icc_profile=profile)
    pixels, _ = read(buffer.getvalue())
    assert np.abs(pixels - meant(np.asarray(palette.convert("RGB"), float), "Display P3")).mean() <= 1


def test_grey_profiles_are_applied_and_those_of_colours_to_grey() -> None:
    stored = quantize(greys(), 8)
    dark = write_profile(b"GRAY", {b"wtpt": tag_xyz([0.9642, 1.0, 0.8249]), b"kTRC": tag_curve(1.0)})
    pixels, notes = read(encode(stored, "PNG", icc_profile=dark))
    light = (stored / 255)[..., None] * np.array([0.9642, 1.0, 0.8249])
    assert np.abs(pixels - to_srgb(light)).mean() <= 1
    assert notes == ()
    pixels, notes = read(encode(stored, "PNG", icc_profile=rgb_profile("ProPhoto")))
    assert np.abs(pixels - meant(np.stack([stored.astype(float)] * 3, axis=-1), "ProPhoto")).mean() <= 1
    assert notes == ()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_those_of_their_press(kind: str) -> None:
    ink = np.dstack([quantize(0.8 * (1 - colours()), 8), quantize(0.3 * greys(), 8)])
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(ink, "CMYK")
    image.save(buffer, kind, icc_profile=ink_profile(), **options)
    pixels, notes = read(buffer.getvalue())
    expected = to_srgb(print_inks(ink / 255))
    assert np.abs(pixels - expected).mean() <= 1
    assert np.abs(np.asarray(image.convert("RGB"), float) - expected).mean() > 20
    assert notes == ("CMYK colours were converted to RGB",)
    image.save(buffer := io.BytesIO(), kind, icc_profile=rgb_profile("Adobe RGB"), **options)
    _, notes = read(buffer.getvalue())
    assert notes[1:] == ("the colour profile is for RGB colours; it is not used",)


def test_srgb_profiles_change_nothing() -> None:
    stored = quantize(colours(), 8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels, notes = read(encode(stored, "PNG", icc_profile=profile))
    assert (pixels == stored).all()
    assert notes == ()


@pytest.mark.parametrize("profile", [b"nonsense" * 40, rgb_profile("ProPhoto")[:200], b"x"])
def test_a_broken_profile_is_a_warning(profile: bytes) -> None:
    stored = quantize(colours(), 8)
    pixels, notes = read(encode(stored, "PNG", icc_profile=profile))
    assert (pixels == stored).all()
    assert len(notes) == 1
    assert notes[0].startswith("the colour profile is ")


def test_a_profile_of_megabytes_is_used() -> None:
    stored = quantize(colours(), 8)
    profile = rgb_profile("Adobe RGB", padding=2_500_000)
    assert len(zlib.compress(profile)) > 2_000_000
    pixels, _ = read(encode(stored, "PNG", icc_profile=profile))
    assert np.abs(pixels - meant(stored.astype(float), "Adobe RGB")).mean() <= 1


def test_a_profile_comes_before_gamma() -> None:
    stored = quantize(colours(), 8)
    data = encode(stored, "PNG", icc_profile=rgb_profile("Adobe RGB"))
    header_end = 8 + 25
    data = data[:header_end] + chunk(b"gAMA", struct.pack(">I", 100_000)) + data[header_end:]
    pixels, _ = read(data)
    assert np.abs(pixels - meant(stored.astype(float), "Adobe RGB")).mean() <= 1


P3_TO_SRGB = (
    (1.2249401762805598, -0.2249401762805597, 0.0),
    (-0.0420569547096881, 1.042056954709688, 0.0),
    (-0.0196375545903344, -0.0786360455506319, 1.0982736001409663),
)
"""Of linear values: Display P3 to sRGB, as CSS Color 4 publishes it (section 18)."""


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]


def from_p3(stored: Any) -> Any:
    values = stored / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ np.array(P3_TO_SRGB).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_png_may_tell_its_colours_by_a_code() -> None:
    stored = quantize(colours(), 8)
    plain = encode(stored, "PNG")
    pixels, notes = read(with_chunks(plain, chunk(b"cICP", bytes((12, 13, 0, 1)))))
    assert np.abs(pixels - from_p3(stored)).mean() <= 1
    assert not notes
    pixels, _ = read(with_chunks(plain, chunk(b"cICP", bytes((1, 13, 0, 1)))))
    assert (pixels == stored).all()
    profiled = encode(stored, "PNG", icc_profile=rgb_profile("Adobe RGB"))
    pixels, _ = read(with_chunks(profiled, chunk(b"cICP", bytes((1, 13, 0, 1)))))
    assert (pixels == stored).all(), "the code comes before the profile"
    _, notes = read(with_chunks(plain, chunk(b"cICP", bytes((77, 13, 0, 1)))))
    assert notes == ("the colour coding 77/13 is unknown; the colours are used as they are stored",)
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        with pytest.raises(SourceError, match=f"HDR PNG \\({name}\\)"):
            read(with_chunks(plain, chunk(b"cICP", bytes((9, transfer, 0, 1)))))


def test_a_png_may_tell_its_primaries() -> None:
    stored = quantize(colours(), 8)
    p3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    primaries = chunk(b"cHRM", struct.pack(">8I", *p3))
    pixels, _ = read(with_chunks(encode(stored, "PNG"), primaries))
    assert np.abs(pixels - from_p3(stored)).mean() <= 1
    pixels, _ = read(with_chunks(encode(stored, "PNG"), primaries, chunk(b"sRGB", b"\0")))
    assert (pixels == stored).all()
    _, notes = read(with_chunks(encode(stored, "PNG"), chunk(b"cHRM", bytes(32))))
    assert notes == ("its primaries are no colours; the colours are used as they are stored",)
