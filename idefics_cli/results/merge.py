"""Joins the parts of a run: one row for each item, in the order of the input, and what is missing.

Rows are read twice, once for their places and once to be copied; only the places are in memory.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import BadItem, UsageError
from ..files import lock, open_draft, write_lines
from ..jsonl import dump_row, parse_line
from ..url_secrets import hide_secrets
from .ledger import RUN_DIGITS, list_spellings, number_key

_TOLD = ("model", "revision", "task", "template", "decoding")
"""Fields that tell runs apart, for a message; others are in the key only."""
_NOWHERE = 1 << 60
"""The place of rows that are not in the list: after all others."""


@dataclass(slots=True)
class Merged:
    """The outcome of a merge."""

    written: int = 0
    failed: int = 0
    duplicates: int = 0
    unlisted: int = 0
    """Rows about images that are not in the list of inputs."""
    missing: int = 0
    first_missing: str = ""
    lacking: list[str] = field(default_factory=list)
    """Parts of which there is no row, or not all, as `2/4`."""
    items: int = 0
    """How many the list of inputs is said to have, if it is."""
    have_places: bool = True
    """Whether the rows, or the list of inputs, said where each belongs."""


@dataclass(slots=True)
class _Part:
    """What the rows of a part record about it."""

    rows: int = 0
    items: int | None = None
    last: int = -1

    def lacks(self, place: int) -> bool:
        """Whether it has rows to come, or may have the item of this place."""
        return self.last < place if self.items is None else self.rows < self.items


@dataclass(slots=True)
class _Rows:
    """The place of each row: its place in the input, its number among items of the same place, its file and line."""

    places: list[tuple[int, int, int]] = field(default_factory=list)
    """Place in the list, then place in the run, then number of the row, which says where it is."""
    files: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))


def merge(parts: Sequence[Path], target: Path, inputs: Sequence[str] | None = None) -> Merged:
    """Write the rows of all parts to one file, as one run would have. Raises UsageError.

    `inputs` are the names of the images in their order, if rows do not record their places. The target is written whole
    or not at all.
    """
    if any(os.path.realpath(target) == os.path.realpath(part) for part in parts):
        raise UsageError(f"{target} is one of the parts", hint="give another --output")
    report = Merged()
    listed = None if inputs is None else _number(inputs)
    rows, keys, shards = _find_rows(parts, listed, report)
    _keep_others(target, keys)
    if listed is not None and inputs is not None:
        seen = {place for place, _, _ in rows.places}
        gone = [place for place in sorted(set(listed.values())) if place not in seen]
        report.missing, report.first_missing = len(gone), inputs[gone[0]] if gone else ""
        report.unlisted = sum(place == _NOWHERE for place, _, _ in rows.places)
    if report.have_places and not report.missing:
        _find_gaps(rows, shards, report)
    if listed is not None or report.have_places:
        rows.places.sort()
    _write(parts, target, rows, report)
    return report


def _number(inputs: Sequence[str]) -> dict[str, int]:
    """The first place of each image, in all spellings."""
    places: dict[str, int] = {}
    for place, name in enumerate(inputs):
        for (spelling,) in list_spellings((hide_secrets(name),)):
            places.setdefault(spelling, place)
    return places


def _find_rows(
    parts: Sequence[Path], listed: Mapping[str, int] | None, report: Merged
) -> tuple[_Rows, set[int], dict[tuple[int, int], _Part]]:
    """The rows that count, all keys, and what each part records.

    A row that was asked again (`instead_of`) is of the item of the row that it replaced.
    """
    rows = _Rows()
    keys: set[int] = set()
    shards: dict[tuple[int, int], _Part] = {}
    at: dict[tuple[int, int], tuple[int, bool]] = {}
    """Of an item, by key and place: the number of its row and whether that failed."""
    first: tuple[Path, Mapping[str, Any]] | None = None
    for file, part in enumerate(parts):
        in_file: dict[tuple[int, int], int] = {}
        for number, offset, row in _read_rows(part):
            first = first or (part, row)
            _check_run(row, first, f"{part} line {number}")
            shard, failed = row.get("shard"), row["error"] is not None
            key, own = number_key(_find_root(row)), number_key(row["key"])
            keys |= {key, own}
            if shard is None:
                report.have_places = False
                place = in_file.get((key, own), -1)
                if place < 0 or failed or not at[key, place][1]:  # items that are the same have a row each
                    place = in_file[key, own] = place + 1
            else:
                place = shard["place"]
                report.items = max(report.items, shard["items"] or 0)
                known_part = shards.setdefault((shard["index"], shard["count"]), _Part())
                known_part.last = max(place, known_part.last)
                known_part.items = shard["part_items"] or known_part.items
                known_part.rows += (key, place) not in at
            known = at.get((key, place))
            if known is not None:
                is_successor = key != own and not failed
                report.duplicates += not is_successor
                if failed or not (known[1] or is_successor):
                    continue
                rows.files[known[0]], rows.offsets[known[0]] = file, offset
                report.failed -= known[1]
                at[key, place] = known[0], failed
                continue
            report.failed += failed
            index = len(rows.files)
            at[key, place] = index, failed
            rows.files.append(file)
            rows.offsets.append(offset)
            rows.places.append((_place_in(listed, row), index if shard is None else place, index))
    return rows, keys, shards


def _find_root(row: Mapping[str, Any]) -> str:
    """The key of the first row of an item, which a row may have replaced."""
    return str(row.get("instead_of") or row["key"])


def _place_in(listed: Mapping[str, int] | None, row: Mapping[str, Any]) -> int:
    if listed is None:
        return 0
    images = tuple(row["images"][:1])
    spellings = (one for named in list_spellings(images) for one in named)
    return next((listed[one] for one in spellings if one in listed), _NOWHERE)


def _read_rows(part: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The rows of a file with their lines and where those begin. Raises UsageError for what is none."""
    number = offset = 0
    with _open_part(part) as stream:
        for number, line in enumerate(stream, 1):
            begins, offset = offset, offset + len(line)
            if not line.strip():
                continue
            try:
                row = parse_line(line.rstrip(b"\r\n"))
                _ = number_key(row["key"]), number_key(_find_root(row))
                shard = row.get("shard")
                if not isinstance(row["images"], list) or not isinstance(row["error"], dict | None):
                    raise TypeError
                if shard is not None:
                    _ = [int(shard[name] or 0) for name in ("index", "count", "place", "part_items", "items")]
            except (BadItem, LookupError, TypeError, ValueError):
                if not line.endswith(b"\n"):
                    raise UsageError(
                        f"{part} line {number} was cut off", hint="run the command of this part again first"
                    ) from None
                raise UsageError(f"{part} line {number} is not a row", hint="give files that --output wrote") from None
            yield number, begins, row


