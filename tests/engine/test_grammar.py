"""Answers of a format: whatever weights, schema and company, they are of it or say that they are cut off."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from functools import cache
from typing import Any

import jsonschema_rs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from pydantic import BaseModel

from idefics_cli.config import resolve_model
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation, Generation
from idefics_cli.engine.grammar import Grammars
from idefics_cli.errors import AnswerError, ItemError, UsageError
from idefics_cli.models.loading import open_family
from idefics_cli.prompts.answer_format import check_schema, parse_regex, read_data, to_choices, to_grammar
from idefics_cli.values import AnswerFormat, Decoding, ModelSpec
from tests.engine.oracle import opened, run_all
from tests.models.tiny import document, picture

KINDS = ("idefics", "idefics2", "idefics3", "smolvlm")
IMAGE = picture(1)
PROMPTS = [document(IMAGE, text) for text in ("Describe this image.", "What?", "How many are there? Answer:")]
NAMES = st.sampled_from(["colour", "kind", "n", "größe", "a b", 'q"t'])
LEAVES = st.one_of(
    st.lists(st.sampled_from(["red", "blue", " x", "日本", '"', "\n"]), min_size=1, max_size=4, unique=True).map(
        lambda values: {"enum": values}
    ),
    st.tuples(st.integers(-20, 20), st.integers(0, 30)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
    ),
    st.integers(0, 6).map(lambda most: {"type": "string", "maxLength": most}),
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"const": 7},
            {"type": "string", "pattern": "^[a-c]{1,4}$"},
            {"type": "string", "format": "date"},
        ]
    ),
)


def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(NAMES, inner, min_size=1, max_size=3).map(
        lambda fields: {
            "type": "object",
            "properties": fields,
            "required": list(fields),
            "additionalProperties": False,
        }
    )
    lists = st.tuples(inner, st.integers(0, 2)).map(
        lambda pair: {"type": "array", "items": pair[0], "minItems": 0, "maxItems": pair[1]}
    )
    return st.one_of(objects, lists, st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}))


SCHEMAS = st.recursive(LEAVES, grow, max_leaves=4)


@cache
def engine_of(kind: str) -> Engine:
    family, model = opened(kind)
    return Engine(model, family)


@cache
def grammars_of(kind: str) -> Grammars:
    if kind == "shapes":
        return Grammars(open_family(ModelSpec(resolve_model("shapes").checkpoint)))
    return Grammars(opened(kind)[0])


def answer(kind: str, wanted: list[AnswerFormat | None], decoding: Decoding, rows: int) -> list[Generation]:
    family, _ = opened(kind)
    works = [
        Continuation(
            family.encode(PROMPTS[place % len(PROMPTS)], [IMAGE]),
            decoding,
            constrain=None if one is None else grammars_of(kind).constrain(one),
        )
        for place, one in enumerate(wanted)
    ]
    made = []
    with torch.inference_mode():
        for done in run_all(engine_of(kind), works, rows=rows):
            assert not isinstance(done, ItemError)
            assert done.outcome.generation is not None
            made.append(done.outcome.generation)
    return made


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    schemas=st.lists(SCHEMAS, min_size=1, max_size=4),
    kind=st.sampled_from(KINDS),
    rows=st.sampled_from([1, 3]),
    temperature=st.sampled_from([0.0, 1.5]),
    beams=st.sampled_from([1, 2, 3]),
)
def test_whatever_the_weights_an_answer_is_of_its_schema_or_cut_off(
    schemas: list[dict[str, Any]], kind: str, rows: int, temperature: float, beams: int
) -> None:
    wanted = [check_schema(schema) for schema in schemas]
    beams = beams if temperature == 0 else 1
    decoding = Decoding(max_new_tokens=120 // beams, temperature=temperature, seed=3, num_beams=beams)
    for schema, one, made in zip(schemas, wanted, answer(kind, [*wanted], decoding, rows), strict=True):
        if made.finish_reason == "length":
            continue
        value = read_data(one, made.text)
        jsonschema_rs.validator_for(schema).validate(value)
        assert json.loads(made.text) == value


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_changes_nothing_but_what_it_forbids(kind: str) -> None:
    """What is said freely is said as well where just that is allowed, in company and alone."""
    decoding = Decoding(max_new_tokens=10)
    (free,) = answer(kind, [None], decoding, 1)
    if free.finish_reason == "stop" or "�" in free.text or not free.text.strip():
        return
    allowed = parse_regex("(?s:.)*")
    with_mask, _, other = answer(kind, [allowed, None, to_choices(["yes", "no"])], decoding, 3)
    assert with_mask.ids[: len(free.ids)] == free.ids
    assert other.text.strip() in ("yes", "no")


def list_models(package: Any) -> dict[str, type[BaseModel]]:
    found = {}
    for name in dir(package):
        one = getattr(package, name)
        if isinstance(one, type) and issubclass(one, BaseModel) and one is not BaseModel:
            found[name] = one
    return found


def list_schemas() -> dict[str, dict[str, Any]]:
    """Schemas that people wrote for another purpose: what an API's client sends and gets."""
    import openai.types.beta
    import openai.types.evals
    import openai.types.realtime
    import openai.types.responses

    packages = (
        openai.types,
        openai.types.chat,
        openai.types.beta,
        openai.types.responses,
        openai.types.realtime,
    )
    schemas: dict[str, dict[str, Any]] = {}
    for package in (*packages, openai.types.evals):
        for name, model in list_models(package).items():
            try:
                schemas[name] = model.model_json_schema()
            except Exception:  # not every model of a client has one
                continue
    return schemas


