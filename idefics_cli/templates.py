"""Templates: YAML wording for a task, and `compose`, which turns an item and its shots into a request.

Data, never code: `$name` is substituted once, so what a user typed is never expanded again. A template may have two
renderings: `completion` for base checkpoints, which continue a document, and `chat` for instruct ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .config import template_folders
from .errors import UsageError
from .jsonl import parse_line, read_lines
from .values import Choice, Decoding, ImagePart, Item, Message, Part, Prompt, Request, Style, TextPart

IMAGE = "image"
"""The word that stands for the item's images in a `turn`."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PLACEHOLDER = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<bare>[a-z_][a-z0-9_]*)|\{(?P<braced>[a-z_][a-z0-9_]*)\}|(?P<bad>))"
)

Text = Annotated[str, Field(max_length=100_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DecodingDefaults(_Strict):
    """The part of `Decoding` that a template may set; what is not set keeps the built-in value."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    num_beams: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    repetition_penalty: float | None = Field(default=None, gt=0)
    no_repeat_ngram_size: int | None = Field(default=None, ge=0)
    length_penalty: float | None = None
    stop: list[str] | None = None
    seed: int | None = Field(default=None, ge=0)

    def to_decoding(self) -> Decoding:
        given = self.model_dump(exclude_none=True)
        if "stop" in given:
            given["stop"] = tuple(given["stop"])
        return Decoding(**given)


class Rendering(_Strict):
    """How one style words the task.

    A document is `preamble`, then `turn opening answer` for each shot, then `turn opening`. A chat is a `system`
    message, then a user's `turn` and an assistant's `opening answer` for each shot, then the user's `turn`; an
    `opening` begins the assistant's reply.
    """

    preamble: Text = ""
    system: Text = ""
    turn: list[Text] = Field(min_length=1)
    opening: Text = ""
    answer: Text = "$answer"

    @field_validator("turn")
    @classmethod
    def _one_image(cls, turn: list[str]) -> list[str]:
        if turn.count(IMAGE) > 1:
            raise ValueError(f"a turn names `{IMAGE}` at most once; it stands for all images of the item")
        return turn

    @field_validator("answer")
    @classmethod
    def _one_answer(cls, answer: str) -> str:
        if placeholders(answer).count("answer") != 1:
            raise ValueError("an answer has `$answer` in it exactly once")
        return answer

    @property
    def has_image(self) -> bool:
        return IMAGE in self.turn


class Template(_Strict):
    """One task's wording. `fields` maps each field to its default, or to None where the user must give it."""

    name: str
    version: int = Field(ge=1)
    description: Text
    images: Literal["required", "optional"] = "required"
    fields: dict[str, str | None] = {}
    completion: Rendering | None = None
    chat: Rendering | None = None
    decoding: DecodingDefaults = DecodingDefaults()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("a name is lower-case words joined by hyphens")
        return name

    @field_validator("fields", mode="before")
    @classmethod
    def _list_or_mapping(cls, fields: object) -> object:
        if isinstance(fields, list) and all(isinstance(name, str) for name in fields):
            return dict.fromkeys(fields)
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.completion is None and self.chat is None:
            raise ValueError("give `completion`, `chat` or both")
        if "answer" in self.fields:
            raise ValueError("`answer` is not a field: it is the model's part")
        if self.completion is not None and self.completion.system:
            raise ValueError("`system` belongs to chat; a document has a `preamble`")
        if self.chat is not None and self.chat.preamble:
            raise ValueError("`preamble` belongs to completion; a chat has a `system` message")
        for rendering in (self.completion, self.chat):
            if rendering is None:
                continue
            known = set(self.fields)
            texts = [rendering.preamble, rendering.system, rendering.opening, *rendering.turn]
            used = {name for text in texts for name in placeholders(text)}
            used |= set(placeholders(rendering.answer)) - {"answer"}
            if unknown := sorted(used - known):
                raise ValueError(
                    f"unknown field {', '.join('$' + name for name in unknown)}; list it under `fields`"
                )
        return self

    @property
    def label(self) -> str:
        """`name@version`, as rows carry it."""
        return f"{self.name}@{self.version}"

    def rendering(self, style: Style) -> Rendering:
        rendering = self.completion if style == "completion" else self.chat
        if rendering is None:
            other = "chat" if style == "completion" else "completion"
            raise UsageError(
                f"template {self.name!r} has no {style} rendering",
                hint=f"use --style {other} or another template",
            )
        return rendering


@dataclass(frozen=True, slots=True)
class Example:
    """A shot: its images, fields and answer; `turn` replaces the template's order of words and images."""

    images: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    answer: str
    turn: tuple[str, ...] = ()


def placeholders(text: str) -> list[str]:
    """The names that a text substitutes, in order. Raises ValueError for a `$` that is neither `$name` nor `$$`."""
    names = []
    for match in _PLACEHOLDER.finditer(text):
        if match["bad"] is not None:
            raise ValueError(f"a lone `$` in {text!r}; write `$$` for a dollar sign")
        if name := match["bare"] or match["braced"]:
            names.append(name)
    return names


def substitute(text: str, fields: Mapping[str, str]) -> str:
    """Put fields into a text, in one pass: a `$` inside a field stays as it is."""

    def value(match: re.Match[str]) -> str:
        return "$" if match["escaped"] else fields[match["bare"] or match["braced"]]

    return _PLACEHOLDER.sub(value, text)


_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_template(text: str, origin: str) -> Template:
    """Read one template. Raises UsageError with the place and the reason, in one line."""
    try:
        data = yaml.load(text, Loader=_LOADER)
        return Template.model_validate(data)
    except yaml.YAMLError as error:
        raise UsageError(f"{origin} is not YAML: {_first_line(error)}") from error
    except RecursionError as error:
        raise UsageError(f"{origin} is nested too deeply to be a template") from error
    except ValidationError as error:
        raise UsageError(
            f"{origin} is not a template: {_describe(error)}", hint="see `idefics templates show vqa`"
        ) from error


def load_template(name: str) -> Template:
    """Find a template by name in the user's folder, then among the built-in ones, or read the file named."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        return parse_template(_read(path), str(path))
    for folder in template_folders():
        path = folder / f"{name}.yaml"
        if _NAME.fullmatch(name) and path.is_file():
            return parse_template(_read(path), str(path))
    known = ", ".join(sorted(template_names()))
    raise UsageError(f"no template {name!r}", hint=f"known: {known}; or name a .yaml file")


def template_names() -> list[str]:
    """Names of all templates, the user's and the built-in ones, sorted."""
    return sorted({path.stem for folder in template_folders() for path in folder.glob("*.yaml")})


def load_examples(path: Path) -> list[Example]:
    """Read shots from a YAML list or a JSONL file; image paths are relative to the file."""
    if path.suffix.lower() in (".yaml", ".yml"):
        try:
            entries = yaml.load(_read(path), Loader=_LOADER)
        except yaml.YAMLError as error:
            raise UsageError(f"{path} is not YAML: {_first_line(error)}") from error
        except RecursionError as error:
            raise UsageError(f"{path} is nested too deeply to be a list of examples") from error
        if not isinstance(entries, list):
            raise UsageError(f"{path} is not a list of examples", hint="each has image, fields and answer")
        return [
            parse_example(entry, path.parent, f"{path}, example {n}") for n, entry in enumerate(entries, 1)
        ]
    try:
        with path.open("rb") as stream:
            return [
                parse_example(parse_line(line), path.parent, f"{path}, line {number}")
                for number, line in read_lines(stream)
            ]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


class _ExampleEntry(_Strict):
    image: str | None = None
    images: list[str] = []
    fields: dict[str, str] = {}
    answer: str
    turn: list[str] = []

    @field_validator("turn")
    @classmethod
    def _one_image(cls, turn: list[str]) -> list[str]:
        if turn.count(IMAGE) > 1:
            raise ValueError(f"a turn names `{IMAGE}` at most once")
        return turn


def parse_example(entry: object, folder: Path, origin: str) -> Example:
    """One shot from YAML or JSON values. Raises UsageError naming `origin`."""
    try:
        parsed = _ExampleEntry.model_validate(entry)
    except ValidationError as error:
        raise UsageError(
            f"{origin}: {_describe(error)}", hint="an example has image, fields and answer"
        ) from error
    sources = ([parsed.image] if parsed.image is not None else []) + parsed.images
    if parsed.turn and bool(sources) != (IMAGE in parsed.turn):
        raise UsageError(
            f"{origin}: its turn and its images do not agree", hint=f"write `{IMAGE}` in the turn"
        )
    return Example(
        tuple(relative_to(folder, source) for source in sources),
        tuple(parsed.fields.items()),
        parsed.answer,
        tuple(parsed.turn),
    )


def relative_to(folder: Path, source: str) -> str:
    """A path as seen from `folder`; URLs and absolute paths stay as they are."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", source):
        return source
    return str(folder / source)


def compose(
    template: Template,
    style: Style,
    item: Item,
    *,
    task: str,
    examples: Sequence[Example] = (),
    decoding: Mapping[str, Any] | None = None,
    choices: Sequence[str] = (),
) -> Request:
    """Word one item. `decoding` holds what the user set; it wins over the template.

    Raises UsageError for missing or unknown fields, named all together, and for images the template has no place for.
    """
    rendering = template.rendering(style)
    fields = _complete_fields(template, dict(item.fields))
    if item.images and not rendering.has_image:
        raise UsageError(f"template {template.name!r} has no place for an image")
    if not item.images and rendering.has_image and template.images == "required":
        raise UsageError(f"template {template.name!r} needs an image")

    shots = [
        (_turn(rendering, example, fields), _shot_answer(rendering, example, fields)) for example in examples
    ]
    turn = _parts(rendering.turn, item.images, fields)
    opening = substitute(rendering.opening, fields)
    open_parts: tuple[Part, ...] = (TextPart(opening),) if opening else ()

    prompt: Prompt
    if style == "completion":
        preamble: tuple[Part, ...] = (
            (TextPart(substitute(rendering.preamble, fields)),) if rendering.preamble else ()
        )
        shot_parts = (part for words, answer in shots for part in (*words, TextPart(answer)))
        prompt = (Message("document", (*preamble, *shot_parts, *turn, *open_parts)),)
    else:
        messages: list[Message] = []
        if rendering.system:
            messages.append(Message("system", (TextPart(substitute(rendering.system, fields)),)))
        for words, answer in shots:
            messages += [Message("user", words), Message("assistant", (TextPart(answer),))]
        messages.append(Message("user", turn))
        if open_parts:
            messages.append(Message("assistant", open_parts))
        prompt = tuple(messages)

    drawn = template.decoding.to_decoding()
    return Request(
        id=item.id,
        task=task,
        prompt=prompt,
        decoding=replace(drawn, **dict(decoding or {})),
        choices=tuple(
            Choice(label, substitute(rendering.answer, fields | {"answer": label})) for label in choices
        ),
        fields=tuple(item.fields),
        template=template.label,
        images=item.images,
        opening=opening.strip(),
    )


def _complete_fields(template: Template, given: dict[str, str]) -> dict[str, str]:
    if unknown := sorted(set(given) - set(template.fields)):
        known = ", ".join(template.fields) or "none"
        raise UsageError(
            f"template {template.name!r} has no field {', '.join(unknown)}", hint=f"its fields: {known}"
        )
    fields = {name: given.get(name, default) for name, default in template.fields.items()}
    if missing := [name for name, value in fields.items() if value is None]:
        raise UsageError(f"template {template.name!r} needs a value for {', '.join(missing)}")
    return {name: value for name, value in fields.items() if value is not None}


def _parts(words: Iterable[str], images: Sequence[str], fields: Mapping[str, str]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for word in words:
        if word == IMAGE:
            parts += map(ImagePart, images)
        elif text := substitute(word, fields):
            parts.append(TextPart(text))
    return tuple(parts)


def _turn(rendering: Rendering, example: Example, fields: Mapping[str, str]) -> tuple[Part, ...]:
    if example.turn:
        return tuple(
            part
            for word in example.turn
            for part in (map(ImagePart, example.images) if word == IMAGE else [TextPart(word)])
        )
    if example.images and not rendering.has_image:
        raise UsageError("an example has an image but the template has no place for one")
    return _parts(rendering.turn, example.images, _example_fields(example, fields))


def _shot_answer(rendering: Rendering, example: Example, fields: Mapping[str, str]) -> str:
    values = {} if example.turn else _example_fields(example, fields)
    values = {**fields, **values, "answer": example.answer}
    return substitute(rendering.opening, values) + substitute(rendering.answer, values)


def _example_fields(example: Example, fields: Mapping[str, str]) -> dict[str, str]:
    given = dict(example.fields)
    if unknown := sorted(set(given) - set(fields)):
        raise UsageError(f"an example has the unknown field {', '.join(unknown)}")
    return {**fields, **given}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text") from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _describe(error: ValidationError) -> str:
    reasons = []
    for problem in error.errors()[:3]:
        where = ".".join(str(step) for step in problem["loc"]) or "the whole"
        reasons.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(reasons)
