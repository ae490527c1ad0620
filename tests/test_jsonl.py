"""Rows out stay one valid UTF-8 line; lines in are objects or say why not."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.errors import BadItem
from idefics_cli.jsonl import dump_row, parse_line, read_lines

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_row_survives_the_round_trip(row: dict[str, Any]) -> None:
    line = dump_row(row)
    assert len(line.splitlines()) == 1
    assert parse_line(line) == row
    assert parse_line(line.encode("utf-8")) == row


def test_row_is_not_ascii_escaped_but_line_ends_are() -> None:
    assert dump_row({"text": "Füße 👟"}) == '{"text": "Füße 👟"}'
    assert dump_row({"text": "a\u2028b\u2029c\x85d\ne"}) == '{"text": "a\\u2028b\\u2029c\\u0085d\\ne"}'


def test_numbers_that_json_lacks_become_null() -> None:
    row = {"scores": [{"logprob": float("-inf")}, {"logprob": -1.5}], "seconds": float("nan")}
    assert json.loads(dump_row(row)) == {"scores": [{"logprob": None}, {"logprob": -1.5}], "seconds": None}


def test_lone_surrogates_are_shown() -> None:
    line = dump_row({"id": "caf\udce9.png", "text": "\ud83d"})
    assert json.loads(line.encode("utf-8")) == {"id": "caf\\xe9.png", "text": "\\ud83d"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"image": "a.png"', "not JSON: Expecting ',' delimiter at column 18"),
        (b"a.png", "not JSON"),
        (b'["a.png"]', "not a JSON object but a list"),
        (b"null", "not a JSON object but null"),
        (b"true", "not a JSON object but true or false"),
        (b'{"image": "a.png", "image": "b.png"}', 'the key "image" is given twice'),
        (b'{"a": {"b": 1, "b": 1}}', 'the key "b" is given twice'),
        (b'{"image": "caf\xe9.png"}', "not UTF-8 (byte 15); save the file as UTF-8"),
        ('{"image": "a.png"}'.encode("utf-16"), "not UTF-8"),
        (b'{"x": NaN}', "NaN is not JSON"),
        (b'{"x": -Infinity}', "-Infinity is not JSON"),
        (b'{"x": 1e999}', "too large"),
        (b'{"x": ' + b"1" * 5000 + b"}", "too many digits"),
        (b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"text": "cut \\ud83d"}', "half a character"),
        ('{"text": "a raw \ud83d"}', "half a character"),
        (b'{"text": "' + b"a" * 2000 + b'"}', "longer than 1,000 bytes"),
    ],
)
def test_bad_line_says_what_is_wrong(line: bytes | str, reason: str) -> None:
    limit = 1000 if b"aaaa" in (line if isinstance(line, bytes) else b"") else 1_000_000
    with pytest.raises(BadItem) as caught:
        parse_line(line, max_bytes=limit)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200


def test_escaped_pair_is_one_character() -> None:
    assert parse_line(b'{"text": "\\ud83d\\udc5f"}') == {"text": "👟"}


def test_lines_have_numbers_and_no_ends() -> None:
    stream = io.BytesIO(b'\xef\xbb\xbf{"a": 1}\r\n\n  \t\n{"b": "x\xc2\x85y"}\n{"c": 3}')
    assert list(read_lines(stream)) == [(1, b'{"a": 1}'), (4, b'{"b": "x\xc2\x85y"}'), (5, b'{"c": 3}')]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_long_line_fails_alone(end: bytes) -> None:
    exact = b'{"a": "' + b"x" * 91 + b'"}'
    lines = [exact, b'{"b": "' + b"y" * 92 + b'"}', b"z" * 300_000, b'{"d": 4}']
    found = list(read_lines(io.BytesIO(end.join(lines)), max_bytes=100))
    assert [number for number, _ in found] == [1, 2, 3, 4]
    assert parse_line(found[0][1], max_bytes=100) == {"a": "x" * 91}
    for _, line in found[1:3]:
        assert len(line) == 101
        with pytest.raises(BadItem, match="longer than 100 bytes"):
            parse_line(line, max_bytes=100)
    assert parse_line(found[3][1], max_bytes=100) == {"d": 4}
