"""Planning: every request exactly once, within the limits, after a prefix that is really common and worth its cost."""

from __future__ import annotations

import subprocess
import sys
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.engine.batching import Batch, BatchLimits, PlannedRow, PrefixUnit, plan
from idefics_cli.engine.short_prefixes import drop_short_prefixes

LIMITS = BatchLimits(rows=8, tokens=10_000, pass_tokens=16)


def text(words: str) -> tuple[PrefixUnit, ...]:
    return tuple(("", (ord(letter),)) for letter in words)


def image(name: str, tokens: int = 20) -> PrefixUnit:
    return name, tuple(range(1000, 1000 + tokens))


def prefix_of(row: PlannedRow, cut: int) -> tuple[PrefixUnit, ...]:
    """The units before a cut, which must fall between two."""
    ends = [0, *accumulate(len(ids) for _, ids in row.units)]
    assert cut in ends, "a cut within a unit"
    return row.units[: ends.index(cut)]


UNITS = st.sampled_from([*text("ab"), image("x", 3), image("y", 3), image("x", 5)])
ROWS = st.lists(
    st.builds(
        PlannedRow,
        units=st.lists(UNITS, min_size=1, max_size=12).map(tuple),
        key=st.sampled_from("pq"),
        steps=st.integers(0, 20),
        labels=st.integers(0, 20),
        beams=st.integers(1, 3),
        limit=st.none() | st.integers(1, 3),
    ),
    max_size=12,
)
LIMITING = st.builds(
    BatchLimits,
    rows=st.integers(1, 5),
    tokens=st.integers(1, 400),
    pass_tokens=st.integers(0, 8),
    window=st.none() | st.integers(4, 30),
)
PROMPTS = st.lists(st.lists(UNITS, min_size=1, max_size=8).map(tuple), max_size=3)


@settings(deadline=None, max_examples=200)
@given(rows=ROWS, limits=LIMITING, cached=PROMPTS, recent=PROMPTS)
def test_plans_are_sound(
    rows: list[PlannedRow],
    limits: BatchLimits,
    cached: list[tuple[PrefixUnit, ...]],
    recent: list[tuple[PrefixUnit, ...]],
) -> None:
    batches = plan(rows, limits, cached=cached, recent=recent)
    assert sorted(index for batch in batches for index in batch.rows) == list(range(len(rows)))
    for batch in batches:
        own = [rows[index] for index in batch.rows]
        assert len({row.key for row in own}) == 1
        assert len(own) <= min(limits.rows, *(row.limit or limits.rows for row in own))
        longest = max(row.length for row in own)
        after = max(row.steps + row.labels for row in own)
        assert len(own) == 1 or sum(row.beams for row in own) * (longest + after) <= limits.tokens
        assert batch.cuts == tuple(sorted(set(batch.cuts)))
        for cut in batch.cuts:
            assert 0 < cut < min(row.length for row in own), "something is left to run"
            assert len({prefix_of(row, cut) for row in own}) == 1
        if limits.window is not None and batch.prefix and longest + after >= limits.window:
            assert len({row.length for row in own}) == 1, "padding would count as distance"


@settings(deadline=None, max_examples=50)
@given(rows=ROWS, limits=LIMITING)
def test_a_plan_does_not_depend_on_the_order_of_requests(rows: list[PlannedRow], limits: BatchLimits) -> None:
    def look(rows: list[PlannedRow]) -> list[tuple[int, int]]:
        return sorted((len(batch.rows), batch.prefix) for batch in plan(rows, limits))

    alike = [PlannedRow(row.units) for row in rows]
    assert look(alike) == look(alike[::-1])


def test_shots_are_shared_by_all() -> None:
    shots = (*text("Describe."), image("shot"), *text("A dog.\n" * 4))
    rows = [PlannedRow((*shots, image(str(n)), *text("Describe.")), steps=10) for n in range(8)]
    (batch,) = plan(rows, LIMITS)
    assert batch == Batch(tuple(range(8)), (sum(len(ids) for _, ids in shots),))


