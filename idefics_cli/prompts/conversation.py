"""A conversation: its turns, the wording of the next message, and its file.

Knows no terminal and no model.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ..errors import BadItem, UsageError, describe_problems
from ..files import read_file, write_file
from ..images import is_url
from ..values import Decoding, Example, Item, Message, Request, Style, TextPart
from .compose import word
from .examples import relative_to
from .templates import DecodingDefaults, Strict, Template, Text, load_template

MAX_FILE_BYTES = 100_000_000
"""Room for some images as data URLs."""
NEXT_MESSAGE = "\nUser:"
"""Where a base model begins to speak for the user."""
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class Conversation:
    """Turns are examples of the template `dialogue`: a message, its images and the reply."""

    decoding: Decoding
    template: Template = field(default_factory=lambda: load_template("dialogue"))
    system: str = ""
    turns: list[Example] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """Images that go with the next message."""

    def list_sources(self) -> list[str]:
        """All images, in the order they came in, each once."""
        shown = (source for turn in self.turns for source in turn.images)
        return list(dict.fromkeys((*shown, *self.waiting)))

    def write_item(self, message: str) -> Item:
        return Item(
            id=f"turn {len(self.turns) + 1}",
            images=tuple(self.waiting),
            fields=(("message", message),),
            task="chat",
            template=self.template.label,
            examples=tuple(self.turns),
            decoding=self.decoding,
            has_own_stop=bool(self.decoding.stop),
        )

    def word(self, item: Item, style: Style) -> Request:
        """The whole conversation up to a message as one request. Raises BadItem if it cannot be worded."""
        if any(_SURROGATES.search(value) for _, value in item.fields):
            raise BadItem("the message is not UTF-8 text", hint="check the encoding of your terminal")
        request = replace(word(self.template, style, item), cache_answer=True)
        if style == "completion":
            if self.system:
                raise BadItem("a document has no system message", hint="say it in the first message")
            stop = tuple(dict.fromkeys((*request.decoding.stop, NEXT_MESSAGE)))
            return replace(request, decoding=replace(request.decoding, stop=stop))
        if self.system:
            opening = Message("system", (TextPart(self.system),))
            return replace(request, prompt=(opening, *request.prompt))
        return request

    def add(self, message: str, reply: str) -> None:
        """Add a message and its reply."""
        self.turns.append(Example(tuple(self.waiting), (("message", message),), reply))
        self.waiting = []

    def undo(self) -> bool:
        """Remove the last message and its reply; its images are kept for the next one."""
        if not self.turns:
            return False
        self.waiting[:0] = self.turns.pop().images
        return True

    def reset(self) -> None:
        """Start again, with the same system message and decoding."""
        self.turns, self.waiting = [], []


class _Turn(Strict):
    images: list[str] = Field(default_factory=list, max_length=1000)
    message: Text
    reply: Text


class _File(Strict):
    idefics_conversation: Literal[1]
    """The version of the format."""
    model: str = ""
    system: Text = ""
    decoding: DecodingDefaults = DecodingDefaults()
    turns: list[_Turn] = Field(default_factory=list, max_length=10_000)
    images: list[str] = Field(default_factory=list, max_length=1000)


def load_conversation(path: Path) -> Conversation:
    """Read a saved conversation; image paths are relative to the file. Raises UsageError."""
    try:
        content = read_file(path, MAX_FILE_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        saved = _File.model_validate_json(content)
    except ValidationError as error:
        raise UsageError(f"{path} is not a saved conversation: {describe_problems(error)}") from error
    turns = [Example(_find(turn.images, path.parent), (("message", turn.message),), turn.reply) for turn in saved.turns]
    waiting = list(_find(saved.images, path.parent))
    return Conversation(saved.decoding.to_decoding(), system=saved.system, turns=turns, waiting=waiting)


def save_conversation(conversation: Conversation, path: Path, model: str) -> None:
    """Write a file that a person can read, whole or not at all. Replaces only a saved conversation.

    Raises UsageError.
    """
    if path.exists():
        try:
            load_conversation(path)
        except UsageError as error:
            raise UsageError(f"{path} is not a saved conversation", hint="save under another name") from error
    folder = path.absolute().parent
    saved = _File(
        idefics_conversation=1,
        model=model,
        system=conversation.system,
        decoding=DecodingDefaults(**conversation.decoding.list_changes()),
        turns=[
            _Turn(images=_name(turn.images, folder), message=dict(turn.fields)["message"], reply=turn.answer)
            for turn in conversation.turns
        ],
        images=_name(conversation.waiting, folder),
    )
    content = saved.model_dump_json(indent=1, exclude_defaults=True) + "\n"
    try:
        write_file(Path(os.path.realpath(path)), content.encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _name(sources: tuple[str, ...] | list[str], folder: Path) -> list[str]:
    """Sources as seen from a folder."""
    names = [one if is_url(one) else os.path.relpath(os.path.abspath(one), folder) for one in sources]
    if any(_SURROGATES.search(name) for name in names):
        raise UsageError("the name of an image is not UTF-8, so it cannot be saved", hint="rename it")
    return names


def _find(sources: list[str], folder: Path) -> tuple[str, ...]:
    if any(source in ("", "-") for source in sources):
        raise UsageError("a saved image has no name")
    return tuple(source if is_url(source) else os.path.normpath(relative_to(folder, source)) for source in sources)
