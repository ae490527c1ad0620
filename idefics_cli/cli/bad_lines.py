"""Lines of a batch that cannot be asked: reported before a model is loaded; if there are no others, none is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice

from ..backends import Preview
from ..errors import ItemError, ModelError
from ..values import Answer, Image, Item, ModelSpec, Request, Style
from .output import Talk, say_error
from .progress import FAILURES_SAID, Tally

LINES_AHEAD = 10_000
"""How many lines are read before a model is loaded."""


def tell_bad_lines(items: Iterator[Item], tally: Tally, talk: Talk) -> tuple[Iterator[Item], bool]:
    """The same items, and whether none of them can be asked. The errors of the first lines are printed here."""
    head = list(islice(items, LINES_AHEAD))
    bad = [item for item in head if item.problem]
    for item in bad if talk.verbose else bad[:FAILURES_SAID]:
        say_error(item.problem)
        tally.told.add(item.id)
    return chain(head, items), 0 < len(bad) == len(head) < LINES_AHEAD


class NoModel:
    """A backend for a run without requests."""

    spec = ModelSpec("none")
    style: Style = "completion"
    revision: str | None = None

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer | ItemError]:
        raise ModelError("no model was loaded", hint="run the command again")

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        raise ModelError("no model was loaded", hint="run the command again")

    def close(self) -> None:
        pass
