"""Files of every format, depth and layout that other programs write, each with the pixels it shows.

Made by tifffile, imagecodecs, Pillow or by hand from one picture of smooth colours with saturated patches.
"""

from __future__ import annotations

import functools
import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

Array = NDArray[Any]
HEIGHT, WIDTH = 48, 64


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes | bytearray
    shown: Array
    """8-bit RGB, as any right viewer shows it (transparent areas on white)."""


@functools.cache
def colours() -> Array:
    """RGB from 0 to 1."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / [[[HEIGHT - 1]], [[WIDTH - 1]]]
    picture = np.stack([0.1 + 0.8 * x, 0.15 + 0.7 * y, 0.9 - 0.8 * x * y], axis=-1)
    picture[:16, :16] = (1, 0.5, 0)
    picture[:16, 48:] = 1
    picture[32:, :16] = 0
    picture[32:, 48:] = (0, 0, 1)
    return picture


@functools.cache
def greys() -> Array:
    return np.asarray(colours().mean(axis=-1))


@functools.cache
def alphas() -> Array:
    return np.where(np.mgrid[0:HEIGHT, 0:WIDTH][0] < HEIGHT // 2, 1.0, 0.4)


def quantize(values: Array, bits: int) -> Array:
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    return np.asarray(np.round(values * (2**bits - 1)), kind)


def show(values: Array, bits: int = 8, alpha: Array | None = None) -> Array:
    """What a picture of so many bits shows."""
    seen = quantize(values, bits) / (2**bits - 1)
    if seen.ndim == 2:
        seen = np.stack([seen] * 3, axis=-1)
    if alpha is not None:
        seen = seen * alpha[..., None] + 1 - alpha[..., None]
    return np.asarray(np.round(seen * 255))


def list_cases() -> Iterator[Case]:
    for maker in (tiffs, odd_tiffs, pngs, jpegs, jpeg2000s, modern, bitmaps, by_pillow, netpbm):
        yield from maker()


def write_tiff(array: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def tiffs() -> Iterator[Case]:
    for bits, photometric, order, compression in itertools.product(
        (8, 16, 32), ("minisblack", "miniswhite"), "<>", (None, "zlib", "lzw")
    ):
        stored = 1 - greys() if photometric == "miniswhite" else greys()
        data = write_tiff(quantize(stored, bits), photometric=photometric, byteorder=order, compression=compression)
        yield Case(f"TIFF grey {bits} {photometric} {order} {compression}", data, show(greys()))
    for kind, order, photometric in itertools.product(("f2", "f4", "f8"), "<>", ("minisblack", "miniswhite")):
        stored = 1 - greys() if photometric == "miniswhite" else greys()
        data = write_tiff(stored.astype(kind), photometric=photometric, byteorder=order)
        yield Case(f"TIFF grey {kind} {photometric} {order}", data, show(greys()))
    for kind in ("i1", "i2", "i4"):
        half = 2 ** (8 * int(kind[1]) - 1)
        stored = np.round((greys() * 2 - 1) * (half - 1)).astype(kind)
        yield Case(f"TIFF grey {kind}", write_tiff(stored, photometric="minisblack"), show(greys()))
    for bits, planar, order, compression, tile in itertools.product(
        (8, 16), ("contig", "separate"), "<>", (None, "zlib", "packbits", "zstd"), (None, (16, 16))
    ):
        stored = quantize(colours(), bits)
        if planar == "separate":
            stored = np.ascontiguousarray(stored.transpose(2, 0, 1))
        data = write_tiff(
            stored,
            photometric="rgb",
            planarconfig=planar,
            byteorder=order,
            compression=compression,
            tile=tile,
            predictor=compression == "zlib",
        )
        name = f"TIFF RGB {bits} {planar} {order} {compression}{' tiles' if tile else ''}"
        yield Case(name, data, show(colours()))
    for bits, planar, kind in itertools.product(
        (8, 16), ("contig", "separate"), ("unassalpha", "assocalpha", "unspecified")
    ):
        ground = colours() * alphas()[..., None] if kind == "assocalpha" else colours()
        stored = quantize(np.dstack([ground, alphas()]), bits)
        if planar == "separate":
            stored = np.ascontiguousarray(stored.transpose(2, 0, 1))
        data = write_tiff(stored, photometric="rgb", planarconfig=planar, extrasamples=[kind])
        seen = show(colours(), alpha=None if kind == "unspecified" else alphas())
        yield Case(f"TIFF RGBA {bits} {planar} {kind}", data, seen)


def odd_tiffs() -> Iterator[Case]:
    for bits, photometric in itertools.product((1, 2, 4, 10, 12, 14), ("minisblack", "miniswhite")):
        stored = 1 - greys() if photometric == "miniswhite" else greys()
        array = quantize(stored, bits)
        packed = pack(array, bits)
        data = raw_tiff(packed, bits=bits, photometric=photometric == "minisblack")
        seen = array / (2**bits - 1)
        yield Case(f"TIFF grey {bits} {photometric}", data, show(1 - seen if photometric == "miniswhite" else seen))
    yield Case("TIFF RGB f4", write_tiff(colours().astype("f4"), photometric="rgb"), show(colours()))
    yield Case("TIFF RGB 32", write_tiff(quantize(colours(), 32), photometric="rgb"), show(colours()))
    yield Case("TIFF big", write_tiff(quantize(colours(), 8), photometric="rgb", bigtiff=True), show(colours()))
    for bits in (8, 16):
        ink = quantize(np.dstack([1 - colours(), np.zeros((HEIGHT, WIDTH))]), bits)
        yield Case(f"TIFF CMYK {bits}", write_tiff(ink, photometric="separated"), show(colours()))
    for bits, channel in itertools.product((8, 16), ("unassalpha", "assocalpha")):
        ground = greys() * alphas() if channel == "assocalpha" else greys()
        data = write_tiff(
            quantize(np.dstack([ground, alphas()]), bits),
            photometric="minisblack",
            extrasamples=[channel],
            planarconfig="contig",
        )
        yield Case(f"TIFF LA {bits} {channel}", data, show(greys(), alpha=alphas()))
    index = quantize(greys(), 8)
    ramp = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 40)]).astype(np.uint16)
    data = write_tiff(index, photometric="palette", colormap=ramp * 257)
    yield Case("TIFF palette", data, ramp.T[index].astype(float))
    data = by(quantize(colours(), 8), "TIFF", compression="jpeg", quality=97)
    yield Case("TIFF JPEG", data, tifffile.imread(io.BytesIO(data)).astype(float))
    data = write_tiff(quantize(colours(), 8), photometric="rgb", compression="jpeg", compressionargs={"level": 97})
    yield Case("TIFF JPEG of RGB", data, tifffile.imread(io.BytesIO(data)).astype(float))
    for compression in ("jpeg2000", "jpegxl", "webp", "lzma", "lerc", "png"):
        data = write_tiff(quantize(colours(), 8), photometric="rgb", compression=compression)
        yield Case(f"TIFF RGB 8 {compression}", data, show(colours()))
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(quantize(1 - colours()[::4, ::4], 8), photometric="rgb", subfiletype=1, metadata=None)
        writer.write(quantize(colours(), 8), photometric="rgb", metadata=None)
    yield Case("TIFF with a thumbnail first", buffer.getvalue(), show(colours()))


def pack(rows: Array, bits: int) -> bytes:
    """Rows of values of so many bits, each row padded to a byte."""
    digits = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def raw_tiff(packed: bytes, *, bits: int, photometric: int, subfile: int = 0) -> bytes:
    """One uncompressed strip of grey values of any width."""
    entries = [
        (254, 4, subfile),
        (256, 3, WIDTH),
        (257, 3, HEIGHT),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, HEIGHT),
        (279, 4, len(packed)),
    ]
    packed += b"\0" * (len(packed) % 2)
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, 1, value, *[0] * (kind == 3))
    return struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + directory + b"\0" * 4


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_png(array: Array, bits: int, colour: int, *extra: bytes) -> bytes:
    """A PNG of any depth, its chunks between header and data as given."""
    height, width = array.shape[:2]
    rows = array.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        lines = [pack(row[None], bits) if bits < 8 else row.tobytes() for row in rows]
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
            *extra,
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))),
            chunk(b"IEND", b""),
        )
    )


def pngs() -> Iterator[Case]:
    for bits in (1, 2, 4, 8, 16):
        grey = quantize(greys(), bits)
        yield Case(f"PNG grey {bits}", write_png(grey, bits, 0), show(greys(), bits))
        key = int(grey[24, 24])
        clear = np.where(grey == key, 0.0, 1.0)
        data = write_png(grey, bits, 0, chunk(b"tRNS", struct.pack(">H", key)))
        yield Case(f"PNG grey {bits} tRNS", data, show(greys(), bits, clear))
    for bits in (8, 16):
        colour = quantize(colours(), bits)
        yield Case(f"PNG RGB {bits}", write_png(colour, bits, 2), show(colours()))
        clear = np.where((colour == colour[4, 4]).all(axis=-1), 0.0, 1.0)
        data = write_png(colour, bits, 2, chunk(b"tRNS", struct.pack(">3H", *map(int, colour[4, 4]))))
        yield Case(f"PNG RGB {bits} tRNS", data, show(colours(), alpha=clear))
        yield Case(
            f"PNG LA {bits}",
            write_png(quantize(np.dstack([greys(), alphas()]), bits), bits, 4),
            show(greys(), alpha=alphas()),
        )
        yield Case(
            f"PNG RGBA {bits}",
            write_png(quantize(np.dstack([colours(), alphas()]), bits), bits, 6),
            show(colours(), alpha=alphas()),
        )
        linear = quantize(colours() ** 2.2, bits)
        for gamma, power in ((1.0, 1 / 2.2), (0.45455, 1.0)):
            stored = linear if gamma == 1 else colour
            data = write_png(stored, bits, 2, chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000))))
            seen = np.round((stored / (2**bits - 1)) ** power * 255)
            yield Case(f"PNG RGB {bits} gAMA {gamma}", data, seen)
        data = write_png(colour, bits, 2, chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"sRGB", b"\0"))
        yield Case(f"PNG RGB {bits} gAMA under sRGB", data, show(colours()))
    for bits in (1, 2, 4, 8):
        index = quantize(greys(), bits)
        ramp = np.stack([np.arange(2**bits) * (255 >> bits), np.full(2**bits, 9), np.full(2**bits, 99)], axis=-1)
        palette = chunk(b"PLTE", ramp.astype(np.uint8).tobytes())
        yield Case(f"PNG palette {bits}", write_png(index, bits, 3, palette), ramp[index].astype(float))
        data = write_png(index, bits, 3, palette, chunk(b"tRNS", b"\0"))
        yield Case(f"PNG palette {bits} tRNS", data, np.where(index[..., None] == 0, 255.0, ramp[index]))
    text = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 1_500_000))
    yield Case("PNG with 3 MB of text", write_png(quantize(colours(), 8), 8, 2, text), show(colours()))
    many = chunk(b"tEXt", b"workflow\0" + bytes(range(97, 123)) * 40_000) * 80
    yield Case("PNG with 80 MB of text", write_png(quantize(colours(), 8), 8, 2, many), show(colours()))


def jpegs() -> Iterator[Case]:
    eight = quantize(colours(), 8)
    for subsampling in ("444", "422", "420"):
        for options in ({}, {"progressive": True}):
            data = by(eight, "JPEG", quality=97, subsampling={"444": 0, "422": 1, "420": 2}[subsampling], **options)
            seen = imagecodecs.jpeg8_decode(data).astype(float)  # halved colours are not those that went in
            yield Case(f"JPEG YCC {subsampling} {options}", data, seen)
    data = by(eight, "JPEG", quality=97, keep_rgb=True)
    yield Case("JPEG RGB", data, show(colours()))
    yield Case("JPEG grey", by(quantize(greys(), 8), "JPEG", quality=97), show(greys()))
    ink = np.dstack([quantize(1 - colours(), 8), np.zeros((HEIGHT, WIDTH), np.uint8)])
    buffer = io.BytesIO()
    PIL.Image.fromarray(ink, "CMYK").save(buffer, "JPEG", quality=97)
    yield Case("JPEG CMYK", buffer.getvalue(), show(colours()))
    for channels, picture in (("grey", greys()), ("RGB", colours())):
        data = bytes(imagecodecs.jpeg_encode(quantize(picture, 12), level=97, bitspersample=12))
        yield Case(f"JPEG {channels} 12", data, show(imagecodecs.jpeg8_decode(data) / 4095))
    for bits, picture in ((8, greys()), (12, greys()), (16, greys())):
        data = bytes(imagecodecs.ljpeg_encode(quantize(picture, bits), bitspersample=bits))
        yield Case(f"JPEG lossless {picture.ndim} {bits}", data, show(picture))
    yield Case("JPEG-LS", imagecodecs.jpegls_encode(eight), show(colours()))


def by(array: Array, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg2000s() -> Iterator[Case]:
    pictures = {
        "grey": (greys(), show(greys())),
        "RGB": (colours(), show(colours())),
        "RGBA": (np.dstack([colours(), alphas()]), show(colours(), alpha=alphas())),
    }
    for (channels, (picture, seen)), bits, container in itertools.product(
        pictures.items(), (8, 10, 12, 16), ("jp2", "j2k")
    ):
        if channels == "RGBA" and container == "j2k":
            continue
        data = imagecodecs.jpeg2k_encode(
            quantize(picture, bits), bitspersample=bits, codecformat=container, level=0, reversible=True
        )
        yield Case(f"JPEG 2000 {channels} {bits} {container}", data, seen)


def modern() -> Iterator[Case]:
    eight = quantize(colours(), 8)
    with_alpha = np.dstack([eight, quantize(alphas(), 8)])
    clear = show(colours(), alpha=alphas())
    yield Case("WebP", imagecodecs.webp_encode(eight, level=98), show(colours()))
    yield Case("WebP lossless", imagecodecs.webp_encode(eight, lossless=True), show(colours()))
    yield Case("WebP alpha", imagecodecs.webp_encode(with_alpha, lossless=True), clear)
    for bits in (8, 10, 12):
        data = imagecodecs.avif_encode(quantize(colours(), bits), level=98, bitspersample=bits)
        yield Case(f"AVIF {bits}", data, show(colours()))
    yield Case("AVIF alpha", imagecodecs.avif_encode(with_alpha, level=98), clear)
    for bits in (8, 16):
        yield Case(f"JPEG XL {bits}", imagecodecs.jpegxl_encode(quantize(colours(), bits), level=98), show(colours()))
        yield Case(
            f"JPEG XL grey {bits}",
            imagecodecs.jpegxl_encode(quantize(greys(), bits), level=98),
            show(greys()),
        )
    yield Case("JPEG XL alpha", imagecodecs.jpegxl_encode(with_alpha, lossless=True), clear)
    yield Case("JPEG XR", imagecodecs.jpegxr_encode(eight, level=98), show(colours()))
    yield Case("QOI", imagecodecs.qoi_encode(eight), show(colours()))
    yield Case("QOI alpha", imagecodecs.qoi_encode(with_alpha), clear)
    yield Case("HDR", imagecodecs.rgbe_encode(colours().astype("f4"), header=True), show(colours()))


def bitmaps() -> Iterator[Case]:
    eight = quantize(colours(), 8)
    yield Case("BMP 24", by(eight, "BMP"), show(colours()))
    yield Case("BMP grey", by(quantize(greys(), 8), "BMP"), show(greys()))
    yield Case("BMP 1", by(quantize(greys(), 1).astype(bool), "BMP"), show(greys(), 1))
    bgr = eight[::-1, :, ::-1]
    for alpha in (0, 255, 128):
        pixels = np.dstack([bgr, np.full((HEIGHT, WIDTH), alpha, np.uint8)]).tobytes()
        masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        header = struct.pack("<IiiHHIIiiII", 124, WIDTH, HEIGHT, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
        header += masks + struct.pack("<I", 0x73524742) + bytes(124 - 60)
        data = struct.pack("<2sIHHI", b"BM", 14 + 124 + len(pixels), 0, 0, 138) + header + pixels
        share = None if alpha != 128 else np.full((HEIGHT, WIDTH), 128 / 255)
        yield Case(f"BMP V5 alpha {alpha}", data, show(colours(), alpha=share))
    for attributes, alpha in ((0, 0), (8, 255), (8, 102)):
        pixels = np.dstack([eight[..., ::-1], np.full((HEIGHT, WIDTH), alpha, np.uint8)]).tobytes()
        header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 32, 0x20 | attributes)
        share = None if alpha != 102 else np.full((HEIGHT, WIDTH), 0.4)
        yield Case(f"TGA {attributes} attribute bits, {alpha}", header + pixels, show(colours(), alpha=share))
    for bits in (5,):
        fives = quantize(colours(), bits).astype(np.uint16)
        words = fives[..., 0] << 10 | fives[..., 1] << 5 | fives[..., 2]
        header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 16, 0x20)
        yield Case("TGA 16", header + words.astype("<u2").tobytes(), show(colours(), bits))
        pixels = words[::-1].astype("<u2").tobytes()
        header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 0, len(pixels), 2835, 2835, 0, 0)
        data = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54) + header + pixels
        yield Case("BMP 16", data, show(colours(), bits))


def by_pillow() -> Iterator[Case]:
    eight, grey = quantize(colours(), 8), quantize(greys(), 8)
    with_alpha = np.dstack([eight, quantize(alphas(), 8)])
    clear = show(colours(), alpha=alphas())
    yield Case("GIF grey", by(grey, "GIF"), show(greys()))
    yield Case("PCX", by(eight, "PCX"), show(colours()))
    yield Case("PCX grey", by(grey, "PCX"), show(greys()))
    yield Case("SGI", by(eight, "SGI"), show(colours()))
    yield Case("SGI grey", by(grey, "SGI"), show(greys()))
    yield Case("SGI 16", by(eight, "SGI", bpc=2), show(colours()))
    yield Case("SGI alpha", by(with_alpha, "SGI"), clear)
    yield Case("TGA RLE", by(eight, "TGA", compression="tga_rle"), show(colours()))
    yield Case("TGA grey", by(grey, "TGA"), show(greys()))
    yield Case("DDS", by(eight, "DDS"), show(colours()))
    yield Case("DDS alpha", by(with_alpha, "DDS"), clear)
    yield Case("DIB", by(eight, "DIB"), show(colours()))
    yield Case("ICO", by(with_alpha, "ICO", sizes=[(WIDTH, HEIGHT)]), clear)
    yield Case("ICO of bitmaps", by(with_alpha, "ICO", sizes=[(WIDTH, HEIGHT)], bitmap_format="bmp"), clear)
    yield Case("PNG interlaced", interlaced(eight), show(colours()))


def interlaced(array: Array) -> bytes:
    """Adam7."""
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    lines = b"".join(b"\0" + row.tobytes() for x, y, across, down in passes for row in array[y::down, x::across])
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(lines)),
            chunk(b"IEND", b""),
        )
    )


def netpbm() -> Iterator[Case]:
    for most in (255, 1023, 65535):
        for letter, picture in (("5", greys()), ("6", colours())):
            stored = np.round(picture * most).astype(">u2" if most > 255 else np.uint8)
            head = f"P{letter}\n{WIDTH} {HEIGHT}\n{most}\n".encode()
            yield Case(f"PNM P{letter} {most}", head + stored.tobytes(), show(picture))
            plain = int(letter) - 3
            words = " ".join(str(value) for value in stored.ravel())
            head = f"P{plain}\n{WIDTH} {HEIGHT}\n{most}\n".encode()
            yield Case(f"PNM P{plain} {most}", head + words.encode(), show(picture))
    for order in "<>":
        scale = -1.0 if order == "<" else 1.0
        head = f"Pf\n{WIDTH} {HEIGHT}\n{scale}\n".encode()
        stored = greys()[::-1].astype(f"{order}f4")
        yield Case(f"PFM grey {order}", head + stored.tobytes(), show(greys()))
        head = f"PF\n{WIDTH} {HEIGHT}\n{scale}\n".encode()
        yield Case(f"PFM RGB {order}", head + colours()[::-1].astype(f"{order}f4").tobytes(), show(colours()))
