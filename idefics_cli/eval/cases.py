"""Rows with their references: the input of metrics. Any JSONL with ids or images will do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UsageError
from ..review.lines import no_collection, parse_rows, read_block
from ..rows import read_confidence
from .ngrams import CaptionSet, SizedGrams
from .references import References


class Case(NamedTuple):
    """One answer and its references. A failed row has no answer, and counts as wrong."""

    id: str
    said: str
    label: str | None
    scores: tuple[tuple[str, float, float], ...]
    """Ranked labels, best first: name, log-likelihood, probability."""
    probability: float
    """How sure the model was of its answer; NaN if that is not known."""
    data: Any
    answers: tuple[str, ...]
    """The right ones; of several annotators where there were some."""
    truth: Any
    """The right value of `data`."""
    group: str
    line: bytes
    """The row as it stands in its file."""


class Cases(list[Case]):
    """Cases in order, with counts that several metrics share."""

    @cached_property
    def captions(self) -> CaptionSet:
        return CaptionSet([case.said for case in self], [case.answers for case in self])

    @cached_property
    def grams(self) -> list[SizedGrams]:
        """The n-grams up to four words."""
        return self.captions.count_grams(4)


@dataclass(frozen=True, slots=True)
class CaseFile:
    """The cases of one file of rows, by the keys of their references."""

    path: Path
    cases: dict[int, Case]
    failed: int
    unmatched: int
    """Rows that no reference is about."""
    task: str
    model: str


def read_cases(path: Path, references: References, by: str | None = None) -> CaseFile:
    """The rows of a file that have a reference; the last row of an item counts. Raises UsageError."""
    cases: dict[int, Case] = {}
    failed = unmatched = 0
    task = model = ""
    with no_collection():
        for number, (row, line) in enumerate(read_rows(path), 1):
            reference = references.find(row, number)
            if reference is None:
                unmatched += 1
                continue
            task, model = task or str(row.get("task") or ""), model or str(row.get("model") or "")
            failed += row.get("error") is not None
            fields = row.get("fields")
            group = ""
            if by is not None:
                places = (fields if isinstance(fields, dict) else {}, row, reference.fields)
                group = next((str(place[by]) for place in places if by in place), "")
            cases[reference.number] = Case(
                str(row.get("id", f"line {number}")),
                *_read_answer(row),
                reference.answers,
                reference.truth,
                group,
                line,
            )
    return CaseFile(path, cases, failed, unmatched, task, model or path.stem)


def read_rows(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The rows of a file with their lines; an invalid line counts as a failed row. Raises UsageError."""
    try:
        with path.open("rb") as stream:
            start = 0
            while True:
                lines, _, end = read_block(stream.fileno(), start)
                if end == start:
                    return
                yield from zip(parse_rows(lines), lines, strict=True)
                start = end
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _read_scores(row: dict[str, Any]) -> tuple[tuple[str, float, float], ...]:
    """The ranked labels of a row, as far as they are valid."""
    scores = row.get("scores")
    if not isinstance(scores, list):
        return ()
    return tuple(
        (one["label"], float(one["logprob"]), float(one["probability"]))
        for one in scores
        if isinstance(one, dict)
        and isinstance(one.get("label"), str)
        and isinstance(one.get("logprob"), (int, float))
        and isinstance(one.get("probability"), (int, float))
    )


def _read_answer(
    row: dict[str, Any],
) -> tuple[str, str | None, tuple[tuple[str, float, float], ...], float, Any]:
    if row.get("error") is not None:
        return "", None, (), float("nan"), None
    label = row.get("label")
    text = next((row[name] for name in ("text", "answer", "caption", "prediction") if row.get(name)), label)
    return (
        "" if text is None else str(text),
        label if isinstance(label, str) else None,
        _read_scores(row),
        read_confidence(row)[0],
        row.get("data"),
    )
