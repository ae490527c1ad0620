"""The XMP packet in a JPEG, PNG or WebP file: read or replaced; all other bytes stay the same."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import BadItem

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_JPEG_XMP, _EXIF = b"http://ns.adobe.com/xap/1.0/\0", b"Exif\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_MAX_SEGMENT = 65_533
MAX_PACKET_BYTES = 10_000_000
_XMP_FLAG = 0x04


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a packet is, or goes: the bytes before and after it, and the packet if there is one."""

    start: int
    stop: int
    packet: bytes | None = None


def find_packet(image: bytes) -> bytes | None:
    """The packet of an image; None if it has none. Raises BadItem for a format that is not written."""
    return _find_place(image).packet


def embed_packet(image: bytes, packet: bytes) -> bytes:
    """The image with this packet instead of its own. Raises BadItem."""
    place = _find_place(image)
    before, after = image[: place.start], image[place.stop :]
    if image.startswith(_JPEG):
        body = _JPEG_XMP + packet
        if len(body) > _MAX_SEGMENT:
            raise BadItem("its XMP would be too large for a JPEG", hint="write it beside: --sidecar xmp")
        return before + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + after
    if image.startswith(_PNG):
        body = b"iTXt" + _PNG_XMP + b"\0\0\0\0" + packet
        return before + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + after
    return _finish_webp(before, packet, after)


def _find_place(image: bytes) -> _Place:
    try:
        if image.startswith(_JPEG):
            return _find_in_jpeg(image)
        if image.startswith(_PNG):
            return _find_in_png(image)
        if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
            return _find_in_webp(image)
    except (struct.error, IndexError, zlib.error) as error:
        raise BadItem("its parts cannot be told apart") from error
    raise BadItem("metadata is written into JPEG, PNG and WebP only", hint="write it beside: --sidecar xmp")


def _find_in_jpeg(image: bytes) -> _Place:
    place, new = 2, 2
    while image[place] == 0xFF and image[place + 1] != 0xDA:
        if image[place + 1] == 0xFF:  # fill bytes
            place += 1
            continue
        (size,) = struct.unpack_from(">H", image, place + 2)
        stop, body = place + 2 + size, place + 4
        if image[place + 1] == 0xE1 and image.startswith(_JPEG_XMP, body):
            return _Place(place, stop, image[body + len(_JPEG_XMP) : stop])
        if image[place + 1] == 0xE0 or (image[place + 1] == 0xE1 and image.startswith(_EXIF, body)):
            new = stop
        place = stop
    return _Place(new, new)


def _find_in_png(image: bytes) -> _Place:
    place = len(_PNG)
    new = 0
    while place < len(image):
        (size,) = struct.unpack_from(">I", image, place)
        kind, stop, body = image[place + 4 : place + 8], place + 12 + size, place + 8
        if kind == b"iTXt" and image.startswith(_PNG_XMP, body):
            flag = image[body + len(_PNG_XMP)]
            text = image[body + len(_PNG_XMP) + 2 : stop - 4].split(b"\0", 2)[2]
            return _Place(place, stop, zlib.decompressobj().decompress(text, MAX_PACKET_BYTES) if flag else text)
        if kind == b"IDAT" and not new:
            new = place
        if kind == b"IEND":
            break
        place = stop
    if not new:
        raise BadItem("its parts cannot be told apart")
    return _Place(new, new)


def _list_chunks(image: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the chunks of a RIFF file, with their headers and padding."""
    place, end = 12, min(len(image), struct.unpack_from("<I", image, 4)[0] + 8)
    while place + 8 <= end:
        (size,) = struct.unpack_from("<I", image, place + 4)
        stop = place + 8 + size + size % 2
        yield image[place : place + 4], place, stop
        place = stop


def _find_in_webp(image: bytes) -> _Place:
    last = 12
    for kind, start, stop in _list_chunks(image):
        if kind == b"XMP ":
            (size,) = struct.unpack_from("<I", image, start + 4)
            return _Place(start, stop, image[start + 8 : start + 8 + size])
        last = stop
    return _Place(last, last)


def _finish_webp(before: bytes, packet: bytes, after: bytes) -> bytes:
    """The parts joined, with the header that announces a packet."""
    chunk = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    if before[12:16] == b"VP8X":
        before = before[:20] + bytes([before[20] | _XMP_FLAG]) + before[21:]
    else:
        width, height, alpha = _read_size(before)
        flags = _XMP_FLAG | (0x10 if alpha else 0)
        edges = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        before = before[:12] + b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + edges + before[12:]
    whole = before + chunk + after
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def _read_size(image: bytes) -> tuple[int, int, bool]:
    """Width, height and transparency of a WebP that holds one image and nothing else."""
    if image[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", image, 26)
        return width & 0x3FFF, height & 0x3FFF, False
    if image[12:16] == b"VP8L" and image[20] == 0x2F:
        bits = int.from_bytes(image[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    raise BadItem("its parts cannot be told apart")
