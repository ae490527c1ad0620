"""Mutants of small images of eight formats, the same for the same seed."""

from __future__ import annotations

import functools
import io
import random
import struct
from collections.abc import Iterator
from typing import Any

import PIL.Image

from tests.images.matrix import alphas, colours, quantize

_ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """PNG, JPEG, GIF, WebP, TIFF, BMP, AVIF and ICO, each in a few of its kinds."""
    colour = PIL.Image.fromarray(quantize(colours(), 8)).resize((24, 18))
    glass = colour.copy()
    glass.putalpha(PIL.Image.fromarray(quantize(alphas(), 8)).resize((24, 18)))
    grey, palette = colour.convert("L"), colour.quantize(16)
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    kinds: tuple[tuple[PIL.Image.Image, str, dict[str, Any]], ...] = (
        (glass, "PNG", {}),
        (palette, "PNG", {"transparency": 3, "exif": turned}),
        (grey.convert("I;16"), "PNG", {}),
        (colour, "JPEG", {"exif": turned}),
        (colour, "JPEG", {"progressive": True, "restart_marker_rows": 1}),
        (colour.convert("CMYK"), "JPEG", {}),
        (palette, "GIF", {"save_all": True, "append_images": [palette.rotate(90)], "transparency": 2}),
        (glass, "WEBP", {"lossless": True}),
        (colour, "WEBP", {"save_all": True, "append_images": [colour.rotate(90)], "exif": turned}),
        (colour, "TIFF", {}),
        (glass, "TIFF", {"compression": "tiff_lzw", "save_all": True, "append_images": [grey]}),
        (colour, "TIFF", {"compression": "jpeg"}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "BMP", {}),
        (palette, "BMP", {}),
        (glass, "AVIF", {"exif": turned}),
        (glass, "ICO", {"sizes": [(24, 18), (16, 16)]}),
        (glass, "ICO", {"sizes": [(16, 16)], "bitmap_format": "bmp"}),
    )
    files: list[bytes] = []
    for image, kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return tuple(files)


def mutants(seed: int) -> Iterator[bytes]:
    """Without end."""
    choice = random.Random(seed)
    while True:
        data = bytearray(choice.choice(seeds()))
        for _ in range(choice.choice((1, 1, 2, 3, 8))):
            _mutate(data, choice)
        yield bytes(data)


def _mutate(data: bytearray, choice: random.Random) -> None:
    # Headers are where the numbers are that everything after depends on.
    place = choice.randrange(min(len(data), 200) if choice.random() < 0.5 else len(data)) if data else 0
    match choice.randrange(7):
        case 0 if data:
            data[place] ^= 1 << choice.randrange(8)
        case 1 if data:
            data[place] = choice.randrange(256)
        case 2:
            width = choice.choice("BHI")
            number = choice.choice(_ODD) & (2 ** (8 * struct.calcsize(width)) - 1)
            packed = struct.pack(choice.choice("<>") + width, number)
            data[place : place + len(packed)] = packed
        case 3:
            del data[place : place + choice.choice((1, 2, 4, 100))]
        case 4:
            data[place:place] = data[place : place + choice.choice((1, 4, 64))] * choice.choice((1, 2, 50))
        case 5:
            other = choice.choice(seeds())
            start = choice.randrange(len(other))
            data[place : place + 40] = other[start : start + 40]
        case _:
            del data[max(place, 1) :]
