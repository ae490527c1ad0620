"""From an item to a request: its template's wording, its examples and its images in one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import AnswerError, UsageError
from ..images import name_own_fields
from ..values import (
    AnswerFormat,
    Choice,
    Example,
    ImagePart,
    Item,
    Message,
    Part,
    Prompt,
    Request,
    Style,
    TextPart,
)
from .answer_format import describe_format, read_data
from .templates import IMAGE, IMAGES, OWN_FIELDS, Rendering, Template, placeholders, share_images, substitute

SCHEMA = "schema"
"""The field by which a template says what its answer must look like."""

COMMON_FIELDS = ("labels", "prompt")
"""Fields that are the same in a question and in its shots."""


def word(template: Template, style: Style, item: Item) -> Request:
    """Word one item with its own examples, labels and decoding."""
    request = compose(
        template,
        style,
        item,
        task=item.task,
        examples=item.examples,
        choices=item.labels if item.is_ranked else (),
    )
    stop = item.decoding.stop if item.has_own_stop or request.choices else request.decoding.stop
    if request.answer_format is not None:
        stop = ()  # a format says itself where an answer ends, and may hold any words
    return replace(request, decoding=replace(item.decoding, stop=stop), normalize=item.normalize, think=item.think)


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

    Raises UsageError for missing or unknown fields, all of them in one message, and for images without a place in the
    template.
    """
    rendering = template.rendering(style)
    asked = item.fields  # a row does not repeat the schema of its run
    wanted = item.answer_format or template.answer_format
    if wanted is not None:
        _check_shots(wanted, examples)
        if SCHEMA in template.fields and SCHEMA not in dict(item.fields):
            item = replace(item, fields=(*item.fields, (SCHEMA, describe_format(wanted))))
        elif wanted.kind == "schema":
            rendering = _say_schema(rendering, style, wanted)
    fields = _complete_fields(template, rendering, item)
    if item.images and not rendering.has_image:
        raise UsageError(f"template {template.name!r} has no place for an image")
    if not item.images and rendering.has_image and template.images == "required":
        raise UsageError(f"template {template.name!r} needs an image")

    # What a shot is asked with is its own, but for what the whole command says.
    own = {name: value for name, value in template.fields.items() if name in fields}
    shared = own | {name: fields[name] for name in COMMON_FIELDS if name in fields}
    turn = _lay_turn(rendering.turn, item.images, fields)
    opening = substitute(rendering.opening, fields)
    open_parts: tuple[Part, ...] = (TextPart(opening),) if opening else ()

    prompt: Prompt
    if style == "completion":
        parts = [TextPart(substitute(rendering.preamble, fields))] if rendering.preamble else []
        document: list[Part] = [*parts]
        for example in examples:
            document += _lay_shot(rendering, example, shared)
        prompt = (Message("document", (*document, *turn, *open_parts)),)
    else:
        messages: list[Message] = []
        if rendering.system:
            messages.append(Message("system", (TextPart(substitute(rendering.system, fields)),)))
        for example in examples:
            messages += [
                Message("user", _lay_example(rendering, example, shared)),
                Message("assistant", (TextPart(_word_answer(rendering, example, shared)),)),
            ]
        messages.append(Message("user", turn))
        if open_parts:
            messages.append(Message("assistant", open_parts))
        prompt = tuple(messages)

    drawn = template.decoding_in(style)
    last = (*turn, *open_parts)[-1]
    ends = last.text if isinstance(last, TextPart) else ""
    return Request(
        id=item.id,
        task=task,
        prompt=prompt,
        decoding=replace(drawn, **dict(decoding or {})),
        choices=tuple(
            Choice(label, join_answer(ends, substitute(rendering.label, fields | {"answer": label}))[1])
            for label in choices
        ),
        fields=asked,
        template=template.label,
        images=item.images,
        answer_format=None if choices else wanted,
        opening=opening.strip(),
    )


def _check_shots(wanted: AnswerFormat, examples: Iterable[Example]) -> None:
    """Raise UsageError for an example whose answer does not have the wanted format."""
    for number, example in enumerate(examples, start=1):
        try:
            read_data(wanted, example.answer)
        except AnswerError as error:
            raise UsageError(
                f"the answer of example {number} is not in the requested format",
                hint=f"it reads {example.answer[:60]!r}",
            ) from error


def _say_schema(rendering: Rendering, style: Style, wanted: AnswerFormat) -> Rendering:
    """A rendering with the schema added, if its template does not have it."""
    told = f"Answer in JSON that matches this schema: {wanted.text}".replace("$", "$$")
    if style == "chat":
        return rendering.model_copy(update={"turn": (*rendering.turn, f"\n{told}")})
    return rendering.model_copy(update={"preamble": f"{told}\n{rendering.preamble}"})