def _open_part(part: Path) -> IO[bytes]:
    try:
        stream = part.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {part}: {error.strerror}") from error
    if not lock(stream.fileno()):
        stream.close()
        raise UsageError(f"a run is still writing {part}", hint="wait for it")
    return stream


def _check_run(row: Mapping[str, Any], first: tuple[Path, Mapping[str, Any]], where: str) -> None:
    path, other = first
    if _find_root(row)[:RUN_DIGITS] == _find_root(other)[:RUN_DIGITS]:
        return
    told = next((name for name in _TOLD if row.get(name) != other.get(name)), None)
    what = "has another command, or other labels, shots or options of the model, than"
    if told is not None:
        mine, yours = (json.dumps(one.get(told), ensure_ascii=False) for one in (row, other))
        what = f"has {told} {mine}, not {yours} as"
    raise UsageError(f"{where} {what} {path}", hint="merge the parts of one run only")


def _keep_others(target: Path, keys: set[int]) -> None:
    """Refuse to replace a file with rows that the parts do not have. Raises UsageError."""
    if not target.exists():
        return
    others = sum(number_key(row["key"]) not in keys for _, _, row in _read_rows(target))
    if others:
        rows = "a row" if others == 1 else f"{others:,} rows"
        raise UsageError(f"{target} has {rows} that no part has", hint="give another --output")


def _find_gaps(rows: _Rows, shards: Mapping[tuple[int, int], _Part], report: Merged) -> None:
    """Which places have no row: of the whole list if its length is known, else up to the last place."""
    there = {place for _, place, _ in rows.places}
    gone = [place for place in range(max(max(there, default=-1) + 1, report.items)) if place not in there]
    if not gone:
        return
    report.missing, report.first_missing = len(gone), f"item {gone[0] + 1:,} of the list"
    count = max(of for _, of in shards)
    every = {index: shards.get((index, count), _Part()) for index in range(1, count + 1)}
    report.lacking = [f"{index}/{count}" for index, part in every.items() if part.lacks(gone[-1])]


def _write(parts: Sequence[Path], target: Path, rows: _Rows, report: Merged) -> None:
    streams = [part.open("rb") for part in parts]
    try:
        with open_draft(target) as draft:
            write_lines(draft.file, _read_placed(streams, rows))
            draft.keep()
            os.close(draft.file)
        report.written = len(rows.places)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}", hint="nothing was changed") from error
    finally:
        for stream in streams:
            stream.close()


def _read_placed(streams: Sequence[IO[bytes]], rows: _Rows) -> Iterator[bytes]:
    """The lines of the rows, in their order."""
    for _, _, index in rows.places:
        stream = streams[rows.files[index]]
        stream.seek(rows.offsets[index])
        row = json.loads(stream.readline())
        row.pop("shard", None)
        yield f"{dump_row(row)}\n".encode()
