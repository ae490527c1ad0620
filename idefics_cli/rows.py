"""The row of a result: one for each item, whatever its outcome.

Knows how a value becomes JSON, not where rows are kept.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .content import Content
from .url_secrets import hide_secrets
from .values import Confidence, Decoding, Failure, FinishReason, Score, Usage


@dataclass(frozen=True, slots=True)
class Result:
    """Exactly one output row."""

    id: str
    images: tuple[str, ...]
    task: str
    fields: Mapping[str, Any]
    text: str | None
    finish_reason: FinishReason | None
    label: str | None
    scores: Sequence[Score] | None
    model: str
    revision: str | None
    template: str
    usage: Usage = Usage()
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    error: Failure | None = None
    decoding: Decoding = Decoding()
    key: str = ""
    instead_of: str = ""
    """The key of the row of another run that it takes the place of."""
    data: Any = None
    """The value of an answer of a format: what its text says, parsed."""
    confidence: Confidence | None = None
    shard: Mapping[str, int | None] | None = None
    meta: Mapping[str, Any] | None = None
    contents: tuple[Content | None, ...] = ()
    """What each of its images held; nothing where none was looked at."""

    def to_row(self) -> dict[str, Any]:
        """The row as JSON values. A path that is not UTF-8 is shown escaped and given whole as `path_b64`."""
        row: dict[str, Any] = {
            "id": _printable(self.id if self.key.endswith("-id") else hide_secrets(self.id)),
            "images": [_printable(hide_secrets(source)) for source in self.images],
            "task": self.task,
            "fields": dict(self.fields),
            "text": self.text,
            "data": self.data,
            "finish_reason": self.finish_reason,
            "label": self.label,
            "scores": None if self.scores is None else [asdict(score) for score in self.scores],
            "confidence": None if self.confidence is None else self.confidence.to_row(),
            "model": self.model,
            "revision": self.revision,
            "template": self.template,
            "decoding": self.decoding.list_changes(),
            "usage": asdict(self.usage),
            "seconds": round(self.seconds, 4),
            "warnings": list(self.warnings),
            "error": None if self.error is None else {"code": self.error.code, "message": self.error.message},
            "content": [one and one.to_row() for one in self.contents],
            "key": self.key,
            **({"instead_of": self.instead_of} if self.instead_of else {}),
            **({} if self.meta is None else {"meta": dict(self.meta)}),
        }
        row |= {} if self.shard is None else {"shard": dict(self.shard)}
        if any(_printable(source) != source for source in self.images):
            row["path_b64"] = [base64.b64encode(os.fsencode(one)).decode("ascii") for one in self.images]
        return row


def _printable(text: str) -> str:
    """Surrogate-escaped bytes shown as \\xNN, so that a row is always valid UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_confidence(row: Mapping[str, Any]) -> tuple[float, float]:
    """How likely the label of a row is, or its tokens on average, and its margin over the next; NaN if not there."""
    scores = row.get("scores")
    if isinstance(scores, list) and scores:
        chances: list[Any] = [one.get("probability") for one in scores[:2] if isinstance(one, dict)]
        if chances and all(isinstance(one, (int, float)) for one in chances):
            return chances[0], chances[0] - chances[1] if len(chances) > 1 else math.nan
    found = row.get("confidence")
    if isinstance(found, dict):
        mean, margin = found.get("mean_logprob"), found.get("margin")
        likely = math.exp(min(mean, 0.0)) if isinstance(mean, (int, float)) else math.nan
        return likely, margin if isinstance(margin, (int, float)) else math.nan
    return (found, math.nan) if isinstance(found, (int, float)) else (math.nan, math.nan)
