"""The format of an answer: a JSON schema, a pattern, or one of several choices; parsed, checked, applied.

A keyword that decoding does not enforce is refused by name before a model is loaded, so that nothing is silently
ignored. llguidance enforces the format; jsonschema-rs validates the finished text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import AnswerError, UsageError
from ..files import read_file
from ..values import AnswerFormat
from .shortest import count_least_characters, resolve

MAX_SCHEMA_BYTES = 1_000_000
MAX_DEPTH = 64
ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$comment", "$anchor", "title", "description", "default", "examples"),
        *("deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding"),
    }
)
"""Keywords that demand nothing of a value."""
ENFORCED = frozenset(
    {
        *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "properties"),
        *("required", "additionalProperties", "patternProperties", "minProperties", "maxProperties", "items"),
        *("prefixItems", "additionalItems", "minItems", "maxItems", "minLength", "maxLength", "pattern"),
        *("format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
)
FIELD_TYPES: Mapping[str, Mapping[str, Any]] = {
    "text": {"type": "string"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "yesno": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "list": {"type": "array", "items": {"type": "string"}},
}
"""What people write after the colon of a field, as a schema. A field is text where nothing is written."""
_IMPOSSIBLE = "Unsatisfiable schema: "
"""How llguidance begins to say that no value meets a schema."""
SHORT_STRING_TOKENS = 32
LIST_ITEMS = 8
MAX_DEFAULT_TOKENS = 1024


def parse_schema(words: str) -> AnswerFormat:
    """A schema from an option: JSON itself, or the name of a file. Raises UsageError."""
    is_json = words.lstrip().startswith(("{", "true", "false"))
    try:
        text = words if is_json else read_file(Path(words).expanduser(), MAX_SCHEMA_BYTES).decode("utf-8-sig")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read the schema {words}: {reason}", hint="name a file, or give JSON") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{words} is not UTF-8", hint="save the schema as UTF-8") from error
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        where = "the schema" if is_json else words
        raise UsageError(f"{where} is not JSON ({_first_line(error)})", hint="give a JSON schema") from error
    return check_schema(schema)


def check_schema(schema: Any) -> AnswerFormat:
    """A schema in the form that decoding takes. Raises UsageError if it is invalid or cannot be enforced completely."""
    if not isinstance(schema, dict):
        raise UsageError("a schema is a JSON object", hint='such as {"type": "object", "properties": {…}}')
    for place, keyword in _list_keywords(schema, "", 0):
        if keyword not in ENFORCED and keyword not in ANNOTATIONS:
            raise UsageError(
                f"the schema's keyword {keyword!r}{place} is not enforced",
                hint="leave it out or use another keyword",
            )
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    made = AnswerFormat("schema", text)
    _validate(made)
    _open_validator(text)
    for place, pattern in _list_key_patterns(schema, ""):
        if _IMPOSSIBLE in _find_problem(AnswerFormat("schema", json.dumps({"type": "string", "pattern": pattern}))):
            raise UsageError(f"no text matches the pattern {pattern!r}{place}", hint="leave it out")
    if math.isinf(count_least_characters(made)):
        raise UsageError("the schema requires itself again without end", hint="allow another value, such as null")
    return made


def parse_regex(pattern: str) -> AnswerFormat:
    """A pattern that the whole answer matches. Raises UsageError for one that cannot be enforced."""
    made = AnswerFormat("regex", pattern)
    _validate(made)
    if _matches_nothing(pattern):
        raise UsageError("no text matches the regex", hint="write one that an answer can match")
    return made


def to_choices(labels: Sequence[str]) -> AnswerFormat:
    """The format of exactly one of these texts."""
    return AnswerFormat("choices", json.dumps(list(labels), ensure_ascii=False))


def parse_fields(words: str) -> AnswerFormat:
    """A schema from the short form: `vendor, date:date, total:number`. Raises UsageError."""
    properties: dict[str, Any] = {}
    for field in filter(None, (field.strip() for field in words.split(","))):
        name, _, kind = (part.strip() for part in field.partition(":"))
        if not name or name in properties:
            raise UsageError(f"--fields names {name!r} twice" if name else "--fields has a field without a name")
        if (kind or "text") not in FIELD_TYPES:
            raise UsageError(f"--fields: {kind!r} is not a kind of field", hint=f"known: {', '.join(FIELD_TYPES)}")
        properties[name] = dict(FIELD_TYPES[kind or "text"])
    if not properties:
        raise UsageError("--fields names no field", hint='write --fields "vendor, date:date, total:number"')
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return check_schema(schema | {"additionalProperties": False})


def describe_format(answer_format: AnswerFormat) -> str:
    """The format as text for a prompt."""
    if answer_format.kind == "choices":
        return ", ".join(json.loads(answer_format.text))
    return answer_format.text


def read_data(answer_format: AnswerFormat, text: str) -> Any:
    """The value of a finished answer. Raises AnswerError `invalid_output` if it does not have its format."""
    words = text.strip()
    if answer_format.kind == "choices":
        if words in json.loads(answer_format.text):
            return words
        raise _invalid("it is not one of the choices")
    if answer_format.kind == "regex":
        validator = _open_validator(json.dumps({"pattern": f"^(?:{answer_format.text})$"}))
        # A pattern may begin or end with a space; before it, one more is free.
        for said in (words, text.removeprefix(" "), text):
            if validator.is_valid(said):
                return said
        raise _invalid("it does not match the pattern")
    try:
        value = json.loads(words, parse_constant=_refuse_constant, parse_float=_read_number)
    except (ValueError, RecursionError) as error:
        raise _invalid("it is not JSON") from error
    for problem in _open_validator(answer_format.text).iter_errors(value):
        raise _invalid(_first_line(problem.message))
    return value


def cut_off() -> AnswerError:
    """The error of an answer that reached its limit; it is never completed by guessing."""
    return AnswerError(
        "the answer was cut off before it was complete", code="invalid_output", hint="raise --max-new-tokens"
    )


def choose_new_tokens(answer_format: AnswerFormat) -> int:
    """The default limit of an answer in this format, in tokens: as generous as the bounds of its schema."""
    if answer_format.kind == "schema":
        return min(MAX_DEFAULT_TOKENS, 16 + _bound_tokens(json.loads(answer_format.text), {}, 0))
    if answer_format.kind == "choices":
        return 8 + max(map(len, json.loads(answer_format.text)), default=0)
    return 128


def to_grammar(answer_format: AnswerFormat) -> str:
    """The format as llguidance's Lark grammar. A leading space is free: sentencepiece begins words with one."""
    if answer_format.kind == "schema":
        schema = json.loads(answer_format.text)
        # As most JSON in the world is written. Free white space would let a model write line ends for ever.
        schema["x-guidance"] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        return f"start: / ?/ answer\nanswer: %json {json.dumps(schema)}\n"
    if answer_format.kind == "choices":
        choices = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in json.loads(answer_format.text))
        return f"start: / ?/ ({choices})\n"
    return f"start: / ?/ ANSWER\n{_to_terminal(answer_format.text)}"


