"""The items of a command whose images are in tables and shards: from records to items."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BadItem, ItemError, NothingToDo, SourceError, UsageError, to_item_error
from ..images import name_source, read
from ..images.names import parse_scheme
from ..prompts.templates import OWN_FIELDS, Template
from ..records.formats import open_kind
from ..records.opening import list_tables
from ..records.record import CellChoice, Record, RecordTable
from ..records.where import parse_condition
from ..url_secrets import hide_secrets
from ..values import Item, Request, Style
from .arguments import check_words
from .inputs import (
    SURROGATES,
    ItemList,
    Question,
    Words,
    ask_each,
    choose_template,
    choose_words,
    complete_fields,
    describe_item,
    list_work,
)
from .settings import Settings


def list_asked(images: Sequence[str], question: Question, settings: Settings) -> ItemList:
    """The work of a task's command, from names of images or from a table. Raises UsageError."""
    options = settings.table
    if options.table is not None:
        return _list_table(images, question, settings, options.table)
    for value, flag in ((options.image_column, "image"), (options.id_column, "id")):
        if value is not None:
            raise UsageError(f"--{flag}-column needs a table", hint="name it with --from")
    if options.where:
        raise UsageError("--where needs a table", hint="name it with --from")
    return list_work(images, question, settings)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How records of tables become items."""

    wanted: CellChoice
    like: Item
    fields: tuple[tuple[str, str], ...]
    """Those that the command gives to all."""
    columns: Collection[str]
    """Fields that a record gives."""
    question: Question
    id_column: str | None
    settings: Settings

    def list_items(
        self, table: RecordTable, name: str, groups: Collection[int] | None = None
    ) -> Iterator[tuple[int, Item]]:
        """The items of a table, each with its place in it, from 0."""
        each = max(1, len(self.question.questions))
        for record in table.read(groups):
            try:
                item = self._read(record, table, name)
            except BaseException as error:
                failure = to_item_error(error)
                item = self._fail(record.name, str(failure), failure.code)
            asked = [item] if item.problem else ask_each(item, item.fields, self.question)
            yield from enumerate(asked, (record.place - 1) * each)

    def fail_table(self, name: str, problem: str) -> Item:
        """The row for a table that cannot be opened."""
        return self._fail(hide_secrets(name), problem, "not_found")

    def _fail(self, name: str, problem: str, code: str) -> Item:
        return replace(self.like, id=name, problem=f"{name_source(name)}: {problem}", problem_code=code)

    def _read(self, record: Record, table: RecordTable, name: str) -> Item:
        """Raises ItemError for a record without a usable image or field."""
        if record.problem:
            raise SourceError(record.problem, code="not_found")
        own = tuple(
            (one, _to_text(one, record.cells[one])) for one in self.columns if record.cells.get(one) is not None
        )
        item = replace(self.like, id=record.name, fields=(*self.fields, *own))
        if record.load is not None:
            item = replace(item, images=(record.name,), read_own=partial(self._load, record.load, record.name, name))
        else:
            item = self._place(item, record.cells.get(table.image), name)
        if self.id_column is None:
            return item
        id = record.cells.get(self.id_column)
        if id is None:
            raise BadItem(f"it has no {self.id_column}")
        return replace(item, id=_to_text(self.id_column, id), is_named=True)

    def _place(self, item: Item, cell: Any, table: str) -> Item:
        """The item with the images of a cell: names, bytes, or several of them."""
        several = cell if isinstance(cell, list | tuple) else [cell]
        names: list[str] = []
        own: dict[str, bytes] = {}
        for number, one in enumerate(several, 1):
            content = _find_content(one)
            if isinstance(content, bytes):
                name = item.id if len(several) == 1 else f"{item.id}.{number}"
                own[name] = content
            else:
                name = _resolve(content, table)
            names.append(name)
        if not own and len(names) == 1:
            item = replace(item, id=names[0])
        return replace(item, images=tuple(names), read_own=(lambda: own) if own else None)

    def _load(self, load: Callable[[], Any], source: str, table: str) -> Mapping[str, bytes | Path]:
        content = _find_content(load())
        if isinstance(content, str):
            return {source: read(_resolve(content, table), self.settings.limits)}
        if len(content) > self.wanted.max_bytes:
            message = f"{name_source(source)} has more than {self.wanted.max_bytes:,} bytes"
            raise SourceError(message, code="too_large")
        return {source: content}


def _list_table(images: Sequence[str], question: Question, settings: Settings, named: str) -> ItemList:
    if images or settings.input.files_from is not None:
        raise UsageError("--from already names the images", hint="leave out the other names")
    if settings.input.together:
        raise UsageError("--together needs names of images", hint="use a column with lists of images")
    options = settings.table
    template = choose_template(question, settings)
    check_words(images, question.task)
    fields = complete_fields(question, template)
    given = {name for name, _ in fields} | ({"question"} if question.questions else set())
    columns = [name for name in (*template.fields, *OWN_FIELDS) if name not in given]
    conditions = tuple(map(parse_condition, options.where or ()))
    wanted = CellChoice(
        options.image_column,
        {*columns, *([options.id_column] if options.id_column else [])},
        conditions,
        settings.limits.max_bytes,
    )
    reading = _Reading(
        wanted,
        describe_item(question, template, settings),
        fields,
        columns,
        question,
        options.id_column,
        settings,
    )
    names = list_tables(named)
    first = open_kind(names[0], wanted)  # what cannot be meant is told before a model is loaded
    return ItemList(
        items=lambda: _list_items(names, first, reading),
        words=_choose_words(template, settings),
        nothing=NothingToDo(f"no row of {name_source(named)} is selected", hint="check --where" if conditions else ""),
        is_stream=True,
        files=tuple(name for name in names if parse_scheme(name) is None),
        share=None if conditions else partial(_share, names, reading),
        like=reading.like,
        any_style="completion" if template.completion is not None else "chat",
        questions=len(question.questions) > 1,
        top=question.top,
    )


def _list_items(names: Sequence[str], first: RecordTable, reading: _Reading) -> Iterator[Item]:
    for number, name in enumerate(names):
        try:
            table = first if number == 0 else open_kind(name, reading.wanted)
        except UsageError as error:
            yield reading.fail_table(name, str(error))
        else:
            yield from (item for _, item in reading.list_items(table, name))


def _share(names: Sequence[str], reading: _Reading, index: int, count: int) -> Iterator[Item] | None:
    """The items of every n-th row group, counted over all tables; None if there are too few groups."""
    groups: list[tuple[str, int, int, int]] = []
    """The table, number of the group in it, how many rows are before that table and how many it has."""
    before = 0
    for name in names:
        rows = open_kind(name, reading.wanted).count_groups()
        if not rows:
            return None
        groups += [(name, number, before, own) for number, own in enumerate(rows)]
        before += sum(rows)
    if len(groups) < count:
        return None
    each = max(1, len(reading.question.questions))
    chosen = groups[index - 1 :: count]
    told = {"index": index, "count": count}
    told |= {"part_items": sum(rows for *_, rows in chosen) * each, "items": before * each}
    return _list_groups(chosen, reading, told, each)


def _list_groups(
    groups: Sequence[tuple[str, int, int, int]], reading: _Reading, told: Mapping[str, int], each: int
) -> Iterator[Item]:
    for name, number, before, _ in groups:
        for place, item in reading.list_items(open_kind(name, reading.wanted), name, {number}):
            yield replace(item, shard={**told, "place": before * each + place})


def _choose_words(template: Template, settings: Settings) -> Words:
    words = choose_words(template, settings.sidecars)

    def compose(item: Item, style: Style) -> Request:
        if item.problem:
            raise ItemError(item.problem, code=item.problem_code)
        try:
            return words(item, style)
        except UsageError as error:
            raise BadItem(str(error)) from error

    return compose


def _find_content(cell: Any) -> bytes | str:
    """The bytes of an image, or its address. Raises BadItem for a cell that has neither."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytearray | memoryview):
        cell = bytes(cell)
    if isinstance(cell, bytes | str) and cell:
        return cell
    raise BadItem("it has no image" if not cell else f"its image is {type(cell).__name__}, not bytes or a name")


def _resolve(name: str, table: str) -> str:
    """The name of an image in a table: relative to the table's folder, unless it is a URL."""
    if parse_scheme(name) is not None or parse_scheme(table) is not None:
        return name
    return os.path.join(os.path.dirname(table), name)


def _to_text(column: str, cell: Any) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if not isinstance(cell, str | int | float):
        raise BadItem(f"{column} is {type(cell).__name__}, not a text")
    text = str(cell)
    if SURROGATES.search(text):
        raise BadItem(f"{column} is not UTF-8 text")
    return text