def _complete_fields(template: Template, rendering: Rendering, item: Item) -> dict[str, str]:
    given = dict(item.fields)
    own = rendering.names.intersection(OWN_FIELDS)
    if unknown := sorted(set(given) - set(template.fields) - own):
        known = ", ".join(template.fields) or "none"
        raise UsageError(f"template {template.name!r} has no field {', '.join(unknown)}", hint=f"its fields: {known}")
    values = dict.fromkeys(own) | template.fields | name_own_fields(item.images, own) | given
    fields = {name: values[name] for name in (*template.fields, *sorted(own - set(template.fields)))}
    if missing := [name for name, value in fields.items() if value is None]:
        raise UsageError(f"template {template.name!r} needs a value for {', '.join(missing)}")
    return {name: value for name, value in fields.items() if value is not None}


def join_answer(before: str, answer: str) -> tuple[str, str]:
    """A text and the answer after it; the space between them is the answer's, as in tokens.

    A prompt that ends in a space would end in a token after which no word stood in training. So what stands before an
    answer in an example is what ends the query.
    """
    kept = before.rstrip(" ")
    if kept == before or kept.endswith("\n"):
        return kept, answer
    return kept, f" {answer.lstrip(' ')}"


def _lay_turn(words: Iterable[str], images: Sequence[str], fields: Mapping[str, str]) -> tuple[Part, ...]:
    """The parts of a turn. Two texts without an image between them are separated by a space."""
    words = list(words)
    shares = iter(share_images(words, images))
    parts: list[Part] = []
    is_bare = False
    for word in words:
        if word in (IMAGE, IMAGES):
            shown = next(shares)
            parts += map(ImagePart, shown)
            is_bare = not shown
        elif text := substitute(word, fields):
            before = parts[-1] if parts and is_bare else None
            if isinstance(before, TextPart) and not before.text[-1].isspace() and not text[0].isspace():
                text = f" {text}"
            parts.append(TextPart(text))
            is_bare = False
    return tuple(parts)


def _lay_shot(rendering: Rendering, example: Example, fields: Mapping[str, str | None]) -> list[Part]:
    """A turn and its answer in a document."""
    *parts, last = _lay_example(rendering, example, fields)
    answer = _word_answer(rendering, example, fields)
    if isinstance(last, TextPart) and not rendering.opening:
        before, answer = join_answer(last.text, answer)
        last = TextPart(before)
    return [*parts, last, TextPart(answer)]


def _lay_example(rendering: Rendering, example: Example, fields: Mapping[str, str | None]) -> tuple[Part, ...]:
    if example.turn:
        words = [word if word in (IMAGE, IMAGES) else word.replace("$", "$$") for word in example.turn]
        return _lay_turn(rendering.keep_roles(words), example.images, {})
    if example.images and not rendering.has_image:
        raise UsageError("an example has an image but the template has no place for one")
    return _lay_turn(rendering.turn, example.images, _example_fields(rendering, example, fields))


def _word_answer(rendering: Rendering, example: Example, fields: Mapping[str, str | None]) -> str:
    """The answer of an example, with its beginning."""
    values = {} if example.turn else _example_fields(rendering, example, fields)
    known = {name: value for name, value in fields.items() if value is not None}
    values = {**known, **values, "answer": example.answer}
    return "".join(join_answer(substitute(rendering.opening, values), substitute(rendering.answer, values)))


def _example_fields(rendering: Rendering, example: Example, fields: Mapping[str, str | None]) -> dict[str, str]:
    given = dict(example.fields)
    if unknown := sorted(set(given) - set(fields)):
        raise UsageError(f"an example has the unknown field {', '.join(unknown)}")
    own = rendering.names.intersection(OWN_FIELDS)
    values = name_own_fields(example.images, own) | given
    if missing := sorted(own - set(values)):
        raise UsageError(f"an example needs a value for {', '.join(missing)}")
    used = {name for text in (*rendering.turn, rendering.opening, rendering.answer) for name in placeholders(text)}
    whole = {**fields, **values}
    if lacking := sorted(name for name in used & set(whole) if whole[name] is None):
        raise UsageError(
            f"an example has no {', '.join(lacking)}",
            hint=f'write it beside the answer, as {{"image": "a.jpg", "{lacking[0]}": "…", "answer": "…"}}',
        )
    return {name: value for name, value in whole.items() if value is not None}
