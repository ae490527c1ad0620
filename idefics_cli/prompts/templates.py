"""Templates: YAML wording for a task, read strictly.

Data, never code: `$name` is substituted once, so text of a user is never expanded again. A template may have two
renderings: `completion` for base checkpoints, which continue a document, and `chat` for instruct ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..config import exists, read_yaml, template_folders
from ..errors import UsageError, describe_problems
from ..values import AnswerFormat, Decoding, Style
from .answer_format import check_schema, parse_regex, to_choices
from .decoding_ranges import check_decoding

IMAGE, IMAGES = "image", "images"
"""The words of a `turn` for an image of the item and for all of them; a single `image` stands for all too."""
OWN_FIELDS = ("stem", "parent", "sidecar")
"""Fields that every image has: its file name without suffix, its folder's name, the text file beside it."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ROLE_BEFORE = re.compile(r"[A-Z]\w*:")
_ROLE_AFTER = re.compile(r"\s*[A-Z][\w ]*:\s*$")
_PLACEHOLDER = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<bare>[a-z_][a-z0-9_]*)|\{(?P<braced>[a-z_][a-z0-9_]*)\}|(?P<bad>))"
)

Text = Annotated[str, Field(max_length=100_000)]


class Strict(BaseModel):
    """Data from a person: unknown keys and other types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DecodingDefaults(Strict):
    """The part of `Decoding` that a template may set; what is not set keeps the built-in value."""

    max_new_tokens: int | None = None
    num_beams: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    length_penalty: float | None = None
    stop: list[str] | None = None
    seed: int | None = None

    @field_validator("*")
    @classmethod
    def _is_in_range(cls, value: Any, info: ValidationInfo) -> Any:
        check_decoding(str(info.field_name), value)
        return value

    def to_decoding(self) -> Decoding:
        given = self.model_dump(exclude_none=True)
        if "stop" in given:
            given["stop"] = tuple(given["stop"])
        return Decoding(**given)


class OutputRule(Strict):
    """The format of answers: a JSON schema, a pattern, or choices."""

    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    regex: Text | None = None
    choices: list[Text] | None = Field(default=None, min_length=2)

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("`output` has one of `schema`, `regex` and `choices`")
        return self

    def to_format(self) -> AnswerFormat:
        """Raises UsageError if it cannot be enforced."""
        if self.json_schema is not None:
            return check_schema(self.json_schema)
        return to_choices(self.choices) if self.choices else parse_regex(self.regex or "")


class Rendering(Strict):
    """How one style words the task.

    A document is `preamble`, then `turn opening answer` for each shot, then `turn opening`. A chat is a `system`
    message, then a user's `turn` and an assistant's `opening answer` for each shot, then the user's `turn`; an
    `opening` begins the assistant's reply. Its `decoding` wins over the template's: stops are words of a rendering.
    """

    preamble: Text = ""
    system: Text = ""
    turn: list[Text] = Field(min_length=1)
    opening: Text = ""
    answer: Text = "$answer"
    decoding: DecodingDefaults = DecodingDefaults()

    @field_validator("turn")
    @classmethod
    def _plain_turn(cls, turn: list[str]) -> list[str]:
        return check_turn(turn)

    @field_validator("answer")
    @classmethod
    def _one_answer(cls, answer: str) -> str:
        if placeholders(answer).count("answer") != 1:
            raise ValueError("an answer has `$answer` in it exactly once")
        return answer

    @field_validator("decoding")
    @classmethod
    def _only_stops(cls, decoding: DecodingDefaults) -> DecodingDefaults:
        if others := sorted(decoding.model_fields_set - {"stop"}):
            raise ValueError(f"`{others[0]}` belongs to the template's own `decoding`; a rendering has `stop`")
        return decoding

    @property
    def has_image(self) -> bool:
        return IMAGE in self.turn or IMAGES in self.turn

    @property
    def label(self) -> str:
        """What is ranked: the answer up to what ends it, a full stop where there is one, else its line."""
        end = self.answer.rpartition("answer")[2].lstrip("}")
        return self.answer.rstrip("\n") if end.strip() else self.answer

    def keep_roles(self, words: Sequence[str]) -> list[str]:
        """Another turn between the roles of this one: `User:` before it, `Assistant:` or `Answer:` after."""
        before, after = _ROLE_BEFORE.fullmatch(self.turn[0]), _ROLE_AFTER.search(self.turn[-1])
        space = "" if words[0] in (IMAGE, IMAGES) or words[0][:1].isspace() else " "
        return [*([before.group() + space] if before else []), *words, *([after.group()] if after else [])]

    @property
    def names(self) -> frozenset[str]:
        """The fields that it uses."""
        texts = (self.preamble, self.system, self.opening, *self.turn, self.answer)
        return frozenset(name for text in texts for name in placeholders(text)) - {"answer"}


class Template(Strict):
    """One task's wording. `fields` maps each field to its default, or to None where the user must give it."""

    name: str
    version: int = Field(ge=1)
    description: Text
    images: Literal["required", "optional"] = "required"
    fields: dict[str, str | None] = {}
    completion: Rendering | None = None
    chat: Rendering | None = None
    decoding: DecodingDefaults = DecodingDefaults()
    output: OutputRule | None = None

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
            if unknown := sorted(rendering.names - set(self.fields) - set(OWN_FIELDS)):
                raise ValueError(f"unknown field {', '.join('$' + name for name in unknown)}; list it under `fields`")
        return self

    @cached_property
    def answer_format(self) -> AnswerFormat | None:
        return None if self.output is None else self.output.to_format()

    @property
    def label(self) -> str:
        """`name@version`, as rows carry it."""
        return f"{self.name}@{self.version}"

    @property
    def uses_sidecar(self) -> bool:
        """Whether it uses the text file beside the image."""
        renderings = (self.completion, self.chat)
        return any(rendering is not None and "sidecar" in rendering.names for rendering in renderings)

    def decoding_in(self, style: Style) -> Decoding:
        """The decoding of a style, before the user's options."""
        own = self.rendering(style).decoding.model_dump(exclude_none=True)
        return DecodingDefaults(**self.decoding.model_dump(exclude_none=True) | own).to_decoding()

    def rendering(self, style: Style) -> Rendering:
        rendering = self.completion if style == "completion" else self.chat
        if rendering is None:
            other = "chat" if style == "completion" else "completion"
            raise UsageError(
                f"template {self.name!r} has no {style} rendering",
                hint=f"use --style {other} or another template",
            )
        return rendering


