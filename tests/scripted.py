"""A backend that answers from a script: the real commands run, only the model is missing.

It is set with `open_with`, the seam for programs that bring their own backend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from idefics_cli.backends import Preview
from idefics_cli.errors import ItemError
from idefics_cli.values import Answer, Image, ModelSpec, Request, Score, Style, Usage, list_sources

Reply = str | Answer | ItemError | Callable[[Request], "str | Answer | ItemError"]


@dataclass
class ScriptedBackend:
    """Says `reply` to everything and remembers what it was asked. Labels are ranked in the order they come."""

    reply: Reply = " A red circle."
    style: Style = "completion"
    revision: str | None = "abc123"
    spec: ModelSpec = field(default_factory=lambda: ModelSpec("scripted"))
    batch_size: int = 0
    requests: list[Request] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    images: list[frozenset[str]] = field(default_factory=list)
    remembers: bool = True
    """Whether it keeps what it was asked, which grows with a run."""
    character_seconds: float = 0
    """How long each character of a streamed answer takes."""

    def open(self, spec: ModelSpec, batch_size: int) -> ScriptedBackend:
        self.spec, self.batch_size = spec, batch_size
        self.style = spec.style or self.style
        return self

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer | ItemError]:
        if self.remembers:
            self.requests += requests
            self.windows.append(len(requests))
            self.images.append(frozenset(images))
        assert all(source in images for request in requests for source in list_sources(request.prompt))
        answers = [self._answer(request) for request in requests]
        if on_text is not None and isinstance(answers[0], Answer):
            for character in answers[0].text:
                time.sleep(self.character_seconds)
                on_text(character)
        return answers

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return Preview(str(request.prompt))

    def close(self) -> None:
        pass

    def _answer(self, request: Request) -> Answer | ItemError:
        if request.choices:
            weights = [2.0**-n for n in range(1, len(request.choices) + 1)]
            total = sum(weights)
            scores = (
                Score(choice.label, -float(n), weight / total)
                for n, (choice, weight) in enumerate(zip(request.choices, weights, strict=True))
            )
            return Answer("", scores=tuple(scores), usage=Usage(10, 0, 0))
        reply = self.reply(request) if callable(self.reply) else self.reply
        if isinstance(reply, str):
            return Answer(reply, f"the prompt{reply}", usage=Usage(10, 0, 3), seconds=0.25)
        return reply
