"""Large bodies, read as JSON in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.child_processes import ChildProcesses
from idefics_cli.errors import BadItem
from idefics_cli.serve.body import parse_elsewhere
from idefics_cli.serve.json_process import LONG_LETTERS, pack, unpack

LONG = "a" * (LONG_LETTERS + 1)
TEXTS = st.text(max_size=5) | st.sampled_from([LONG, LONG + "b", LONG + "\xe9"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


@pytest.fixture(scope="module")
def readers() -> Iterator[ChildProcesses]:
    one = ChildProcesses("idefics_cli.serve.json_process", 1)
    yield one
    one.end_idle()


@settings(max_examples=50, deadline=None, database=None)
@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    packed, texts = pack(value)
    assert len(packed) < LONG_LETTERS or not packed.isascii()
    assert unpack(packed + b"".join(texts), [len(packed), *map(len, texts)]) == value


def parse(readers: ChildProcesses, text: str, most_values: int = 100) -> Any:
    data = text.encode()
    return parse_elsewhere(readers, [data[:10], data[10:]], most_values)


def test_it_is_what_it_would_be_here(readers: ChildProcesses) -> None:
    value = {"a": [1, 2.5, None, True, LONG, "é\U0001f600"], "b": {"c": 10**30}}
    assert parse(readers, json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "1," * 300 + "1]", "more than 100 values"),
        ('"\\ud800"', "half a character"),
        ("{", "not JSON"),
        ("1" * 5000, "too many digits"),
    ],
)
def test_what_is_wrong_is_told_and_the_process_stays(readers: ChildProcesses, text: str, reason: str) -> None:
    parse(readers, "1")
    (process,) = readers.idle_ids
    with pytest.raises(BadItem, match=reason):
        parse(readers, text)
    assert readers.idle_ids == [process]


def test_what_takes_too_long_is_ended(readers: ChildProcesses) -> None:
    parse(readers, "1")
    with pytest.raises(BadItem, match="too long"):
        parse_elsewhere(readers, [b'"' + b"\\u00e9" * 3_000_000 + b'"'], 100, seconds=0.01)
    assert readers.idle_ids == []
