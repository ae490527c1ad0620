"""Whatever Pillow opens comes out upright, RGB, with its losses told; whatever else fails by name."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from PIL import ImageCms

from idefics_cli.errors import SourceError
from idefics_cli.images import Limits, decode
from idefics_cli.values import Image

LIMITS = Limits()


def encode(image: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(data: bytes, limits: Limits = LIMITS) -> Image:
    image = decode(data, "pic.bin", limits)
    assert image.pixels.mode == "RGB"
    return image


def fail(data: bytes | Path, limits: Limits = LIMITS, source: str = "pic.bin") -> SourceError:
    with pytest.raises(SourceError) as caught:
        decode(data, source, limits)
    message = str(caught.value)
    assert message.isprintable()
    return caught.value


def corners() -> PIL.Image.Image:
    """3 x 2, every pixel different."""
    image = PIL.Image.new("RGB", (3, 2))
    image.putdata([(0, 0, 0), (80, 0, 0), (160, 0, 0), (0, 80, 0), (0, 160, 0), (0, 240, 0)])
    return image


def noise(size: int = 64) -> PIL.Image.Image:
    grey = PIL.Image.effect_noise((size, size), 90)
    return PIL.Image.merge("RGB", [grey, grey.transpose(PIL.Image.Transpose.ROTATE_90), grey])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "QOI", "TGA"])
def test_plain_images_pass_unchanged_and_unremarked(kind: str) -> None:
    image = read(encode(corners(), kind))
    assert image.pixels.tobytes() == corners().tobytes()
    assert image.warnings == ()
    assert image.source == "pic.bin"


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_plain_grey_and_palette_are_unremarked(mode: str) -> None:
    assert read(encode(PIL.Image.new(mode, (4, 4)))).warnings == ()


@pytest.mark.parametrize("size", [(8, 8), (128, 128)], ids=["of pixels", "of the file"])
def test_equal_digests_are_equal_pixels(size: tuple[int, int], tmp_path: Path) -> None:
    """The digest is taken of the file's bytes or of the pixels, whichever are fewer."""
    plain = corners().resize(size, PIL.Image.Resampling.NEAREST)
    glass = plain.convert("RGBA")
    glass.putalpha(128)
    turned = PIL.Image.Exif()
    turned[0x0112] = 3
    path = tmp_path / "a.png"
    path.write_bytes(encode(plain))
    images = [
        read(encode(plain)),
        decode(path, str(path), LIMITS),
        read(encode(plain, exif=turned)),
        read(encode(plain.rotate(90))),
        read(encode(plain.convert("L"))),
        read(encode(glass)),
        read(encode(glass), Limits(background=(0, 0, 0))),
        read(encode(plain), Limits(max_pixels=20_000)),
    ]
    assert images[0].digest == images[1].digest == images[-1].digest
    assert len(images[0].digest) == 32
    pixels: dict[str, tuple[tuple[int, int], bytes]] = {}
    for image in images:
        seen = (image.pixels.size, image.pixels.tobytes())
        assert pixels.setdefault(image.digest, seen) == seen
    assert len(pixels) == 6


