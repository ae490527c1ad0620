"""The lines of a batch file: from JSON to items, each with its own task, images, fields, examples and decoding.

A line that cannot be asked becomes an item with a problem and never ends the run.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import BadItem, ItemError, UsageError, describe_problems, to_item_error
from ..jsonl import check_object, parse_line
from ..values import AnswerFormat, Decoding, Example, Item, Normalization, Request, Style
from .answer_format import check_schema, choose_new_tokens, parse_regex, to_choices
from .compose import word
from .examples import load_examples, parse_example, relative_to
from .tasks import TASKS, check_labels, name_labels, parse_scale, template_name
from .templates import DecodingDefaults, Template, load_template, template_names

_DECODING = frozenset(each.name for each in fields(Decoding))


class _Line(BaseModel):
    """One line. Keys it does not know are decoding options or else fields of the template."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    id: str | int | None = None
    task: str | None = None
    template: str | None = None
    image: str | None = None
    images: list[str] = Field(default_factory=list)
    path_b64: list[str] = Field(default_factory=list)
    """The images in bytes, for names that are not UTF-8; rows have it too."""
    fields: dict[str, str] = Field(default_factory=dict)
    decoding: dict[str, Any] = Field(default_factory=dict)
    examples: str | list[Any] = Field(default_factory=list)
    labels: list[str] = Field(default_factory=list)
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    regex: str | None = None
    choices: list[str] | None = None
    scale: str = "1-5"
    """Of a rating."""
    generate: bool = False
    normalize: Normalization = "none"
    think: bool | None = None
    """Whether the model thinks first, whatever the command says."""
    meta: dict[str, Any] | None = None
    """What is copied to its row as it is."""


class ItemReader:
    """From lines to items, and from items to requests; keeps the templates that lines name."""

    def __init__(
        self,
        folder: Path,
        decoding: Mapping[str, Any],
        *,
        answer_format: AnswerFormat | None = None,
        has_stdin: bool = True,
        has_files: bool = True,
    ) -> None:
        """`folder` is what paths are relative to; `decoding` and `answer_format` are for lines without their own.

        Without `has_stdin` the lines themselves come from standard input, so that no image can. Without `has_files`
        they come from elsewhere, and name no templates and examples by file; what images are is for others to check.
        """
        self._folder = folder
        self._decoding = decoding
        self._answer_format = answer_format
        self._has_stdin = has_stdin
        self._has_files = has_files
        self._by_name: dict[str, Template] = {}
        self._by_label: dict[str, Template] = {}
        self._examples: dict[str, tuple[Example, ...]] = {}

    def read(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Item]:
        """An item for each numbered line."""
        return self._read_each((number, partial(parse_line, line)) for number, line in lines)

    def read_values(self, values: Iterable[Any], *, most_keys: int) -> Iterator[Item]:
        """An item for each value, the first of which is on line 1."""

        def check(value: Any) -> dict[str, Any]:
            if len(found := check_object(value)) > most_keys:
                raise BadItem(f"it has more than {most_keys:,} keys")
            return found

        return self._read_each((number, partial(check, each)) for number, each in enumerate(values, 1))

    def _read_each(self, lines: Iterable[tuple[int, Callable[[], Mapping[str, Any]]]]) -> Iterator[Item]:
        numbers: dict[str, int] = {}
        for number, parse in lines:
            id: str | None = None
            try:
                values = parse()
                id = _read_id(values)
                if id is not None and id in numbers:
                    first, id = numbers[id], None
                    raise BadItem(f"the id {values['id']!r} is on line {first} already")
                if id is not None:
                    numbers[id] = number
                item = self._read_item(values, number)
            except BaseException as error:
                problem = BadItem(str(error)) if isinstance(error, UsageError) else to_item_error(error)
                item = Item(
                    f"line {number}" if id is None else id,
                    is_named=id is not None,
                    problem=f"line {number}: {problem}",
                    problem_code=problem.code,
                )
            yield item

    def compose(self, item: Item, style: Style) -> Request:
        """Word an item. Raises ItemError, with the reason, if it cannot be worded."""
        if item.problem:
            raise ItemError(item.problem, code=item.problem_code)
        try:
            return word(self._by_label[item.template], style, item)
        except UsageError as error:
            raise BadItem(str(error)) from error

    def _read_item(self, values: Mapping[str, Any], number: int) -> Item:
        try:
            line = _Line.model_validate(values)
        except ValidationError as error:
            raise BadItem(describe_problems(error)) from error
        given, decoding = _sort_keys(line)
        template = self._find_template(line, given.get("prompt"))
        for key in set(given) - set(template.fields):
            if near := _find_near(key):
                raise BadItem(f"template {template.name!r} has no field {key}", hint=f"did you mean {near}?")
        labels = check_labels(line.labels) if line.labels else ()
        counts: tuple[float, ...] = ()
        if line.task == "rate":
            steps = parse_scale(line.scale)
            labels, counts = steps.labels, steps.values
            given.setdefault("scale", steps.wording)
        if line.task == "classify" and not labels:
            raise BadItem("classify needs labels", hint='write "labels": ["cat", "dog"]')
        if labels and "labels" in template.fields:
            given.setdefault("labels", name_labels(labels))
        is_ranked = bool(labels) and not line.generate
        given_decoding = {**self._decoding, **decoding}
        drawn = replace(template.decoding.to_decoding(), **given_decoding)
        answer_format = _find_format(line) or template.answer_format or (None if labels else self._answer_format)
        if answer_format is not None:
            tokens = given_decoding.get("max_new_tokens", choose_new_tokens(answer_format))
            drawn = replace(drawn, max_new_tokens=tokens, num_beams=given_decoding.get("num_beams", 1), stop=())
        return Item(
            id=f"line {number}" if line.id is None else str(line.id),
            images=self._find_images(line),
            fields=tuple(given.items()),
            task=line.task or "run",
            template=template.label,
            examples=self._find_examples(line),
            decoding=Decoding() if is_ranked else drawn,
            has_own_stop="stop" in {**self._decoding, **decoding},
            labels=labels,
            is_ranked=is_ranked,
            normalize=line.normalize,
            values=counts,
            meta=line.meta,
            answer_format=answer_format,
            is_named=line.id is not None,
            think=line.think,
        )

    def _find_template(self, line: _Line, prompt: str | None) -> Template:
        if line.task is None and line.template is None:
            raise BadItem("a line needs a task or a template", hint=f"tasks: {', '.join(TASKS)}")
        if line.task is not None and line.task != "run" and line.task not in TASKS:
            is_template = line.task in template_names()
            hint = f'write "template": "{line.task}"' if is_template else f"known: {', '.join(TASKS)}"
            raise BadItem(f"there is no task {line.task!r}", hint=hint)
        if line.task == "run" and line.template is None:
            raise BadItem("the task run needs a template")
        name = template_name(str(line.task), line.template, prompt)
        if "/" in name or name.endswith((".yaml", ".yml")):
            if not self._has_files:
                raise BadItem(f"the template {name!r} is a file", hint="name one of `idefics templates list`")
            name = str(self._folder / name)
        if name not in self._by_name:
            template = load_template(name)
            if self._by_label.setdefault(template.label, template) != template:
                raise BadItem(f"two different templates are called {template.label}", hint="rename one")
            self._by_name[name] = template
        return self._by_name[name]

    def _find_images(self, line: _Line) -> tuple[str, ...]:
        sources = ([line.image] if line.image is not None else []) + line.images
        if line.path_b64 and not self._has_files:
            raise BadItem("path_b64 names files", hint="name an http or data URL")
        if line.path_b64:
            try:
                sources = [os.fsdecode(base64.b64decode(path, validate=True)) for path in line.path_b64]
            except (binascii.Error, ValueError) as error:
                raise BadItem("path_b64 is not base64") from error
        if "-" in sources and not self._has_stdin:
            raise BadItem("standard input has the items, so it cannot be an image too")
        return tuple(source if source in ("", "-") else relative_to(self._folder, source) for source in sources)

    def _find_examples(self, line: _Line) -> tuple[Example, ...]:
        if isinstance(line.examples, str):
            if not self._has_files:
                raise BadItem("the examples are a file", hint="write them as a list")
            if line.examples not in self._examples:
                self._examples[line.examples] = tuple(load_examples(self._folder / line.examples))
            return self._examples[line.examples]
        return tuple(
            parse_example(entry, self._folder, f"example {number}") for number, entry in enumerate(line.examples, 1)
        )


