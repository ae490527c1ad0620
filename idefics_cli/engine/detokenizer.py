"""From generated ids to text: cut at stop strings, also while the text is still being generated.

Knows no model. A text is decoded together with the end of its prompt, as some tokenizers drop a leading space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..models.families.family import Family
from .listener import Listener

TAIL_TOKENS = 16
FIRST_TOKENS = 3
"""Of an answer, among which thoughts begin if there are any."""
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """Decodes one answer after its prompt."""

    def __init__(self, family: Family, prompt_ids: Sequence[int], stop: Sequence[str]) -> None:
        self._family = family
        self._stop = tuple(one for one in stop if one)
        self._tail = list(prompt_ids[-TAIL_TOKENS:])
        self._thoughts = family.thought_marks
        self._is_begun = self._thoughts is not None and _is_open(prompt_ids, *self._thoughts)
        self._before = family.decode(self._tail)

    def read(self, new_ids: Sequence[int]) -> str:
        """The text of the ids, up to the first stop string."""
        text = self._decode(new_ids)
        return text[: self._find_stop(text)]

    def is_stopped(self, new_ids: Sequence[int]) -> bool:
        text = self._decode(new_ids)
        return self._find_stop(text) < len(text)

    def read_settled(self, new_ids: Sequence[int]) -> str:
        """The part of the text that no later token can change: no half characters, no beginning of a stop string."""
        settled = len(new_ids)
        while settled and self._family.is_byte(new_ids[settled - 1]):
            settled -= 1
        text = self.read(new_ids[:settled]).rstrip(UNFINISHED)
        for size in range(max((len(one) for one in self._stop), default=1) - 1, 0, -1):
            if any(len(one) > size and text.endswith(one[:size]) for one in self._stop):
                return text[:-size]
        return text

    def _decode(self, new_ids: Sequence[int]) -> str:
        """The text of the ids after any thoughts; "" while thinking."""
        if self._thoughts is None:
            return self._read(new_ids)
        begin, end = self._thoughts
        if not self._is_begun and begin not in new_ids[:FIRST_TOKENS]:
            return self._read(new_ids)
        if end not in new_ids:
            return ""
        last = len(new_ids) - 1 - list(new_ids)[::-1].index(end)
        return self._read(new_ids[last + 1 :]).lstrip()

    def _read(self, new_ids: Sequence[int]) -> str:
        text = self._family.decode([*self._tail, *new_ids])
        if text.startswith(self._before):
            return text[len(self._before) :]
        # The prompt ended within a character that the answer completed.
        return self._family.decode(new_ids)

    def _find_stop(self, text: str) -> int:
        """Where the first stop string begins. A line break before the first word does not count."""
        begin = len(text) - len(text.lstrip())
        places = [place for one in self._stop if (place := text.find(one, 0 if one.strip() else begin)) >= 0]
        return min(places, default=len(text))


def _is_open(ids: Sequence[int], begin: int, end: int) -> bool:
    """Whether a prompt ends inside a thought."""
    mark = next((index for index in reversed(ids) if index in (begin, end)), None)
    return mark == begin


class TextStream:
    """Gives a text to its listener while its ids are generated; the pieces add up to the answer."""

    def __init__(self, answer: AnswerText, listener: Listener, stop_ids: Iterable[int]) -> None:
        self._answer = answer
        self._listener = listener
        self._stop_ids = frozenset(stop_ids)

    @property
    def streams(self) -> bool:
        return self._listener.on_text is not None

    @property
    def is_cancelled(self) -> bool:
        return self._listener.is_cancelled()

    def take(self, ids: Sequence[int]) -> None:
        """All ids of the answer so far; ids after the one that ended it are padding."""
        end = next((place for place, index in enumerate(ids) if index in self._stop_ids), len(ids))
        self._give(self._answer.read_settled(ids[:end]))

    def finish(self, text: str) -> None:
        """The whole answer."""
        self._give(text)

    def _give(self, text: str) -> None:
        listener = self._listener
        if listener.on_text is not None and len(text) > listener.given:
            piece, listener.given = text[listener.given :], len(text)
            listener.on_text(piece)
