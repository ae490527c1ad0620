"""Which requests share a batch and which tokens they share: arithmetic on costs, without torch.

A prompt is a row of units, each a group of tokens that must stay together; two units are equal only if their tokens and
their image are equal. Rows sorted by units form a tree of common prefixes. For each node of the tree, the planner
decides whether running its prefix once is cheaper than running it in every row. The unit of cost is one token through
the model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby

PrefixUnit = tuple[str, tuple[int, ...]]
"""The digest of an image, empty for text, and the ids that are never cut apart: one of a text, all of an image."""


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One request as the planner sees it. Rows with different keys never share a batch."""

    units: tuple[PrefixUnit, ...]
    key: Hashable = None
    steps: int = 0
    """Passes after the prompt, each of one token."""
    labels: int = 0
    """Tokens run in one go after the prompt."""
    beams: int = 1
    limit: int | None = None
    """The most rows of a batch with this one in it."""

    @property
    def length(self) -> int:
        return sum(len(ids) for _, ids in self.units)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The largest batch: a number of rows, holding a number of tokens.

    `pass_tokens` is the fixed cost of a pass, in tokens; `window` is the sliding attention of the model, in which
    padding after a prefix would count as distance.
    """

    rows: int
    tokens: int
    pass_tokens: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows, by index, that run together. They share their first `prefix` tokens.

    `cuts` are the shorter lengths at which the prefix is kept too, for other batches.
    """

    rows: tuple[int, ...]
    cuts: tuple[int, ...] = ()

    @property
    def prefix(self) -> int:
        return self.cuts[-1] if self.cuts else 0


def plan(
    rows: Sequence[PlannedRow],
    limits: BatchLimits,
    *,
    cached: Iterable[Sequence[PrefixUnit]] = (),
    recent: Iterable[Sequence[PrefixUnit]] = (),
) -> list[Batch]:
    """Batches of all rows, the most expensive first.

    `cached` are prefixes that are already computed. `recent` are prompts of earlier calls: a prefix that a row shares
    with one of them will be needed again, so its tokens are not charged to this call.
    """
    if not rows:
        return []
    names: dict[PrefixUnit, int] = {}
    entries = [_Entry(_name(row.units, names), index) for index, row in enumerate(rows)]
    entries += [_Entry(_name(units, names), _CACHED) for units in cached]
    entries += [_Entry(_name(units, names), _RECENT) for units in recent]
    entries.sort(key=lambda entry: entry.names)
    planner = _Planner(rows, limits)
    return planner.sort(planner.solve(planner.grow(entries), 0).batches)


