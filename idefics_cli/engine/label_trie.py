"""Labels as a tree of tokens, packed into rows: equal beginnings are run once, and last tokens are not run.

No model: only which tokens see which, and which log-probabilities make up which label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Labels = tuple[tuple[int, ...], ...]
PROMPT = -1
"""The place of the prompt's last token, from which the first tokens of all labels follow."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedRow:
    """Tokens that run in one pass after a prompt. A token sees the prompt, its ancestors and itself.

    `parents` are places in this row; `edges` are the log-probabilities wanted, each of a token after a place.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    labels: tuple[tuple[int, tuple[int, ...]], ...]
    """Labels by index, each with its edges by index."""


@lru_cache(maxsize=16)
def pack(labels: Labels, limit: int) -> tuple[PackedRow, ...]:
    """Rows of at most so many tokens, unless one label alone has more. Equal labels share everything."""
    assert all(labels), "a label without a token cannot be ranked"
    rows: list[PackedRow] = []
    builder = _Builder()
    for index in sorted(range(len(labels)), key=lambda index: labels[index]):
        if builder.labels and builder.count_with(labels[index]) > limit:
            rows.append(builder.finish())
            builder = _Builder()
        builder.add(index, labels[index])
    rows.append(builder.finish())
    return tuple(rows)


class _Builder:
    def __init__(self) -> None:
        self.labels: list[tuple[int, tuple[int, ...]]] = []
        self._places: dict[tuple[int, ...], int] = {(): PROMPT}
        self._edges: dict[tuple[int, int], int] = {}

    def count_with(self, label: Sequence[int]) -> int:
        """The number of tokens in the row if the label were added."""
        known = max(size for size in range(len(label)) if tuple(label[:size]) in self._places)
        return len(self._places) - 1 + len(label) - 1 - known

    def add(self, index: int, label: Sequence[int]) -> None:
        edges = []
        for size, token in enumerate(label):
            before = tuple(label[:size])
            place = self._places.setdefault(before, len(self._places) - 1)
            edges.append(self._edges.setdefault((place, token), len(self._edges)))
        self.labels.append((index, tuple(edges)))

    def finish(self) -> PackedRow:
        paths = list(self._places)[1:]
        return PackedRow(
            tokens=tuple(path[-1] for path in paths),
            parents=tuple(self._places[path[:-1]] for path in paths),
            depths=tuple(len(path) - 1 for path in paths),
            edges=tuple(self._edges),
            labels=tuple(self.labels),
        )