def walk(tokenizer: Any, closing: set[int], wanted: AnswerFormat, seed: int) -> str | None:
    """A random text of a grammar; None where it does not end soon. What closes is preferred, or few would."""
    dice = random.Random(seed)
    matcher = LLMatcher(tokenizer, to_grammar(wanted), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    text: list[int] = []
    for _ in range(300):
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [token for token in range(tokenizer.vocab_size) if bits >> token & 1]
        ends = [token for token in allowed if token in tokenizer.eos_tokens]
        if ends and (len(ends) == len(allowed) or dice.random() < 0.5):
            return str(tokenizer.decode_str(text))
        preferred = [token for token in allowed if token in closing]
        token = dice.choice(preferred if preferred and dice.random() < 0.6 else allowed)
        if token in ends or not matcher.consume_token(token):
            return None
        text.append(token)
    return None


def test_schemas_of_the_world_are_enforced_whole_or_refused_by_name() -> None:
    tokenizer = grammars_of("shapes")._open_tokenizer()
    closing = {token for token in range(tokenizer.vocab_size) if tokenizer.decode_str([token])[:1] in ('"', "}", "]")}
    schemas = dict(sorted(list_schemas().items())[:220])
    assert len(schemas) >= 200
    refused, ended = [], 0
    for place, schema in enumerate(schemas.values()):
        try:
            wanted = check_schema(schema)
        except UsageError as error:
            refused.append(str(error))
            continue
        text = walk(tokenizer, closing, wanted, place) if place % 8 == 0 else None
        with suppress(AnswerError):
            if text is not None and isinstance(read_data(wanted, text), dict):
                ended += 1
                jsonschema_rs.validator_for(schema).validate(json.loads(text))
    assert ended >= 5
    assert all("enforced" in line or "not valid" in line for line in refused)
    assert len(refused) < 60


@pytest.mark.parametrize(
    "keyword",
    [
        "not",
        "if",
        "contains",
        "uniqueItems",
        "dependentRequired",
        "propertyNames",
        "unevaluatedProperties",
        "typo",
    ],
)
def test_a_keyword_that_is_not_enforced_is_refused_by_its_name(keyword: str) -> None:
    with pytest.raises(UsageError, match=repr(keyword)):
        check_schema({"type": "object", "properties": {"a": {keyword: {}}}})
