"""Forms: JSON schemas that ask what a scene is, worded in many ways, and how the scene fills them in.

White space is what decoding under a schema keeps to: one space after each comma and colon.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ...prompts.answer_format import check_schema, parse_fields
from ...values import AnswerFormat
from .questions import caption
from .scenes import COLOURS, KINDS, Scene


@dataclass(frozen=True, slots=True)
class SceneForm:
    """What an answer must look like, and the true one."""

    answer_format: AnswerFormat
    answer: str


@dataclass(frozen=True, slots=True)
class _Field:
    """What a field holds: its kind as `--fields` writes it, and its value; None where a scene has none."""

    names: tuple[str, ...]
    kind: str
    read: Callable[[Scene], Any]


_FIELDS = (
    _Field(("kind", "shape"), "text", lambda s: _only(s, [shape.kind for shape in s.shapes])),
    _Field(("colour", "color"), "text", lambda s: _only(s, [shape.colour for shape in s.shapes])),
    _Field(("ground", "background"), "text", lambda s: s.ground),
    _Field(("count", "number"), "integer", lambda s: len(s.shapes)),
    _Field(("shapes", "kinds"), "list", lambda s: [shape.kind for shape in s.shapes]),
    _Field(("colours", "colors"), "list", lambda s: [shape.colour for shape in s.shapes]),
    _Field(("caption", "description"), "text", caption),
    _Field(("empty",), "yesno", lambda s: not s.shapes),
    _Field(("place", "position"), "text", lambda s: _only(s, [shape.place for shape in s.shapes])),
)
PLAIN_FIELDS = _FIELDS[:6]
"""Those that a few hundred steps are enough for."""


def _only(scene: Scene, words: list[str]) -> str | None:
    return None if len(words) > 1 else words[0] if words else "none"


def scene_form(scene: Scene, schema: Mapping[str, Any] | None = None) -> SceneForm:
    """Every shape with its kind and colour from left to right, and the ground; `schema` words it otherwise."""
    keys = _name_keys(schema or SCENE_SCHEMA)
    shapes = [{keys[1]: shape.kind, keys[2]: shape.colour} for shape in scene.shapes]
    return SceneForm(check_schema(schema or SCENE_SCHEMA), _write({keys[0]: shapes, keys[3]: scene.ground}))


def draw_form(random: Random, scene: Scene, *, is_plain: bool = False) -> SceneForm:
    """A form that the scene can fill in: its shapes one by one, or a few fields."""
    if random.random() < (0.7 if is_plain else 0.6):
        return scene_form(scene, _draw_scene_schema(random))
    return field_form(random, scene, PLAIN_FIELDS if is_plain else _FIELDS)


def field_form(random: Random, scene: Scene, fields: Sequence[_Field] = PLAIN_FIELDS) -> SceneForm:
    """A few fields, by their short names or with choices and bounds."""
    possible = [field for field in fields if field.read(scene) is not None]
    chosen = random.sample(possible, min(len(possible), random.choices((1, 2, 3, 4), (2, 5, 4, 1))[0]))
    named = {random.choice(field.names): field for field in chosen}
    words = [
        name if field.kind == "text" and random.random() < 0.9 else f"{name}:{field.kind}"
        for name, field in named.items()
    ]
    answer_format = parse_fields(random.choice((", ", ",")).join(words))
    if random.random() < 0.3:
        answer_format = check_schema(_narrow(random, scene, json.loads(answer_format.text)))
    return SceneForm(answer_format, _write({name: field.read(scene) for name, field in named.items()}))


def _scene_schema(keys: tuple[str, str, str, str], kinds: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    shapes, kind, colour, ground = keys
    text = {"type": "string"}
    shape = {"type": "object", "properties": {kind: kinds, colour: text}, "required": [kind, colour]}
    fields = {shapes: {"type": "array", "items": shape | rest}, ground: text}
    return {"type": "object", "properties": fields, "required": [shapes, ground]} | rest


def _draw_scene_schema(random: Random) -> dict[str, Any]:
    """As people write it: mostly by the words of this world, with or without what closes an object."""
    if random.random() < 0.5:
        return SCENE_SCHEMA
    kinds = {"enum": list(KINDS)} if random.random() < 0.3 else {"type": "string"}
    rest = {"additionalProperties": False} if random.random() < 0.5 else {}
    keys = (
        random.choice(("shapes", "shapes", "objects")),
        random.choice(("kind", "kind", "shape")),
        random.choice(("colour", "colour", "color")),
        random.choice(("ground", "ground", "background")),
    )
    return _scene_schema(keys, kinds, rest)


def _name_keys(schema: Mapping[str, Any]) -> tuple[str, str, str, str]:
    shapes, ground = schema["properties"]
    kind, colour = schema["properties"][shapes]["items"]["properties"]
    return shapes, kind, colour, ground


def _narrow(random: Random, scene: Scene, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with choices in place of free words, and bounds for numbers."""
    for name, field in schema["properties"].items():
        truth = next(known for known in _FIELDS if name in known.names).read(scene)
        every = KINDS if name in ("kind", "shape") else tuple(COLOURS)
        if truth in every:
            others = [word for word in every if word != truth]
            choices = [truth, *random.sample(others, random.randint(1, 6))]
            random.shuffle(choices)
            schema["properties"][name] = {"enum": choices}
        elif field == {"type": "integer"}:
            schema["properties"][name] = {**field, "minimum": 0, "maximum": random.choice((3, 5, 9, 10))}
    return schema


def _write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


SCENE_SCHEMA: dict[str, Any] = _scene_schema(
    ("shapes", "kind", "colour", "ground"), {"type": "string"}, {"additionalProperties": False}
)
"""`{"shapes": [{"kind": …, "colour": …}], "ground": …}`"""
