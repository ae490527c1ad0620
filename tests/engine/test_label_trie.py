"""Labels as a tree: shared beginnings once, last tokens never, whatever the rows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.engine.label_trie import PROMPT, PackedRow, pack

LABELS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=20).map(tuple)


def spell(row: PackedRow, edges: tuple[int, ...]) -> tuple[int, ...]:
    """The label that a chain of edges stands for, walked from the prompt."""
    label: list[int] = []
    for edge in edges:
        place, token = row.edges[edge]
        path = []
        while place != PROMPT:
            path.append(row.tokens[place])
            place = row.parents[place]
        assert path[::-1] == label
        label.append(token)
    return tuple(label)


@settings(deadline=None, max_examples=200)
@given(labels=LABELS, limit=st.integers(0, 12))
def test_rows_hold_each_label_once(labels: tuple[tuple[int, ...], ...], limit: int) -> None:
    rows = pack(labels, limit)
    found = {index: spell(row, edges) for row in rows for index, edges in row.labels}
    assert found == dict(enumerate(labels))
    assert sum(len(row.labels) for row in rows) == len(labels)
    for row in rows:
        paths = {labels[index][:size] for index, _ in row.labels for size in range(1, len(labels[index]))}
        assert len(row.tokens) == len(paths), "each beginning once, no last token"
        assert len(row.tokens) <= limit or len({labels[index] for index, _ in row.labels}) == 1
        for place, parent in enumerate(row.parents):
            assert parent < place
            assert row.depths[place] == (0 if parent == PROMPT else row.depths[parent] + 1)


def test_labels_that_begin_alike_share_tokens() -> None:
    (row,) = pack(((1, 2, 9), (1, 3, 9), (1, 2, 4, 9), (5, 9), (6,)), 100)
    assert sorted(zip(row.tokens, row.depths, strict=True)) == [(1, 0), (2, 1), (3, 1), (4, 2), (5, 0)]
