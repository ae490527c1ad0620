"""A conversation with a backend: asks, keeps earlier turns, and loads images.

Knows no terminal. A call that fails raises and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ValidationError

from ..backends import Backend
from ..errors import UsageError, describe_problems
from ..images import Limits, load
from ..images.names import parse_scheme
from ..prompts.conversation import Conversation, load_conversation, save_conversation
from ..prompts.templates import DecodingDefaults
from ..rows import Result
from ..values import Decoding, Image
from .run import Report, run_one


class Session:
    """One conversation at a time. Each image is read once, when it is named."""

    def __init__(self, conversation: Conversation, backend: Backend, report: Report, limits: Limits) -> None:
        self.conversation = conversation
        self._backend = backend
        self._report = report
        self._limits = limits
        self._images: dict[str, Image] = {}

    def ask(self, message: str, on_text: Callable[[str], None] | None = None) -> Result:
        """Ask for a reply and add both to the conversation.

        A message that fails is not added. An interrupted reply keeps its text so far.
        """
        said: list[str] = []

        def take(piece: str) -> None:
            said.append(piece)
            if on_text is not None:
                on_text(piece)

        try:
            result = run_one(
                self.conversation.write_item(message),
                lambda item: self.conversation.word(item, self._backend.style),
                self._images,
                self._backend,
                self._report,
                on_text=take,
            )
        except KeyboardInterrupt:
            if reply := "".join(said).strip():
                self.conversation.add(message, reply)
            raise
        if result.error is None:
            self.conversation.add(message, result.text or "")
        return result

    def add_images(self, sources: list[str]) -> None:
        """Show images with the next message. Raises ItemError for one that cannot be read."""
        self._load(sources)
        self.conversation.waiting += sources

    def set_system(self, text: str) -> None:
        """Set the system message. Raises ItemError if the model does not take one."""
        self._adopt(replace(self.conversation, system=text))

    def set_option(self, name: str, value: str) -> None:
        """Change a decoding option. Raises UsageError."""
        known = [each.name for each in fields(Decoding)]
        name = name.removeprefix("--").replace("-", "_")
        if name not in known:
            raise UsageError(f"no decoding option {name!r}", hint=f"known: {', '.join(known)}")
        try:
            parsed = DecodingDefaults.model_validate({name: _parse(name, value)})
        except ValidationError as error:
            if "valid number" in str(error) or "valid integer" in str(error):
                kind = "a whole number" if "valid integer" in str(error) else "a number"
                raise UsageError(f"{name} must be {kind}, not {value!r}") from error
            raise UsageError(f"{value!r} is not a valid value: {describe_problems(error)}") from error
        chosen = getattr(parsed.to_decoding(), name)
        self.conversation.decoding = replace(self.conversation.decoding, **{name: chosen})

    def save(self, path: Path) -> None:
        save_conversation(self.conversation, path, self._report.model)

    def load(self, path: Path, may_fetch: Callable[[list[str]], bool]) -> None:
        """Continue a saved conversation, after asking about its URLs. Raises UsageError or ItemError."""
        conversation = load_conversation(path)
        urls = [one for one in conversation.list_sources() if parse_scheme(one) in ("http", "https")]
        if (new := [url for url in urls if url not in self._images]) and not may_fetch(new):
            raise UsageError(f"{path} was not loaded, because its images were not fetched")
        self._adopt(conversation)

    def _adopt(self, conversation: Conversation) -> None:
        """Use a conversation, if the model can continue it."""
        self._load(conversation.list_sources())
        request = conversation.word(conversation.write_item("?"), self._backend.style)
        self._backend.preview(request, self._images)
        self.conversation = conversation

    def _load(self, sources: list[str]) -> None:
        self._images |= {
            source: load(source, self._limits) for source in dict.fromkeys(sources) if source not in self._images
        }


def _parse(name: str, value: str) -> Any:
    """A value as it is typed: a number, a text, or a list of texts."""
    if get_type_hints(Decoding)[name] == tuple[str, ...]:
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = value
        return parsed if isinstance(parsed, list) else [str(parsed)]
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value
