"""From an item to a request: its template's words, its shots and its images in one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import UsageError
from ..images import name_own_fields
from ..values import Choice, Example, ImagePart, Item, Message, Part, Prompt, Request, Style, TextPart
from .templates import IMAGE, OWN_FIELDS, Rendering, Template, substitute


def word(template: Template, style: Style, item: Item) -> Request:
    """Word one item as it says itself: with its own shots, labels and decoding."""
    request = compose(
        template,
        style,
        item,
        task=item.task,
        examples=item.examples,
        choices=item.labels if item.is_ranked else (),
    )
    return replace(request, decoding=item.decoding, normalize=item.normalize)


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
    fields = _complete_fields(template, rendering, item)
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


def _complete_fields(template: Template, rendering: Rendering, item: Item) -> dict[str, str]:
    given = dict(item.fields)
    own = rendering.names.intersection(OWN_FIELDS)
    if unknown := sorted(set(given) - set(template.fields) - own):
        known = ", ".join(template.fields) or "none"
        raise UsageError(
            f"template {template.name!r} has no field {', '.join(unknown)}", hint=f"its fields: {known}"
        )
    values = dict.fromkeys(own) | template.fields | name_own_fields(item.images, own) | given
    fields = {name: values[name] for name in (*template.fields, *sorted(own - set(template.fields)))}
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
    return _parts(rendering.turn, example.images, _example_fields(rendering, example, fields))


def _shot_answer(rendering: Rendering, example: Example, fields: Mapping[str, str]) -> str:
    values = {} if example.turn else _example_fields(rendering, example, fields)
    values = {**fields, **values, "answer": example.answer}
    return substitute(rendering.opening, values) + substitute(rendering.answer, values)


def _example_fields(rendering: Rendering, example: Example, fields: Mapping[str, str]) -> dict[str, str]:
    given = dict(example.fields)
    if unknown := sorted(set(given) - set(fields)):
        raise UsageError(f"an example has the unknown field {', '.join(unknown)}")
    own = rendering.names.intersection(OWN_FIELDS)
    values = name_own_fields(example.images, own) | given
    if missing := sorted(own - set(values)):
        raise UsageError(f"an example needs a value for {', '.join(missing)}")
    return {**fields, **values}
