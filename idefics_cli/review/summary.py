"""What is kept of a row to find, sort and join it by. Rows of any JSONL are welcome: what is missing is left out."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from contextlib import suppress
from operator import itemgetter
from typing import Any, NamedTuple

from ..rows import read_confidence

NAN = float("nan")
_FIELDS = (
    *("id", "key", "text", "label", "error", "images", "fields", "warnings", "seconds", "scores"),
    *("template", "task", "finish_reason", "model", "confidence"),
)
_take = itemgetter(*_FIELDS)


class Summary(NamedTuple):
    """One row in short. The three numbers of identity are hashes of this process."""

    identity: int
    """Of its id and key: what its corrections are filed under."""
    id: int
    item: int
    """Of its id, images and fields."""
    answer: int
    """Of its label, or of its text less case and spaces: what agrees with another row's."""
    label: str
    template: str
    task: str
    error: str
    finish: str
    model: str
    warning: str
    """One on each line."""
    confidence: float
    margin: float
    length: float
    seconds: float
    text: str
    names: str


class RowAnswer(NamedTuple):
    """What a row says, as a person may correct it."""

    text: str | None
    label: str | None

    @property
    def shown(self) -> str:
        return self.label or "" if self.text is None else self.text

    def digest(self) -> int:
        """What is equal for answers that agree."""
        return digest_answer(self.shown if self.label is None else self.label)


def summarise(row: Mapping[str, Any], line: int) -> Summary:
    """A row in short. `line` names a row without an id. Called for each of millions, so it calls little itself."""
    try:
        taken = _take(row)
    except KeyError:  # not a row of ours
        taken = tuple(map(row.get, _FIELDS))
    id, key, text, label, error, images, fields, warnings, seconds, scores = taken[:10]
    template, task, finish, model, certainty = taken[10:]
    if type(id) is not str or type(key) is not str:
        id, key = identify(row, line)
    if type(text) is not str:
        text = None
    if type(label) is not str:
        label = None
    shown = text if text is not None else label or ""
    if type(images) is list and len(images) == 1 and images[0] == id:
        names, item = f"{label or ''}\n{id}\n", hash((id, id))
    else:
        images = read_images(row)
        names = "\n".join((label or "", id, *images, ""))
        item = hash((id, *images))
    if fields and isinstance(fields, dict):
        names += "\n".join(value for value in fields.values() if isinstance(value, str))
        item = hash((item, *map(str, fields.items())))
    code: Any = ""
    if error is not None:
        code = (error.get("code") if isinstance(error, dict) else error) or "error"
        names = f"{names}\n{error.get('message') if isinstance(error, dict) else error}"
        answer = hash((id, "error"))
    else:
        answer = digest_answer(shown if label is None else label)
    if scores or certainty is not None:
        confidence, margin = read_confidence(row)
    else:
        confidence = margin = NAN
    return Summary(
        hash((id, key)),
        hash(id),
        item,
        answer,
        label or "",
        template if type(template) is str else "",
        task if type(task) is str else "",
        code if type(code) is str else "",
        finish if type(finish) is str else "",
        model if type(model) is str else "",
        "\n".join(map(str, warnings)) if warnings and type(warnings) is list else "",
        confidence,
        margin,
        len(shown) if error is None else NAN,
        seconds if isinstance(seconds, (int, float)) else NAN,
        shown,
        names,
    )


def digest_answer(said: str) -> int:
    """What is equal for answers that agree: case and spaces do not matter."""
    return hash(" ".join(said.lower().split()))


def identify(row: Mapping[str, Any], line: int) -> tuple[str, str]:
    """The id and key of a row, as its corrections name them."""
    id, key = row.get("id"), row.get("key")
    return (f"line {line}" if id is None else str(id)), (key if isinstance(key, str) else "")


def read_answer(row: Mapping[str, Any]) -> RowAnswer:
    """The text and label of a row, as far as they are words."""
    text, label = row.get("text"), row.get("label")
    return RowAnswer(text if isinstance(text, str) else None, label if isinstance(label, str) else None)


def read_images(row: Mapping[str, Any]) -> list[str]:
    """The sources of a row's images; `image` is for files of other programs."""
    images = row.get("images", row.get("image"))
    images = [images] if isinstance(images, str) else images
    return [one for one in images if isinstance(one, str)] if isinstance(images, list) else []


def read_sources(row: Mapping[str, Any]) -> list[str]:
    """The images again, names that are not UTF-8 in their own bytes."""
    encoded = row.get("path_b64")
    if isinstance(encoded, list):
        with suppress(ValueError, TypeError):
            return [os.fsdecode(base64.b64decode(path, validate=True)) for path in encoded]
    return read_images(row)
