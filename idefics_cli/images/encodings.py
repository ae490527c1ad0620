"""Response bodies that are compressed although that was not asked for: gzip, deflate, brotli and zstd, bounded."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable

_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def decompress(body: bytes, encodings: str, max_bytes: int) -> bytes:
    """The body before its `Content-Encoding`; a longer one is cut soon after `max_bytes`.

    Raises ValueError for a body that is damaged, cut off or in an unknown encoding.
    """
    for encoding in reversed([name.strip().lower() for name in encodings.split(",")]):
        if encoding in {"", "identity"}:
            continue
        unpack = _DECODERS.get(encoding)
        if unpack is None:
            raise ValueError(f"its encoding {encoding[:40]!r} is not known")
        body = unpack(body, max_bytes + 1)
    return body


def _unpack_gzip(body: bytes, size: int) -> bytes:
    return _unpack_zlib(body, size, 31)


def _unpack_deflate(body: bytes, size: int) -> bytes:
    # The standard means zlib's container; some servers leave it away.
    has_container = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _unpack_zlib(body, size, 15 if has_container else -15)


def _unpack_zlib(body: bytes, size: int, window: int) -> bytes:
    decoder = zlib.decompressobj(window)
    try:
        data = decoder.decompress(body, size)
    except zlib.error as error:
        raise ValueError("its compression is damaged") from error
    return _check(data, size, decoder.eof)


def _unpack_brotli(body: bytes, size: int) -> bytes:
    brotli = importlib.import_module("brotli")

    decoder, pieces, left = brotli.Decompressor(), [], size
    try:
        piece = decoder.process(body, output_buffer_limit=left)
        while piece and left > 0:
            pieces.append(piece)
            left -= len(piece)
            piece = b"" if decoder.is_finished() or left <= 0 else decoder.process(b"", output_buffer_limit=left)
    except brotli.error as error:
        raise ValueError("its compression is damaged") from error
    return _check(b"".join(pieces), size, decoder.is_finished())


def _unpack_zstd(body: bytes, size: int) -> bytes:
    zstd = importlib.import_module(_ZSTD)
    decoder = zstd.ZstdDecompressor()
    try:
        data = decoder.decompress(body, size)
    except zstd.ZstdError as error:
        raise ValueError("its compression is damaged") from error
    return _check(data, size, decoder.eof)


def _check(data: bytes, size: int, is_whole: bool) -> bytes:
    if not is_whole and len(data) < size:
        raise ValueError("its compression is cut off")
    return data


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _unpack_gzip,
    "x-gzip": _unpack_gzip,
    "deflate": _unpack_deflate,
    "br": _unpack_brotli,
    "zstd": _unpack_zstd,
}
