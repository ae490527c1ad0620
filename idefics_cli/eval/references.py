"""References: from JSONL, CSV or the decisions of a review, found by a row's id or images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadItem, UsageError
from ..files import read_file
from ..jsonl import parse_line, read_lines
from ..review.corrections import Corrections, review_path
from ..review.summary import identify, read_images

ANSWERS = ("answers", "references", "captions", "reference", "answer", "caption", "label", "text")
"""The keys of a reference that may have the answer; the first one found counts."""
IMAGES = ("images", "image", "file_name", "filename", "path")
_MAX_BYTES = 4_000_000_000
Key = tuple[str, str]


@dataclass(slots=True)
class Reference:
    """The right answers for one item. `number` distinguishes it from others."""

    number: int
    answers: tuple[str, ...]
    truth: Any = None
    fields: Mapping[str, Any] = field(default_factory=dict)


class References:
    """All references, by id, by image and question, and by the name of an image's file if it is unique."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_row: dict[tuple[str, str], Reference] = {}
        """Those of one file's rows, by id and key, as review names them."""
        self._by_id: dict[str, Reference] = {}
        self._by_image: dict[Key, Reference] = {}
        self._by_name: dict[Key, Reference | None] = {}
        self.count = 0

    def add(self, record: Mapping[str, Any], line: int) -> None:
        """Add one record. Several for the same item are joined, as captions of one image are."""
        answers, truth = _read_truth(record)
        if not answers and truth is None:
            known = ", ".join(ANSWERS)
            raise UsageError(f"{self.path} line {line} has no answer", hint=f"name it one of {known} or data")
        images = next((record[name] for name in IMAGES if record.get(name)), None)
        images = [images] if isinstance(images, str) else images if isinstance(images, list) else []
        id, question = record.get("id", record.get("question_id")), _read_question(record)
        if id is None and not images:
            raise UsageError(f"{self.path} line {line} names neither an id nor an image", hint="add one of them")
        image = str(images[0]) if images else ""
        known_one = self._by_id.get(str(id)) if id is not None else self._by_image.get((image, question))
        if known_one is not None:
            known_one.answers += answers
            return
        reference = Reference(self.count, answers, truth, record)
        self.count += 1
        if id is not None:
            self._by_id[str(id)] = reference
        if image:
            self._by_image.setdefault((image, question), reference)
            name = image.replace("\\", "/").rpartition("/")[2], question
            self._by_name[name] = None if name in self._by_name else reference

    def find(self, row: Mapping[str, Any], line: int) -> Reference | None:
        """The reference of a row, if there is one: by its id first, then by its first image and its question."""
        if self.by_row:
            return self.by_row.get(identify(row, line))
        if (found := self._by_id.get(str(row.get("id")))) is not None:
            return found
        images = read_images(row)
        if not images:
            return None
        name = images[0].rpartition("/")[2]
        for question in dict.fromkeys((_read_question(row), "")):
            found = self._by_image.get((images[0], question)) or self._by_name.get((name, question))
            if found is not None:
                return found
        return None


def load_references(path: Path) -> References:
    """The references in a file. Raises UsageError, which names the invalid line."""
    references = References(path)
    if path.name.endswith(".review.jsonl"):
        _take_decisions(references)
    else:
        for number, record in _read_csv(path) if path.suffix.lower() == ".csv" else _read_jsonl(path):
            references.add(record, number)
    if not references.count:
        raise UsageError(f"{path} has no references", hint="write one answer a line, with its id or image")
    return references


def find_references(rows: Path) -> Path:
    """The decisions of a review about a file of rows. Raises UsageError if there are none."""
    beside = review_path(rows)
    if not beside.exists():
        raise UsageError(
            "there are no references for the rows",
            hint=f"name a file with --references, or correct some with `idefics review {rows}`",
        )
    return beside


def _take_decisions(references: References) -> None:
    """What was accepted or edited in review is right; what was rejected or undone is no reference."""
    corrections = Corrections(references.path)
    corrections.read()
    for who, state in corrections.states.items():
        answer = state.answer.label if state.answer.label is not None else state.answer.text
        if state.decision in ("", "reject") or answer is None:
            continue
        references.by_row[who] = Reference(references.count, (answer,))
        references.count += 1


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_lines(io.BytesIO(_read(path))):
        try:
            yield number, parse_line(line)
        except BadItem as error:
            raise UsageError(f"{path} line {number}: {error}") from error


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of a table with a heading; a cell that is a JSON list is a list, an empty one is missing."""
    try:
        text = _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", hint="save it as UTF-8") from error
    try:
        for number, record in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2):
            yield number, {name: _read_cell(cell) for name, cell in record.items() if name and cell}
    except csv.Error as error:
        raise UsageError(f"{path} is not CSV: {error}") from error


def _read_cell(cell: str) -> Any:
    if cell[:1] in "[{":
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _read(path: Path) -> bytes:
    try:
        return read_file(path, _MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a JSONL or CSV file") from error


def _read_truth(record: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
    found = next((record[name] for name in ANSWERS if record.get(name) is not None), None)
    every = found if isinstance(found, list) else [] if found is None else [found]
    answers = (one.get("answer") if isinstance(one, dict) else one for one in every)
    return tuple(str(one) for one in answers if one is not None), record.get("data")


def _read_question(record: Mapping[str, Any]) -> str:
    fields = record.get("fields")
    question = record.get("question") or (fields.get("question") if isinstance(fields, dict) else None)
    return question.strip() if isinstance(question, str) else ""
