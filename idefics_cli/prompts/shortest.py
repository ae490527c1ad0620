"""The shortest answer of a format, so that a limit that no answer can meet is refused before a model is loaded."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..values import AnswerFormat


def count_least_characters(answer_format: AnswerFormat) -> float:
    """The characters of the shortest answer, or fewer; infinite if it would never end."""
    if answer_format.kind == "schema":
        return _measure_schema(json.loads(answer_format.text))
    if answer_format.kind == "choices":
        return min(map(len, json.loads(answer_format.text)), default=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed = re._parser.parse(answer_format.text)
        except (re.error, RecursionError, OverflowError):
            return 0  # not written as Python does
    return int(parsed.getwidth()[0])


def _measure_schema(root: Mapping[str, Any]) -> float:
    """The least fixed point: a reference counts as infinite until a way out of it is found."""
    known: dict[str, float] = {}
    while True:
        before = dict(known)
        least = _least(root, known)
        for pointer in list(known):
            known[pointer] = _least(resolve(pointer, root), known)
        if known == before:
            return least


def _least(schema: Any, known: dict[str, float]) -> float:
    if not isinstance(schema, dict):
        return 1
    if "$ref" in schema:
        return known.setdefault(str(schema["$ref"]), math.inf)
    if isinstance(enum := schema.get("enum"), list):
        return min((len(json.dumps(value, ensure_ascii=False)) for value in enum), default=1)
    several = [inner for name in ("anyOf", "oneOf") for inner in schema.get(name, ())]
    if several:
        return min(_least(inner, known) for inner in several)
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        required = [name for name in schema.get("required", ()) if isinstance(name, str)]
        least = sum(len(name) + 4 + _least(properties.get(name), known) for name in required)
        missing = int(schema.get("minProperties", 0)) - len(set(required))
        return 2 + least + (missing * (4 + _least_other(schema, required, known)) if missing > 0 else 0)
    if schema.get("type") == "array":
        count = int(schema.get("minItems", 0))
        return 2 + (count * (1 + _least(schema.get("items"), known)) if count else 0)
    if schema.get("type") == "string":
        return 2 + int(schema.get("minLength", 0))
    return 1


def _least_other(schema: Mapping[str, Any], required: Sequence[str], known: dict[str, float]) -> float:
    """The shortest value of a property that is not required."""
    named = [value for name, value in schema.get("properties", {}).items() if name not in required]
    others = [*named, *schema.get("patternProperties", {}).values(), schema.get("additionalProperties", True)]
    return min((_least(one, known) for one in others if one is not False), default=math.inf)


def resolve(pointer: Any, root: Mapping[str, Any]) -> Any:
    """The target of a local reference; None for any other."""
    value: Any = root
    for step in str(pointer).removeprefix("#").strip("/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        value = value.get(name) if isinstance(value, dict) and name else value
    return value