def _to_terminal(pattern: str) -> str:
    from llguidance import regex_to_lark

    return f"ANSWER: /{regex_to_lark(pattern)}/\n"


def _matches_nothing(pattern: str) -> bool:
    """Whether no text matches a pattern. Bytes stand for the tokens, as any tokenizer can write them."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), f"start: ANSWER\n{_to_terminal(pattern)}", log_level=0)
    matcher.compute_bitmask()
    return bool(matcher.is_error())


def _list_key_patterns(schema: Any, place: str) -> Iterator[tuple[str, str]]:
    """Each pattern of the names of properties, with its path."""
    inner = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for name, value in inner:
        if name == "patternProperties" and isinstance(value, dict):
            yield from ((place, pattern) for pattern in value)
        if name not in ("enum", "const", "default", "examples"):
            yield from _list_key_patterns(value, f" of {name!r}" if isinstance(name, str) else place)


def _find_problem(answer_format: AnswerFormat) -> str:
    """Why llguidance cannot enforce a format; empty if it can."""
    from llguidance import LLMatcher

    try:
        return LLMatcher.validate_grammar(to_grammar(answer_format)) or ""
    except (ValueError, TypeError) as error:
        return str(error)


def _validate(answer_format: AnswerFormat) -> None:
    problem = _find_problem(answer_format)
    _, is_impossible, reason = problem.partition(_IMPOSSIBLE)
    if is_impossible:
        is_text = reason.startswith("Regex is empty")
        reason = "no text is as its pattern, format and lengths say" if is_text else _first_line(reason)
        raise UsageError(f"no answer meets the schema: {reason}", hint="allow more")
    if problem:
        what = {"schema": "the schema", "regex": "--regex"}.get(answer_format.kind, "the choices")
        raise UsageError(f"{what} cannot be enforced ({_first_line(problem)})", hint="make it simpler")


def _list_keywords(schema: Any, place: str, depth: int) -> Iterator[tuple[str, str]]:
    """Each keyword of a schema and of its subschemas, with its path."""
    if depth > MAX_DEPTH:
        raise UsageError("the schema is nested too deeply", hint=f"at most {MAX_DEPTH} levels are read")
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        yield place, keyword
        if keyword in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, dict):
            for name, inner in value.items():
                yield from _list_keywords(inner, f" of {name!r}", depth + 1)
        elif keyword in ("items", "additionalProperties", "additionalItems"):
            yield from _list_keywords(value, place, depth + 1)
        elif keyword in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            for inner in value:
                yield from _list_keywords(inner, place, depth + 1)


def _bound_tokens(schema: Any, root: Mapping[str, Any], depth: int) -> int:
    """About how many tokens a value may need."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return SHORT_STRING_TOKENS
    root = root or schema
    if "$ref" in schema:
        return _bound_tokens(resolve(schema["$ref"], root), root, depth + 8)
    if isinstance(enum := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        return 4 + max((len(json.dumps(value)) for value in enum), default=0)
    several = [inner for name in ("anyOf", "oneOf") for inner in schema.get(name, ())]
    if several:
        return max(_bound_tokens(inner, root, depth + 1) for inner in several)
    if isinstance(properties := schema.get("properties"), dict):
        inner = (len(name) + 4 + _bound_tokens(value, root, depth + 1) for name, value in properties.items())
        return 4 + sum(inner)
    if schema.get("type") == "array":
        count = schema.get("maxItems", max(LIST_ITEMS, schema.get("minItems", 0)))
        return 4 + int(count) * (2 + _bound_tokens(schema.get("items", {}), root, depth + 1))
    if schema.get("type") in ("number", "integer", "boolean", "null"):
        return 12
    return 4 + int(schema.get("maxLength", SHORT_STRING_TOKENS))


@lru_cache(maxsize=64)  # strangers may send a server as many schemas as they like
def _open_validator(text: str) -> Any:
    """The independent validator of a schema. Raises UsageError if it is no schema."""
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(json.loads(text), validate_formats=True)
    except ValueError as error:
        raise UsageError(f"the schema is not valid ({_first_line(error)})", hint="see json-schema.org") from error


def _invalid(why: str) -> AnswerError:
    return AnswerError(f"the answer is not in the requested format: {why}", code="invalid_output")


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _read_number(words: str) -> float:
    """A number that JSON can represent: 1e999 is valid JSON, but infinity when read."""
    number = float(words)
    if not math.isfinite(number):
        raise ValueError(f"{words} is too large")
    return number


def _first_line(problem: object) -> str:
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[0][:200]