def test_what_has_the_same_bytes_in_another_shape_has_another_digest() -> None:
    wide, high = (PIL.Image.new("RGB", size) for size in ((8, 2), (2, 8)))
    assert read(encode(wide)).digest != read(encode(high)).digest


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = PIL.Image.new("RGB", (48, 32), "white")
    upright.paste("red", (0, 0, 16, 16))
    upright.paste("blue", (32, 0, 48, 16))
    # Stored as a camera held that way stores it: the inverse of what the viewer must do.
    turn = PIL.Image.Transpose
    inverse = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    stored = upright.transpose(inverse[orientation]) if orientation > 1 else upright
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = read(encode(stored, kind, exif=exif))
    assert image.pixels.size == (48, 32)
    red, blue = image.pixels.getpixel((5, 5)), image.pixels.getpixel((42, 5))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] > 200 > red[2] + 100
    assert blue[2] > 200 > blue[0] + 100
    assert image.warnings == ()


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"]
)
def test_broken_exif_is_a_warning(block: bytes) -> None:
    image = read(encode(corners().resize((48, 32)), "JPEG", exif=block))
    assert image.pixels.size == (48, 32)
    assert image.warnings == ("the EXIF block is broken; the pixels are used as they are stored",)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_without_a_meaning_is_ignored(value: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = value
    assert read(encode(corners(), exif=exif)).pixels.tobytes() == corners().tobytes()


def cut_out(kind: str) -> bytes:
    """A transparent black pixel, then an opaque red (or grey) one."""
    rgb = PIL.Image.new("RGB", (2, 1))
    rgb.putpixel((1, 0), (200, 0, 0))
    rgba = rgb.convert("RGBA")
    rgba.putpixel((0, 0), (0, 0, 0, 0))
    palette = rgb.quantize(2)
    clear = palette.getpixel((0, 0))
    assert isinstance(clear, int)
    return {
        "RGBA": lambda: encode(rgba),
        "LA": lambda: encode(rgba.convert("LA")),
        "P with a transparent index": lambda: encode(palette, transparency=clear),
        "P with alphas": lambda: encode(palette, transparency=bytes(0 if i == clear else 255 for i in range(2))),
        "RGB with tRNS": lambda: encode(rgb, transparency=(0, 0, 0)),
        "L with tRNS": lambda: encode(rgb.convert("L"), transparency=0),
        "I;16 with tRNS": lambda: encode(rgb.convert("L").convert("I;16"), transparency=0),
        "GIF": lambda: encode(palette, "GIF", transparency=clear),
        "WebP": lambda: encode(rgba, "WEBP", lossless=True),
        "TIFF": lambda: encode(rgba, "TIFF"),
    }[kind]()


KINDS_WITH_ALPHA = (
    "RGBA",
    "LA",
    "P with a transparent index",
    "P with alphas",
    "RGB with tRNS",
    "L with tRNS",
    "I;16 with tRNS",
    "GIF",
    "WebP",
    "TIFF",
)


@pytest.mark.parametrize("kind", KINDS_WITH_ALPHA)
def test_transparent_areas_are_put_on_the_background(kind: str) -> None:
    image = read(cut_out(kind))
    assert image.pixels.getpixel((0, 0)) == (255, 255, 255)
    assert image.pixels.getpixel((1, 0)) != (255, 255, 255)
    assert "transparent areas were put on white" in image.warnings
    green = read(cut_out(kind), Limits(background=(0, 255, 16)))
    assert green.pixels.getpixel((0, 0)) == (0, 255, 16)
    assert "transparent areas were put on #00ff10" in green.warnings


def test_half_transparent_is_blended() -> None:
    image = read(encode(PIL.Image.new("RGBA", (1, 1), (0, 0, 255, 51))))
    assert image.pixels.getpixel((0, 0)) == (204, 204, 255)


def test_opaque_alpha_is_unremarked() -> None:
    assert read(encode(corners().convert("RGBA"))).warnings == ()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    deep = PIL.Image.new("I;16", (4, 1))
    for x, value in enumerate((0, 257, 32896, 65535)):
        deep.putpixel((x, 0), value)
    image = read(encode(deep, kind))
    assert image.pixels.getchannel(0).tobytes() == bytes((0, 1, 128, 255))
    assert image.warnings == ("16-bit values were reduced to 8 bits",)


def deep_png(transparent: bytes = b"") -> bytes:
    """2 x 1 RGB pixels of 16 bits a channel, which Pillow reads but does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    line = b"\0" + struct.pack(">6H", 65535, 0, 32896, 257, 514, 771)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    key = chunk(b"tRNS", transparent) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")
    )


def test_16_bit_colour_is_reduced_with_its_key() -> None:
    image = read(deep_png())
    assert image.pixels.tobytes() == bytes((255, 0, 128, 1, 2, 3))
    assert image.warnings == ("16-bit values were reduced to 8 bits",)
    keyed = read(deep_png(struct.pack(">3H", 65535, 0, 32896)))
    assert keyed.pixels.tobytes() == bytes((255, 255, 255, 1, 2, 3))


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I", (-100, 0, 100), (0, 128, 255)),
        ("I", (0, 1_000_000, 2_000_000), (0, 128, 255)),
        ("I", (0, 32896, 65535), (0, 128, 255)),
        ("F", (0.0, 0.5, 1.0), (0, 128, 255)),
        ("F", (0.0, 128.0, 255.0), (0, 128, 255)),
        ("F", (-1.0, 0.0, 1.0), (0, 128, 255)),
        ("F", (0.5, 0.5, 0.5), (128, 128, 128)),
        ("I", (-7, -7, -7), (0, 0, 0)),
    ],
)
def test_wide_values_are_scaled(mode: str, values: tuple[float, ...], expected: tuple[int, ...]) -> None:
    wide = PIL.Image.new(mode, (3, 1))
    for x, value in enumerate(values):
        wide.putpixel((x, 0), value)
    image = read(encode(wide, "TIFF"))
    assert image.pixels.getchannel(0).tobytes() == bytes(expected)
    assert len(image.warnings) == 1


def test_infinite_values_are_refused() -> None:
    error = fail(encode(PIL.Image.new("F", (2, 2), float("inf")), "TIFF"))
    assert (error.code, str(error)) == (
        "not_an_image",
        "pic.bin is damaged (pixel values are not finite numbers)",
    )


def test_cmyk_is_converted() -> None:
    image = read(encode(PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red = image.pixels.getpixel((4, 4))
    assert isinstance(red, tuple)
    assert red[0] > 240 > 20 > max(red[1:])
    assert image.warnings == ("CMYK colours were converted to RGB",)


def test_lab_is_converted() -> None:
    rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    stored = ImageCms.profileToProfile(PIL.Image.new("RGB", (2, 2), (250, 20, 30)), rgb, lab, outputMode="LAB")
    assert stored is not None
    red = read(encode(stored, "TIFF")).pixels.getpixel((0, 0))
    assert isinstance(red, tuple)
    assert red[0] > 220 > 60 > max(red[1:])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_is_used_and_told(kind: str) -> None:
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    image = read(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    red = image.pixels.getpixel((4, 4))
    assert isinstance(red, tuple)
    assert red[0] > 240 > 20 > max(red[1:])
    # Where the header has no number, nobody counts a million frames for a note.
    which = "the first frame" if kind in {"GIF", "TIFF"} else "the first of 3 frames"
    assert image.warnings == (f"only {which} is used",)


def test_pixels_do_not_hold_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(corners()))
    assert type(decode(path, str(path), LIMITS).pixels) is PIL.Image.Image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_is_refused(kind: str, share: float) -> None:
    data = encode(noise(), kind)
    error = fail(data[: int(len(data) * share)])
    assert error.code == "not_an_image"
    assert str(error).startswith("pic.bin is ")
    if kind in {"JPEG", "PNG"} and share > 0.1:
        assert str(error) == "pic.bin is truncated: its end is missing"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "pic.bin is empty (0 bytes)"),
        (b"\x01\x02\x03" * 99, "is not an image in a format that can be read"),
        (b"just words", "is text, not an image"),
        (b"\0" * 5000, "contains only zeros"),
        (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "is a web page (HTML), not an image"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
        (b"%PDF-1.7\n", "is a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a PostScript file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", "ffmpeg -i 'pic.bin' -vf fps=1"),
        (b"\x1a\x45\xdf\xa3\x01\0\0\0webm", "is a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "is a camera RAW file"),
        (b"FUJIFILMCCD-RAW 0201", "develop it to JPEG or PNG first"),
        (b'{"detail": "not found"}', "is JSON, not an image"),
        (b"PK\x03\x04\x14\0", "is a ZIP archive or a document"),
        (b"\x89PNG\r\n\x1a\n", "is truncated or damaged: its header cannot be read"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, reason: str) -> None:
    error = fail(data)
    assert error.code == "not_an_image"
    assert reason in str(error)


def test_heic_without_support_names_the_extra() -> None:
    probe = "import sys; sys.modules['pi_heif'] = sys.modules['pillow_heif'] = None\n" + (
        "from idefics_cli.images import Limits, decode\n"
        "from idefics_cli.errors import SourceError\n"
        "try: decode(b'\\0\\0\\0\\x18ftypheic\\0\\0\\0\\0mif1heic' + bytes(99), 'IMG_1.HEIC', Limits())\n"
        "except SourceError as error: sys.stdout.write(f'{error.code} {error}')\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "not_an_image IMG_1.HEIC is a HEIF image, which needs an extra; pip install 'idefics-cli[heif]'"
    )


def huge_png(width: int, height: int) -> bytes:
    """Only a header: decoding even one line of it would fail."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    idat = struct.pack(">I", 10) + b"IDAT" + b"x" * 10 + struct.pack(">I", zlib.crc32(b"IDAT" + b"x" * 10))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + checked + idat


@pytest.mark.parametrize("side", [10_000, 13_378, 20_000, 1_000_000])
def test_bombs_are_refused_from_the_header(side: int) -> None:
    error = fail(huge_png(side, side), Limits(max_pixels=99_999_999) if side == 10_000 else LIMITS)
    assert error.code == "too_large"
    assert "more" in str(error)
    assert "make it smaller first" in str(error)


@pytest.mark.usefixtures("eager_pillow")
def test_limit_may_be_raised_beyond_that_of_pillow() -> None:
    raised = Limits(max_pixels=500_000_000)
    assert fail(huge_png(20_000, 20_000), raised).code == "not_an_image"
    assert fail(huge_png(30_000, 30_000), raised).code == "too_large"


def test_limit_is_inclusive() -> None:
    data = encode(corners())
    assert read(data, Limits(max_pixels=6)).pixels.size == (3, 2)
    assert str(fail(data, Limits(max_pixels=5))) == (
        "pic.bin has 3 x 2 pixels, more than the limit of 5; make it smaller first"
    )


@pytest.fixture
def eager_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit as it is at the start of a process: other tests raise it."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 89_478_485)


@pytest.mark.usefixtures("eager_pillow")
def test_pillow_warnings_never_surface_in_any_thread() -> None:
    broken = encode(corners(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    large, small = huge_png(10_000, 10_000), Limits(max_pixels=99_000_000)
    seen: list[object] = []

    def work() -> None:
        for _ in range(20):
            seen.append(read(broken).warnings)
            seen.append(fail(large, small).code)

    # pytest has put its own filters in front of the process's, as `python -W error` would.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen.count("too_large") == 80
    assert len(seen) == 160
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.usefixtures("eager_pillow")
def test_warnings_as_errors_do_not_change_the_outcome() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = fail(huge_png(10_000, 10_000), Limits(max_pixels=99_000_000))
    assert "has 10000 x 10000 pixels, more than the limit of 99,000,000" in str(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    fifo = tmp_path / "a.png"
    os.mkfifo(fifo)
    error = fail(fifo, source=str(fifo))
    assert error.code == "not_an_image"
    assert "is a pipe, socket or device" in str(error)


def test_name_in_messages_is_printable(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.png")
    path = tmp_path / name
    path.write_bytes(b"")
    assert str(fail(path, source=name)) == r"caf\xe9\x0a.png is empty (0 bytes)"


def photo(**options: Any) -> bytes:
    """A JPEG of gradients: what is missing of it would not be black or grey."""
    ramp = PIL.Image.radial_gradient("L")
    return encode(PIL.Image.merge("RGB", [ramp, ramp.rotate(90), ramp.rotate(180)]), "JPEG", **options)


RESTARTS: list[dict[str, Any]] = [
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 1, "progressive": True},
]


@pytest.mark.parametrize("options", RESTARTS)
def test_a_jpeg_that_ends_at_a_restart_is_refused(options: dict[str, Any]) -> None:
    """There a decoder would go on, with grey for all that is missing."""
    whole = photo(**options)
    restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole)]
    for place in restarts[-4:]:
        for end in (place, place + 2):
            assert "truncated" in str(fail(whole[:end]))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 20}, {"subsampling": 0}, *RESTARTS])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(options: dict[str, Any]) -> None:
    whole = photo(**options)
    for cut in (2, 1):
        image = read(whole[:-cut])
        assert image.pixels.tobytes() == read(whole).pixels.tobytes()
        assert image.warnings == ("the end marker is missing; all pixels are there",)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_lacks_more_is_refused(options: dict[str, Any]) -> None:
    whole = photo(**options)
    for cut in (6, 9, 20, 50, 200, 1000):
        assert "truncated" in str(fail(whole[:-cut]))
        assert "truncated" in str(fail(whole[:-cut] + b"\0" * cut))
        assert "truncated" in str(fail(whole[:-cut] + b"\0" * 4096))
    assert read(whole + b"trailer\0\0\0\0").warnings == ()


