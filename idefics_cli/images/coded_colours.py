"""The colours of an image that has numbers instead of an ICC profile: PNG's cICP and cHRM, HEIF's nclx.

They become a profile for `colour` to apply (PNG, third edition, 4.3 and 11.3; ITU-T H.273).
"""

from __future__ import annotations

import functools
import struct
from typing import IO, Any

import PIL.Image

from ..errors import SourceError

Matrix = tuple[tuple[float, ...], ...]
Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue, as cHRM has them."""

SRGB: Chromaticities = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB,
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
"""By the numbers of H.273, table 2."""
_CURVES = {1: "bt709", 4: 2.2, 5: 2.8, 6: "bt709", 8: 1.0, 13: "srgb", 14: "bt709", 15: "bt709"}
"""Powers and curves by the numbers of H.273, table 3."""
_HDR = {16: "PQ", 18: "HLG"}
_UNSAID = 2
"""What both tables have for a number that is left open."""
_CLOSE = 0.002
"""Primaries so near to those of sRGB are they, rounded by another program."""
_STEPS = 1024
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def note_png_colours(image: PIL.Image.Image, file: IO[bytes], name: str, notes: list[str]) -> None:
    """Give a PNG with colour chunks the equivalent profile. Raises SourceError for HDR."""
    info: dict[Any, Any] = image.info
    coding = _find_coding(file)
    if coding is not None:
        primaries, transfer, matrix, is_full = coding
        _refuse_hdr(transfer, "PNG", name)
        if matrix == 0 and is_full and _take_coding(info, primaries, transfer):
            return
        notes.append(_describe_unknown(primaries, transfer))
        return
    told = info.get("chromaticity")
    if info.get("icc_profile") or "srgb" in info or not isinstance(told, tuple) or len(told) != 8:
        return
    if max(abs(one - own) for one, own in zip(told, SRGB, strict=True)) > _CLOSE:
        gamma = info.get("gamma")
        try:
            info["icc_profile"] = make_profile(
                told, 1 / gamma if isinstance(gamma, float) and 0.05 < gamma < 20 else "srgb"
            )
        except (ArithmeticError, struct.error):
            notes.append("its primaries are no colours; the colours are used as they are stored")


def note_heif_colours(image: PIL.Image.Image, name: str, notes: list[str]) -> None:
    """Give a HEIF with numbers and no profile the equivalent one. Raises SourceError for HDR."""
    told = image.info.get("nclx_profile")
    if not isinstance(told, dict):
        return
    primaries, transfer = int(told["color_primaries"]), int(told["transfer_characteristics"])
    _refuse_hdr(transfer, "HEIF", name)
    if image.info.get("icc_profile") or primaries == _UNSAID:
        return
    if not _take_coding(image.info, primaries, 13 if transfer == _UNSAID else transfer):
        notes.append(_describe_unknown(primaries, transfer))


def _refuse_hdr(transfer: int, kind: str, name: str) -> None:
    if transfer in _HDR:
        hint = "save it as an ordinary PNG or JPEG first"
        raise SourceError(f"{name} is an HDR {kind} ({_HDR[transfer]})", code="not_an_image", hint=hint)


def _take_coding(info: dict[Any, Any], primaries: int, transfer: int) -> bool:
    """Put the profile of two H.273 numbers in place of the image's own. False if a number is unknown."""
    if primaries not in _PRIMARIES or transfer not in _CURVES:
        return False
    info.pop("icc_profile", None)
    info["srgb"] = 0
    if (primaries, transfer) != (1, 13):
        info["icc_profile"] = make_profile(_PRIMARIES[primaries], _CURVES[transfer])
    return True


def _describe_unknown(primaries: int, transfer: int) -> str:
    return f"the colour coding {primaries}/{transfer} is unknown; the colours are used as they are stored"


@functools.lru_cache(8)
def make_profile(told: Chromaticities, curve: float | str) -> bytes:
    """An ICC profile (version 2.1) of primaries and one curve. Raises ArithmeticError for invalid primaries."""
    columns = tuple(zip(*_to_xyz(told), strict=True))
    curve_tag = _write_curve(curve)
    tags = {
        b"wtpt": _write_xyz(_D50),
        **{name: _write_xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve_tag),
    }
    place = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", place + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", place + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"", b"acsp")
    return head + bytes(28) + _write_fixed(_D50) + bytes(48) + table + body


def _find_coding(file: IO[bytes]) -> tuple[int, int, int, int] | None:
    """The four numbers of a cICP chunk, which stands before the pixels."""
    back = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            size = int.from_bytes(head[:4], "big")
            if head[4:] == b"cICP":
                return struct.unpack("4B", file.read(4)) if size == 4 else None
            file.seek(size + 4, 1)
    except (struct.error, OSError, OverflowError, ValueError):
        return None
    finally:
        file.seek(back)
    return None


def _to_xyz(told: Chromaticities) -> Matrix:
    """RGB to XYZ under D50: the primaries scaled to make white, then adapted (Bradford, as in ICC profiles)."""
    white, *primaries = ((x / y, 1.0, (1 - x - y) / y) for x, y in zip(told[::2], told[1::2], strict=True))
    columns = _transpose(tuple(primaries))
    shares = _apply(_invert(columns), white)
    scaled = tuple(tuple(one * share for one, share in zip(row, shares, strict=True)) for row in columns)
    ours, theirs = _apply(_BRADFORD, _D50), _apply(_BRADFORD, white)
    cones = tuple(tuple(ours[row] / theirs[row] * one for one in _BRADFORD[row]) for row in range(3))
    return _multiply(_multiply(_invert(_BRADFORD), cones), scaled)


def _write_curve(curve: float | str) -> bytes:
    if isinstance(curve, float):
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(curve * 256)) + bytes(2)
    decode = _from_srgb if curve == "srgb" else _from_bt709
    values = [round(65535 * decode(step / (_STEPS - 1))) for step in range(_STEPS)]
    return b"curv" + bytes(4) + struct.pack(f">I{_STEPS}H", _STEPS, *values)


def _from_srgb(value: float) -> float:
    return float(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)


def _from_bt709(value: float) -> float:
    return float(value / 4.5 if value < 0.081 else ((value + 0.099) / 1.099) ** (1 / 0.45))


def _write_xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + _write_fixed(values)


def _write_fixed(values: tuple[float, ...]) -> bytes:
    return struct.pack(">3i", *(round(value * 65536) for value in values))


def _transpose(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _apply(matrix: Matrix, vector: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _multiply(one: Matrix, other: Matrix) -> Matrix:
    return tuple(_apply(_transpose(other), row) for row in one)


def _invert(matrix: Matrix) -> Matrix:
    """The inverse matrix, by the adjugate."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    minors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    determinant = a * minors[0][0] + b * minors[1][0] + c * minors[2][0]
    return tuple(tuple(one / determinant for one in row) for row in minors)
