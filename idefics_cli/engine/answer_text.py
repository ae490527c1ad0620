"""From generated ids to text: the words themselves, cut at stop strings, also while they are still coming.

Knows no model. A text is decoded together with the end of its prompt, as some tokenizers drop a leading space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..models.families.family import Family

TAIL_TOKENS = 16
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """Decodes one answer after its prompt."""

    def __init__(self, family: Family, prompt_ids: Sequence[int], stop: Sequence[str]) -> None:
        self._family = family
        self._stop = tuple(one for one in stop if one)
        self._tail = list(prompt_ids[-TAIL_TOKENS:])
        self._before = family.decode(self._tail)

    def read(self, new_ids: Sequence[int]) -> str:
        """The text of the ids, up to the first stop string."""
        text = self._decode(new_ids)
        return text[: self._find_stop(text)]

    def is_stopped(self, new_ids: Sequence[int]) -> bool:
        text = self._decode(new_ids)
        return self._find_stop(text) < len(text)

    def read_settled(self, new_ids: Sequence[int]) -> str:
        """The part of the text that no later token can change: no half characters, no beginnings of stop strings."""
        settled = len(new_ids)
        while settled and self._family.is_byte(new_ids[settled - 1]):
            settled -= 1
        text = self.read(new_ids[:settled]).rstrip(UNFINISHED)
        for size in range(max((len(one) for one in self._stop), default=1) - 1, 0, -1):
            if any(len(one) > size and text.endswith(one[:size]) for one in self._stop):
                return text[:-size]
        return text

    def _decode(self, new_ids: Sequence[int]) -> str:
        text = self._family.decode([*self._tail, *new_ids])
        if text.startswith(self._before):
            return text[len(self._before) :]
        # The prompt ended within a character that the answer completed.
        return self._family.decode(new_ids)

    def _find_stop(self, text: str) -> int:
        places = [place for one in self._stop if (place := text.find(one)) >= 0]
        return min(places, default=len(text))


class TextStream:
    """Hands text on as ids arrive, in the way of a transformers streamer; what it gave adds up to the answer."""

    def __init__(self, answer: AnswerText, on_text: Callable[[str], None], stop_ids: Iterable[int]) -> None:
        self._answer = answer
        self._on_text = on_text
        self._stop_ids = frozenset(stop_ids)
        self._ids: list[int] = []
        self._given = 0
        self._is_prompt_past = False

    def put(self, value: object) -> None:
        """New ids; the first are those of the prompt."""
        if not self._is_prompt_past:
            self._is_prompt_past = True
            return
        assert hasattr(value, "flatten")
        self._ids += [index for index in value.flatten().tolist() if index not in self._stop_ids]
        self._give(self._answer.read_settled(self._ids))

    def end(self) -> None:
        """Transformers calls this; the rest is given by `finish`, which knows the whole answer."""

    def finish(self, text: str) -> None:
        self._give(text)

    def _give(self, text: str) -> None:
        if len(text) > self._given:
            self._on_text(text[self._given :])
            self._given = len(text)