_CACHED, _RECENT = -1, -2


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row by its index, or a prompt that only helps to find prefixes. Units are numbered, to compare them fast."""

    names: tuple[int, ...]
    index: int


@dataclass(eq=False, slots=True)
class _Node:
    """Rows with the same beginning: their first `cut` tokens could be run once."""

    cut: int
    rows: list[int]
    is_cached: bool = False
    is_recent: bool = False
    leaves: list[int] = field(default_factory=list)
    children: list[_Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Offer:
    cost: int
    batches: tuple[Batch, ...]

    def __add__(self, other: _Offer) -> _Offer:
        return _Offer(self.cost + other.cost, self.batches + other.batches)


class _Planner:
    def __init__(self, rows: Sequence[PlannedRow], limits: BatchLimits) -> None:
        self._rows = rows
        self._limits = limits
        self._ends = [list(accumulate((len(ids) for _, ids in row.units), initial=0)) for row in rows]
        self._lengths = [ends[-1] for ends in self._ends]
        self._solved: dict[tuple[int, int], _Offer] = {}

    def grow(self, entries: Sequence[_Entry]) -> _Node:
        """The tree of sorted entries."""
        rows = [entry.index for entry in entries if entry.index >= 0]
        shared = _count_common(entries[0].names, entries[-1].names)
        # The last unit is always left to run: the answer begins with what comes out of it.
        units = min(shared, min(len(self._ends[index]) - 2 for index in rows))
        node = _Node(
            cut=self._ends[rows[0]][max(units, 0)],
            rows=rows,
            is_cached=any(entry.index == _CACHED for entry in entries),
            is_recent=any(entry.index == _RECENT for entry in entries),
        )
        for _, group in groupby(entries, lambda entry: entry.names[shared : shared + 1]):
            below = list(group)
            inner = [entry.index for entry in below if entry.index >= 0]
            if not inner:
                continue
            if len(below) == 1 or len(below[0].names) == shared:
                node.leaves += inner
                continue
            child = self.grow(below)
            saved = (len(inner) - 1) * (child.cut - node.cut)
            if saved > self._limits.pass_tokens or child.is_cached or child.is_recent:
                node.children.append(child)
            else:
                node.leaves += child.leaves
                node.children += child.children
        return node

    def solve(self, node: _Node, base: int) -> _Offer:
        """The cheapest plan for the rows of a node after `base` tokens, with or without a cut of its own."""
        known = self._solved.get((id(node), base))
        if known is not None:
            return known
        best = self._arrange(node, base)
        if node.cut > base:
            price = 0 if node.is_cached else self._limits.pass_tokens
            if not node.is_cached and not node.is_recent:
                price += node.cut - base
            deeper = self._arrange(node, node.cut)
            if deeper.cost + price < best.cost:
                cut = tuple(Batch(batch.rows, (node.cut, *batch.cuts)) for batch in deeper.batches)
                best = _Offer(deeper.cost + price, cut)
        self._solved[id(node), base] = best
        return best

    def _arrange(self, node: _Node, base: int) -> _Offer:
        """All rows after the same cut, or the children that are cheaper with cuts of their own."""
        flat = self._pack(node.rows, base)
        pooled, apart = list(node.leaves), _Offer(0, ())
        for child in node.children:
            deep = self.solve(child, base)
            if deep.cost < self._pack(child.rows, base).cost:
                apart += deep
            else:
                pooled += child.rows
        if not apart.batches:
            return flat
        return min(flat, self._pack(pooled, base) + apart, key=lambda offer: offer.cost)

    def _pack(self, indices: Sequence[int], prefix: int) -> _Offer:
        """Batches of rows with one key, the longest rows first, while they fit and padding costs less than another
        batch.
        """
        cost, batches = 0, []
        by_key: dict[Hashable, list[int]] = {}
        for index in indices:
            by_key.setdefault(self._rows[index].key, []).append(index)
        for group in by_key.values():
            group.sort(key=lambda index: (-self._lengths[index], index))
            batch: list[int] = []
            for index in group:
                if batch and not self._fits(batch, index, prefix):
                    cost += self._price(batch, prefix)
                    batches.append(Batch(tuple(batch)))
                    batch = []
                batch.append(index)
            cost += self._price(batch, prefix)
            batches.append(Batch(tuple(batch)))
        return _Offer(cost, tuple(batches))

    def _fits(self, batch: Sequence[int], index: int, prefix: int) -> bool:
        padding = self._lengths[batch[0]] - self._lengths[index]
        rows = [self._rows[one] for one in (*batch, index)]
        limit = min(self._limits.rows, *(row.limit or self._limits.rows for row in rows))
        if len(rows) > limit or self._weigh((*batch, index)) > self._limits.tokens:
            return False
        reach = self._lengths[batch[0]] + max(row.steps + row.labels for row in rows)
        if padding and prefix and self._limits.window is not None and reach >= self._limits.window:
            return False
        return padding <= self._limits.pass_tokens * (1 + max(row.steps for row in rows))

    def _price(self, batch: Sequence[int], prefix: int) -> int:
        rows = [self._rows[index] for index in batch]
        width = self._lengths[batch[0]] - prefix + max(row.labels for row in rows)
        steps = max(row.steps for row in rows)
        at_once = sum(row.beams for row in rows)
        return self._limits.pass_tokens * (1 + steps) + len(rows) * width + steps * at_once

    def _weigh(self, batch: Sequence[int]) -> int:
        """The tokens that a batch holds when it ends, padding included."""
        rows = [self._rows[index] for index in batch]
        length = max(self._lengths[index] for index in batch)
        return sum(row.beams for row in rows) * (length + max(row.steps + row.labels for row in rows))

    def sort(self, batches: Iterable[Batch]) -> list[Batch]:
        """Batches, the most expensive first, so that memory runs out early or not at all; those of one prefix stay
        together.
        """
        by_cuts: dict[tuple[int, ...], list[Batch]] = {}
        weights = {batch: self._weigh(batch.rows) for batch in batches}
        for batch in weights:
            # Cuts are lengths: rows of different prefixes may be cut at the same ones.
            units = self._rows[batch.rows[0]].units[: self._count_units(batch)]
            by_cuts.setdefault((hash(units), *batch.cuts), []).append(batch)
        groups = [sorted(group, key=lambda batch: -weights[batch]) for group in by_cuts.values()]
        groups.sort(key=lambda group: -weights[group[0]])
        return [batch for group in groups for batch in group]

    def _count_units(self, batch: Batch) -> int:
        return self._ends[batch.rows[0]].index(batch.prefix)


def _name(units: Iterable[PrefixUnit], names: dict[PrefixUnit, int]) -> tuple[int, ...]:
    return tuple(names.setdefault(unit, len(names)) for unit in units)


def _count_common(one: Sequence[int], other: Sequence[int]) -> int:
    for count, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return count
    return min(len(one), len(other))
