"""Restart markers of a JPEG: they let a decoder continue after a gap, and so hide a missing end."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_BARE = (0xD8, 0x01)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_INTERVAL, _SCAN, _END = 0xDD, 0xDA, 0xD9
_Factors = Mapping[int, tuple[int, int]]


def reaches_last_interval(content: bytes) -> bool:
    """Whether the last scan has all its restart markers, so that only its last interval may be incomplete."""
    try:
        return _reaches(content)
    except (struct.error, ArithmeticError, LookupError, ValueError):
        return False  # its segments are not what they say


def _reaches(content: bytes) -> bool:
    size, factors, interval = (0, 0), dict[int, tuple[int, int]](), 0
    found = _MARKER.match(content)
    while found is not None:
        kind, place = found[1][0], found.end()
        if kind in _BARE:
            found = _MARKER.match(content, place)
            continue
        if kind == _END or place + 2 > len(content):
            return False
        length = struct.unpack_from(">H", content, place)[0]
        body = content[place + 2 : place + length]
        if kind in _FRAMES:
            size = struct.unpack_from(">HH", body, 1)
            factors = {body[at]: (body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, len(body) - 2, 3)}
        elif kind == _INTERVAL:
            interval = struct.unpack_from(">H", body)[0]
        if kind != _SCAN:
            found = _MARKER.match(content, place + length)
            continue
        scan = place + length
        found = _MARKER.search(content, scan)
        if found is None:
            units = _count_units(size, factors, [body[at] for at in range(1, 1 + 2 * body[0], 2)])
            return interval == 0 or len(_RESTART.findall(content, scan)) == -(-units // interval) - 1
    return False


def _count_units(size: tuple[int, int], factors: _Factors, shown: list[int]) -> int:
    """The number of units in a scan of these components."""
    height, width = size
    widest, highest = (max(one) for one in zip(*factors.values(), strict=True))
    across, down = factors[shown[0]] if len(shown) == 1 else (1, 1)
    unit_width, unit_height = (8, 8) if len(shown) == 1 else (8 * widest, 8 * highest)
    if len(shown) == 1:
        width, height = -(-width * across // widest), -(-height * down // highest)
    return -(-width // unit_width) * -(-height // unit_height)