def _find_format(line: _Line) -> AnswerFormat | None:
    """The format of the answer, if the line has one."""
    given = [name for name in ("schema_", "regex", "choices") if getattr(line, name) is not None]
    if len(given) > 1:
        raise BadItem("a line may have only one of schema, regex and choices", hint="leave the others out")
    if line.schema_ is not None:
        return check_schema(line.schema_)
    if line.regex is not None:
        return parse_regex(line.regex)
    return None if line.choices is None else to_choices(check_labels(line.choices))


def _find_near(key: str) -> str | None:
    """The known key that a misspelled one resembles."""
    return next(iter(difflib.get_close_matches(key, (*_Line.model_fields, *_DECODING), n=1, cutoff=0.75)), None)


def _read_id(values: Mapping[str, Any]) -> str | None:
    id = values.get("id")
    return str(id) if isinstance(id, str | int) and not isinstance(id, bool) else None


def _sort_keys(line: _Line) -> tuple[dict[str, str], dict[str, Any]]:
    """The template's fields and the decoding options of a line, each under its own name or within an object."""
    given, decoding = dict(line.fields), dict(line.decoding)
    for key, value in (line.model_extra or {}).items():
        target = decoding if key in _DECODING else given
        if key in target:
            raise BadItem(f"{key} is given twice")
        if target is given and not isinstance(value, str):
            if near := _find_near(key):
                raise BadItem(f"{key} is not known", hint=f"did you mean {near}?")
            way = "give one text, or a line for each" if isinstance(value, list) else "put it in quotes"
            raise BadItem(f"{key} is not a text", hint=way)
        target[key] = value
    try:
        parsed = DecodingDefaults.model_validate(decoding)
    except ValidationError as error:
        raise BadItem(describe_problems(error)) from error
    options = parsed.model_dump(exclude_none=True)
    if "stop" in options:
        options["stop"] = tuple(options["stop"])
    return given, options
