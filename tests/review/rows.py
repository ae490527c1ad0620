"""Rows as `idefics` writes them, made up for the tests of what is done with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def make_row(number: int, **values: Any) -> dict[str, Any]:
    """One caption; `values` replace what it says."""
    id = values.pop("id", f"{number}.png")
    row: dict[str, Any] = {
        "id": id,
        "images": [id],
        "task": "caption",
        "fields": {},
        "text": f"a red circle, number {number}",
        "finish_reason": "stop",
        "label": None,
        "scores": None,
        "model": "shapes",
        "revision": None,
        "template": "caption@1",
        "decoding": {},
        "usage": {"prompt_tokens": 8, "shared_tokens": 0, "new_tokens": 6},
        "seconds": 0.1,
        "warnings": [],
        "error": None,
        "key": f"01234567-{number:016x}",
    }
    return row | values


def make_ranked(number: int, label: str, probability: float, other: str = "dog", **values: Any) -> dict[str, Any]:
    """A row of classify with two labels."""
    scores = [
        {"label": label, "logprob": -0.1, "probability": probability},
        {"label": other, "logprob": -2.0, "probability": 1 - probability},
    ]
    return make_row(number, task="classify", text=label, label=label, scores=scores, **values)


def make_failed(number: int, code: str = "not_found", **values: Any) -> dict[str, Any]:
    error = {"code": code, "message": f"{number}.png is not there"}
    return make_row(number, text=None, finish_reason=None, error=error, **values)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
