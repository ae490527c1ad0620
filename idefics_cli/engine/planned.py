"""Requests in the order in which they will run, and the image tokens that wait with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from .generate import Continuation
from .label_scoring import Ranking
from .prefix_cache import Prefix, Prefixes, PrefixUnits


@dataclass(slots=True, eq=False)
class Planned:
    """Requests that continue from one prefix, the longest first, and the prefix once it is computed."""

    works: list[Continuation | Ranking]
    cuts: tuple[int, ...]
    prefix: Prefix | None = None
    is_begun: bool = False


class Turns:
    """How many others began since each of the requests came that wait."""

    def __init__(self) -> None:
        self._taken = 0
        self._came: dict[int, int] = {}

    def order(self, planned: Sequence[Planned], *, new: int, most: int) -> list[Planned]:
        """The same, of which so many are new, but first of all those after which `most` others came and began."""
        waiting = [id(work) for one in planned for work in one.works]
        begun = self._taken - (len(waiting) - new)
        self._taken += new
        self._came = {name: self._came.get(name, begun) for name in waiting}
        late = {name for name, came in self._came.items() if begun - came >= most}
        if not late:
            return list(planned)
        halves = ([work for work in one.works if id(work) in late] for one in planned)
        rest = ([work for work in one.works if id(work) not in late] for one in planned)
        return [
            Planned(works, one.cuts)
            for part in (halves, rest)
            for one, works in zip(planned, part, strict=True)
            if works
        ]


def list_waiting(
    family: PlaceholderFamily, prefixes: Prefixes, planned: Iterable[Planned]
) -> Iterator[tuple[TokenRange, int]]:
    """The tokens that are still to be run for each request, and the bytes of the prefixes that are kept for it.

    The first of those that share a prefix runs what is missing of it.
    """
    seen: set[PrefixUnits] = set()
    for one in planned:
        start = held_bytes = 0
        if one.cuts:
            units = family.list_units(one.works[0].encoded)
            start, held_bytes = prefixes.foresee(units, one.cuts, seen)
        if one.prefix is not None:
            start = one.prefix.length
        for work in one.works:
            yield TokenRange(work.encoded, start, len(work.encoded.ids)), held_bytes
            start, held_bytes = max((start, *one.cuts)), 0
