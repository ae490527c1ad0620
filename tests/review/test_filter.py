"""What is found: terms of a query, patterns that never end, orders and counts."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.errors import UsageError
from idefics_cli.review.filter import count_values, order, parse_query, select
from idefics_cli.review.index import RowIndex
from tests.review.rows import make_failed, make_ranked, make_row, write_rows

ROWS = [
    make_row(0, text="A red car on a wide field", confidence={"mean_logprob": -0.1, "margin": 0.5}),
    make_row(1, text="a blue car; a dog", finish_reason="length", warnings=["one", "two"]),
    make_row(2, text="Ein grüner Hund läuft", fields={"question": "red or green?"}),
    make_ranked(3, "cat", 0.9),
    make_ranked(4, "dog", 0.55, other="cat", warnings=["two"]),
    make_failed(5),
    make_failed(6, "too_large"),
]


def read_index(path: Path, rows: list[dict[str, Any]]) -> RowIndex:
    index = RowIndex([write_rows(path / "rows.jsonl", rows)], path / "scratch")
    while index.extend() is not None:
        pass
    return index


@pytest.fixture
def index(tmp_path: Path) -> RowIndex:
    return read_index(tmp_path, ROWS)


def find(index: RowIndex, query: str) -> list[int]:
    return [int(row) for row in np.flatnonzero(select(parse_query(query), index).mask())]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("", [0, 1, 2, 3, 4, 5, 6]),
        ("car", [0, 1]),
        ("CAR -red", [1]),
        ("red", [0, 2]),
        ("text:red", [0]),
        ("-text:red car", [1]),
        ('"wide field"', [0]),
        ("wide field", [0]),
        ("GRÜNER", [2]),
        ("/^a (red|blue)/", [0, 1]),
        (r"/\bdogs?$/", [1, 4]),
        (r"text:/\bdogs?$/", [1, 4]),
        ("-/a/", [2, 4, 5, 6]),
        ("-text:/[a-z]/", [5, 6]),
        ("/hund.*/ -car", [2]),
        ("label:cat", [3]),
        ("label:cat label:dog", [3, 4]),
        ("label:cat task:caption", []),
        ("-label:cat task:classify", [4]),
        ('warning:"two"', [1, 4]),
        ("warning:one", [1]),
        ("error:too_large", [6]),
        ("is:failed", [5, 6]),
        ("is:failed -error:too_large", [5]),
        ("finish:length", [1]),
        ("confidence:0.5..", [0, 3, 4]),
        ("confidence:..0.6", [4]),
        ("margin:0.4..0.6", [0]),
        ("length:..5", [3, 4]),
        ("http://example.com", []),
        ("a-b", []),
        ("3.png", [3]),
        ("is:repeated", []),
    ],
)
def test_terms_find_their_rows(index: RowIndex, query: str, rows: list[int]) -> None:
    assert find(index, query) == rows


@pytest.mark.parametrize(
    "query",
    [
        "confidence:high",
        "is:good",
        "/(/",
        "label:/x/",
        f"/{'a' * 501}/",
        "x" * 2001,
        "/a{1000}/",
        'colour:"red"',
    ],
)
def test_what_cannot_be_found_is_told_in_one_line(index: RowIndex, query: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(index, query)
    assert ";" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_never_ends_is_ended(tmp_path: Path) -> None:
    index = read_index(tmp_path, [make_row(0, text="a" * 5000 + "!")])
    start = time.monotonic()
    with pytest.raises(UsageError, match="simpler"):
        find(index, "text:/(a+)+$/")
    assert time.monotonic() - start < 25
    assert find(index, "text:aaa") == [0]


def test_large_texts_are_searched_to_their_end(tmp_path: Path) -> None:
    texts = ["x" * 5_000_000 + " needle", "short", "y" * 9_000_000, "a needle\nin lines"]
    index = read_index(tmp_path, [make_row(n, text=text) for n, text in enumerate(texts)])
    assert find(index, "needle") == [0, 3]
    assert find(index, "/needle$/") == [0, 3]
    assert find(index, "text:short") == [1]


def test_orders_put_what_has_no_value_last(index: RowIndex) -> None:
    rows = np.arange(7)
    assert order(rows, index, "confidence").tolist() == [4, 3, 0, 1, 2, 5, 6]
    assert order(rows, index, "-confidence").tolist() == [0, 3, 4, 1, 2, 5, 6]
    assert order(rows, index, "label").tolist()[:2] == [3, 4]
    assert order(rows, index, "-label").tolist()[:2] == [4, 3]
    assert order(rows, index, "error").tolist() == [5, 6, 0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="known: confidence"):
        order(rows, index, "colour")


def test_counts_are_of_all_filters_but_their_own(index: RowIndex) -> None:
    selection = select(parse_query("label:cat task:classify"), index)
    assert count_values(index, "label", selection.mask(without="label"), 10) == [("cat", 1), ("dog", 1)]
    assert count_values(index, "task", selection.mask(without="task"), 10) == [("classify", 1)]
    assert count_values(index, "warning", np.ones(7, np.bool_), 10) == [("two", 2), ("one", 1)]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(max_size=12), min_size=1, max_size=8),
    words=st.text(min_size=1, max_size=3).filter(lambda words: "\0" not in words and "\x1f" not in words),
)
def test_words_are_found_as_python_finds_them(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], words: str
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    lines = [json.dumps(make_row(n, text=text)) for n, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    index = RowIndex([folder / "rows.jsonl"], folder)
    while index.extend() is not None:
        pass
    quoted = re.sub(r'(["\\])', r"\\\1", words)
    expected = [
        n for n, text in enumerate(texts) if words.lower() in text.lower().replace("\0", " ").replace("\x1f", " ")
    ]
    assert find(index, f'text:"{quoted}"') == expected
    index.close()


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_query_is_terms_or_one_line(query: str) -> None:
    with contextlib.suppress(UsageError):
        assert all(term.kind for term in parse_query(query))
