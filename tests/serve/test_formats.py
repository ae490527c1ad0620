"""Answers of a format over the API: `parse` of the official client, log-probabilities, several answers; `--server`."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.serve.running import Running, running

SAMPLES = Path(__file__).parents[2] / "idefics_cli" / "shapes" / "samples"
CIRCLE = SAMPLES / "red-circle.png"


class Scene(BaseModel):
    colour: Literal["red", "blue", "green"]
    count: Literal[1, 2, 3]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as one:
        yield one


def ask(question: str) -> list[Any]:
    url = f"data:image/png;base64,{base64.b64encode(CIRCLE.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def test_the_official_client_parses_an_answer(client: openai.OpenAI) -> None:
    made = client.chat.completions.parse(
        model="shapes", messages=ask("What is in this image?"), response_format=Scene, max_tokens=60
    )
    scene = made.choices[0].message.parsed
    assert isinstance(scene, Scene)
    any_object = client.chat.completions.create(
        model="shapes", messages=ask("What?"), response_format={"type": "json_object"}, max_tokens=200
    )
    if any_object.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(any_object.choices[0].message.content or ""), dict)


def test_tokens_come_with_their_logarithms_and_answers_in_numbers(client: openai.OpenAI) -> None:
    question = ask("What colour is the circle?")
    made = client.chat.completions.create(
        model="shapes", messages=question, logprobs=True, n=3, temperature=0.7, seed=4, max_tokens=8
    )
    assert len(made.choices) == 3
    for choice in made.choices:
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert "".join(token.token for token in tokens).strip() == choice.message.content
        assert all(math.isfinite(token.logprob) and token.logprob <= 0 for token in tokens)
        assert all(token.top_logprobs == [] for token in tokens)
    again = client.chat.completions.create(model="shapes", messages=question, temperature=0.7, seed=5, max_tokens=8)
    assert again.choices[0].message.content == made.choices[1].message.content


def test_what_could_have_been_said_instead_is_told_of_each_token(client: openai.OpenAI) -> None:
    asked: Any = {"model": "shapes", "messages": ask("What colour is the circle?"), "max_tokens": 8}
    made = client.chat.completions.create(**asked, logprobs=True, top_logprobs=4)
    assert made.choices[0].logprobs is not None
    tokens = made.choices[0].logprobs.content or []
    assert tokens
    for token in tokens:
        likely = [one.logprob for one in token.top_logprobs]
        assert len(likely) == 4
        assert likely == sorted(likely, reverse=True)
        assert (token.top_logprobs[0].token, token.top_logprobs[0].bytes) == (token.token, token.bytes)
        assert likely[0] == pytest.approx(token.logprob)
        assert sum(map(math.exp, likely)) <= 1.001
    with pytest.raises(openai.BadRequestError, match="needs `logprobs: true`"):
        client.chat.completions.create(**asked, top_logprobs=4)
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        client.chat.completions.create(**asked, logprobs=True, top_logprobs=21)


def test_what_cannot_be_enforced_is_refused_by_name(client: openai.OpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError, match="'not' is not enforced"):
        client.chat.completions.create(model="shapes", messages=ask("What?"), response_format=wanted)
    with pytest.raises(openai.BadRequestError, match="do not work with"):
        client.chat.completions.create(model="shapes", messages=ask("What?"), n=2, stream=True)


def test_a_server_of_ours_keeps_to_formats_as_a_model_here_does(server: Running, run: Any) -> None:
    schema = json.dumps(Scene.model_json_schema() | {"additionalProperties": False})
    common = ("extract", CIRCLE, "--schema", schema, "--format", "jsonl")
    there = json.loads(run(*common, "--server", server.url, "--model", "shapes").stdout)
    here = json.loads(run(*common, "--model", "shapes", "--style", "chat").stdout)
    assert there["error"] is None
    assert there["data"] == here["data"]