def test_questions_about_an_image_share_it_and_go_on_from_the_shots() -> None:
    shots = text("Answer the question. " * 4)
    asked = text("what where when why how much")
    rows = [
        PlannedRow((*shots, image(name), *text("Question: "), *asked[start:]), steps=4)
        for name in ("one", "two")
        for start in range(0, 28, 4)
    ]
    batches = plan(rows, LIMITS)
    start = len(shots)
    assert {batch.cuts for batch in batches} == {(start, start + 20 + len("Question: "))}
    assert {batch.rows[0] // 7 for batch in batches} == {0, 1}
    assert all(len({index // 7 for index in batch.rows}) == 1 for batch in batches)


def test_other_images_are_other_prompts() -> None:
    rows = [PlannedRow((image(name, 50), *text("Describe.")), steps=4) for name in "abcd"]
    assert plan(rows, LIMITS) == [Batch((0, 1, 2, 3))]


def test_a_few_common_words_are_not_worth_a_pass() -> None:
    rows = [PlannedRow(text("Q:" + letter * 9), steps=4) for letter in "abc"]
    assert plan(rows, LIMITS) == [Batch((0, 1, 2))]


def test_a_kept_prefix_is_used_by_a_single_request() -> None:
    shots = text("Answer the question. " * 4)
    row = PlannedRow((*shots, *text("why?")))
    assert plan([row], LIMITS) == [Batch((0,))]
    assert plan([row], LIMITS, cached=[shots]) == [Batch((0,), (len(shots),))]
    longer = (*shots, *text("where?"))
    assert plan([row], LIMITS, cached=[longer]) == [Batch((0,), (len(shots) + 2,))], "its beginning will do"


def test_what_came_before_will_come_again() -> None:
    shots = text("Answer the question. " * 4)
    (batch,) = plan([PlannedRow((*shots, *text("why?")))], LIMITS, recent=[(*shots, *text("when?"))])
    assert batch.cuts == (len(shots) + 2,)


def test_the_dearest_come_first_and_company_of_a_prefix_stays_together() -> None:
    shots = text("Answer the question. " * 4)
    rows = [PlannedRow((*shots, *text("a" * n))) for n in range(1, 12)] + [
        PlannedRow(text("b" * 300)),
        PlannedRow(text("c" * 5)),
    ]
    batches = plan(rows, BatchLimits(rows=4, tokens=10_000, pass_tokens=16))
    assert batches[0].rows[0] == 10
    shared = [batch.prefix > 0 for batch in batches]
    assert shared == sorted(shared, reverse=True)


def test_no_requests_no_batches() -> None:
    assert plan([], LIMITS) == []


def test_the_planner_needs_no_torch() -> None:
    code = "import sys, idefics_cli.engine.batching; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("count", [64, 256])
def test_a_long_window_is_planned_at_once(count: int) -> None:
    rows = [PlannedRow(text("word " * 20 + bin(n)[2:]), steps=10) for n in range(count)]
    assert sum(len(batch.rows) for batch in plan(rows, LIMITS)) == count


@pytest.mark.parametrize(
    ("beginning", "lengths", "is_kept"),
    [
        (5, (900, 900), False),
        (600, (900, 900), True),  # saves more than attention costs
        (5, (900, 901), True),  # rows that are padded need a mask in any case
        (5, (400, 400), True),
    ],
)
def test_a_prefix_that_costs_more_than_it_saves_is_dropped(
    beginning: int, lengths: tuple[int, ...], is_kept: bool
) -> None:
    rows = [
        PlannedRow((*text("a" * beginning), image(str(place), length - beginning)))
        for place, length in enumerate(lengths)
    ]
    batch = Batch((0, 1), (beginning,))
    (found,) = drop_short_prefixes([batch], rows, width=256)
    assert found == (batch if is_kept else Batch(batch.rows))
