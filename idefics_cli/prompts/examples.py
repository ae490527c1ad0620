"""Shots: examples of items with their answers, read from YAML or JSONL."""

from __future__ import annotations

import difflib
import io
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError, field_validator

from ..config import read_yaml
from ..errors import BadItem, UsageError, describe_problems
from ..files import read_file
from ..images import is_url
from ..jsonl import parse_line, read_lines
from ..values import Example
from .templates import IMAGE, IMAGES, Strict, check_turn, share_images

MAX_BYTES = 200_000_000
"""Room for shots with their images as data URLs."""


def load_examples(path: Path) -> list[Example]:
    """Read shots from a YAML list or a JSONL file; image paths are relative to the file."""
    if path.suffix.lower() in (".yaml", ".yml"):
        entries = read_yaml(path)
        if not isinstance(entries, list):
            raise UsageError(f"{path} is not a list of examples", hint="each has image, fields and answer")
        return [parse_example(entry, path.parent, f"{path}, example {n}") for n, entry in enumerate(entries, 1)]
    try:
        lines = read_lines(io.BytesIO(read_file(path, MAX_BYTES)))
        return [_parse_line(line, path, number) for number, line in lines]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _parse_line(line: bytes, path: Path, number: int) -> Example:
    origin = f"{path}, line {number}"
    try:
        entry = parse_line(line)
    except BadItem as error:
        raise UsageError(f"{origin}: {error}") from error
    return parse_example(entry, path.parent, origin)


class _ExampleEntry(Strict):
    """One shot. Keys it does not know are fields of the template, as in a batch file."""

    model_config = ConfigDict(extra="allow", frozen=True)

    image: str | None = None
    images: list[str] = Field(default_factory=list)
    fields: dict[str, str] = Field(default_factory=dict)
    answer: str
    turn: list[str] = Field(default_factory=list)

    @field_validator("turn")
    @classmethod
    def _plain_turn(cls, turn: list[str]) -> list[str]:
        return check_turn(turn)


def parse_example(entry: object, folder: Path, origin: str) -> Example:
    """One shot from YAML or JSON values. Raises UsageError naming `origin`."""
    try:
        parsed = _ExampleEntry.model_validate(entry)
    except ValidationError as error:
        raise UsageError(
            f"{origin}: {describe_problems(error)}", hint="an example has image, fields and answer"
        ) from error
    sources = ([parsed.image] if parsed.image is not None else []) + parsed.images
    if parsed.turn:
        has_place = IMAGE in parsed.turn or IMAGES in parsed.turn
        if bool(sources) != has_place:
            raise UsageError(f"{origin}: its turn and its images do not match", hint=f"write `{IMAGE}` in the turn")
        share_images(parsed.turn, sources)
    return Example(
        tuple(relative_to(folder, source) for source in sources),
        tuple(_join_fields(parsed, origin).items()),
        parsed.answer,
        tuple(parsed.turn),
    )


def _join_fields(parsed: _ExampleEntry, origin: str) -> dict[str, str]:
    """The fields of a shot, within `fields` or beside it."""
    fields = dict(parsed.fields)
    for name, value in (parsed.model_extra or {}).items():
        if near := difflib.get_close_matches(name, _ExampleEntry.model_fields, n=1, cutoff=0.75):
            raise UsageError(f"{origin}: {name} is unknown", hint=f"did you mean {near[0]}?")
        if not isinstance(value, str):
            raise UsageError(f"{origin}: {name} is not a text", hint="put it in quotes")
        if name in fields:
            raise UsageError(f"{origin}: {name} is given twice")
        fields[name] = value
    return fields


def relative_to(folder: Path, source: str) -> str:
    """A path as seen from `folder`; URLs and absolute paths stay as they are."""
    return source if is_url(source) else str(folder / source)