@pytest.mark.parametrize("brand", [b"isom", b"mp42", b"qt  ", b"M4V ", b"3gp5"])
def test_videos_are_refused_with_what_to_do(brand: bytes) -> None:
    message = str(fail(b"\0\0\0\x20ftyp" + brand + bytes(20), source="holiday/a.mp4"))
    assert message == (
        "holiday/a.mp4 is a video; ffmpeg -i 'holiday/a.mp4' -vf fps=1 frame-%04d.png makes images of it"
    )


@pytest.mark.parametrize(("edge", "divisor"), [(None, 1), (20, 8), (30, 4), (60, 2), (101, 1)])
def test_a_jpeg_may_be_decoded_smaller_where_little_is_wanted(edge: int | None, divisor: int) -> None:
    """At least twice what is wanted is left, and resized to that the pixels are nearly the same."""
    data = encode(noise(8).resize((400, 320), PIL.Image.Resampling.BICUBIC), "JPEG", quality=95)
    whole, image = read(data), read(data, Limits(draft_edge=edge))
    assert image.pixels.size == (400 // divisor, 320 // divisor)
    assert image.warnings == (() if divisor == 1 else (f"decoded at 1/{divisor} of its size, as --fast-decode allows",))
    assert (image.digest == whole.digest) == (edge is None)
    small = [one.pixels.resize((20, 16), PIL.Image.Resampling.BICUBIC).tobytes() for one in (image, whole)]
    assert max(abs(one - other) for one, other in zip(*small, strict=True)) <= 6
    assert read(encode(noise(400)), Limits(draft_edge=20)).pixels.size == (400, 400), "no other format"