def check_turn(turn: list[str]) -> list[str]:
    """A turn with the places of its images. Raises ValueError."""
    if turn.count(IMAGES) > 1:
        raise ValueError(f"a turn names `{IMAGES}` at most once; it stands for all images that no `{IMAGE}` takes")
    return turn


def share_images(words: Sequence[str], images: Sequence[str]) -> list[tuple[str, ...]]:
    """The images of each `image` and `images` of a turn, in order. Raises UsageError for too few or too many.

    Without any image the turn is its words alone.
    """
    places = [word for word in words if word in (IMAGE, IMAGES)]
    if not images or len(places) < 2:
        return [tuple(images) for _ in places]
    rest = len(images) - places.count(IMAGE)
    if rest < 0 or (rest and IMAGES not in places):
        raise UsageError(
            f"the turn has {places.count(IMAGE)} places for images and the item has {len(images)}",
            hint=f"give one for each, all in one prompt with --together, or write `{IMAGES}` for any number",
        )
    left = iter(images)
    return [tuple(islice(left, rest if word == IMAGES else 1)) for word in places]


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


def read_template(path: Path) -> Template:
    """Read one template. Raises UsageError with the place and the reason, in one line."""
    try:
        return Template.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UsageError(
            f"{path} is not a template: {describe_problems(error)}", hint="see `idefics templates show vqa`"
        ) from error


def load_template(name: str) -> Template:
    """Find a template by name in the user's folder, then among the built-in ones, or read the file named."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read_template(Path(name))
    for folder in template_folders():
        path = folder / f"{name}.yaml"
        if _NAME.fullmatch(name) and exists(path):
            return read_template(path)
    known = ", ".join(sorted(template_names()))
    raise UsageError(f"no template {name!r}", hint=f"known: {known}; or name a .yaml file")


def template_names() -> list[str]:
    """Names of all templates, the user's and the built-in ones, sorted."""
    return sorted({path.stem for folder in template_folders() for path in folder.glob("*.yaml")})
