"""Rows in and out as JSON lines: one object a line, UTF-8, nothing JSON does not know.

Knows lines and objects, not what is in them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, NoReturn

from .errors import BadItem

MAX_LINE_BYTES = 160_000_000
"""Room for an image of 100 MB as base64."""

# What JSON would leave as it is: line ends to str.splitlines and to many readers, and what a terminal would obey.
_ESCAPED = {
    code: f"\\u{code:04x}"
    for code in (*range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
_SURROGATES = re.compile("[\ud800-\udfff]")
_BOM = b"\xef\xbb\xbf"


def dump_row(row: Mapping[str, Any]) -> str:
    """One line of JSON without its line end, always encodable as UTF-8.

    Numbers that JSON lacks (NaN, infinities) become null; lone surrogates are shown as \\xNN or \\uNNNN.
    """
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        line = json.dumps(_without_nan(row), ensure_ascii=False, allow_nan=False)
    if line.isascii() and "\x7f" not in line:  # a picture as text is long
        return line
    return _SURROGATES.sub(_show_surrogate, line.translate(_ESCAPED))


def parse_line(line: bytes | str, *, max_bytes: int = MAX_LINE_BYTES) -> dict[str, Any]:
    """The object on a line. Raises BadItem with what is wrong."""
    return check_object(parse_value(line, "the line", max_bytes=max_bytes))


def check_object(value: Any) -> dict[str, Any]:
    """The value of a line, if it is an object. Raises BadItem."""
    if not isinstance(value, dict):
        raise BadItem(f"the line is not a JSON object but {_KINDS[type(value)]}", hint='write {"image": "…"}')
    return value


def parse_value(data: bytes | str, name: str, *, max_bytes: int = MAX_LINE_BYTES) -> Any:
    """The JSON value in a text called `name`. Raises BadItem with what is wrong."""
    if len(data) > max_bytes:
        raise BadItem(f"{name} is longer than {max_bytes:,} bytes")
    text = data if isinstance(data, str) else _decode_utf8(data, name)
    try:
        value = json.loads(
            text, object_pairs_hook=_collect_pairs, parse_constant=_refuse_constant, parse_float=_parse_float
        )
        # Half a character is what a cut through an escaped emoji leaves; nothing later could encode it.
        is_whole = (text is not data and "\\u" not in text) or _is_whole(value)
    except json.JSONDecodeError as error:
        raise BadItem(f"{name} is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError:
        raise BadItem(f"{name} has a number with too many digits") from None
    except RecursionError:
        raise BadItem(f"{name} is nested too deeply") from None
    if not is_whole:
        raise BadItem(f"{name} has half a character (a lone surrogate such as \\ud83d)")
    return value


def read_lines(stream: IO[bytes], *, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1, without line ends and byte order mark.

    Of a line that is too long only the first `max_bytes` + 1 bytes are kept, which `parse_line` refuses: that
    item fails, the ones after it do not.
    """
    number = 0
    while line := stream.readline(max_bytes + 2):
        number += 1
        rest = line
        while not rest.endswith(b"\n") and (rest := stream.readline(1 << 16)):
            pass
        if number == 1:
            line = line.removeprefix(_BOM)
        line = line.rstrip(b"\r\n")
        if line.strip():
            yield number, line[: max_bytes + 1]


_KINDS: dict[type, str] = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _decode_utf8(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8 (byte {error.start + 1})"
        raise BadItem(message, hint="save the file as UTF-8") from None


def _collect_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadItem(f"the key {json.dumps(key[:100])} is given twice")
        found[key] = value
    return found


def _is_whole(value: Any) -> bool:
    """Whether there is no half of a character in a value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError:
                return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise BadItem(f"{name} is not JSON", hint="use null")


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BadItem("a number is too large")
    return number


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value


def _show_surrogate(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\\\u{code:04x}"
