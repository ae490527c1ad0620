"""Thoughts in what a server writes are no part of the answer, whole or in pieces, whoever began or parsed them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from idefics_cli.backends.openai.reply import ServerReply, ThoughtFilter
from tests.backends.openai.server import OpenAIServer, Trouble, open_server, say
from tests.backends.openai.test_backend import Command

ANSWER = "A red dog."


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    PIL.Image.new("RGB", (20, 10), "red").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(params=["vllm", "sglang", "llamacpp", "idefics"])
def server(request: pytest.FixtureRequest) -> Iterator[OpenAIServer]:
    with open_server(request.param) as one:
        yield one


def answer(text: str) -> Trouble:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return lambda page: say(page, 200, {"choices": [choice]})


@pytest.mark.parametrize(
    ("is_asked", "text", "reasoning", "reason", "expected"),
    [
        (False, f"<think>A cat?</think>\n\n{ANSWER}", None, "stop", ANSWER),
        (False, f"<|channel>A cat?<channel|>{ANSWER}", None, "stop", ANSWER),
        (True, f"A cat?\n</think>\n\n{ANSWER}", None, "stop", ANSWER),
        (True, ANSWER, "A cat?", "stop", ANSWER),
        (True, ANSWER, None, "stop", ANSWER),
        (False, ANSWER, None, "stop", ANSWER),
        (False, "<b>is bold</b>", None, "stop", "<b>is bold</b>"),
        (False, "<think>A cat? Or", None, "length", ""),
        (True, "A cat? Or", None, "length", ""),
    ],
)
def test_the_answer_is_what_follows_thoughts(
    is_asked: bool, text: str, reasoning: str | None, reason: str, expected: str
) -> None:
    whole = ServerReply(ThoughtFilter(is_asked=is_asked))
    message = {"content": text, "reasoning_content": reasoning}
    whole.add({"choices": [{"message": message, "finish_reason": reason}]})
    assert whole.text == expected
    pieces = ServerReply(ThoughtFilter(is_asked=is_asked))
    deltas = [{"reasoning_content": reasoning}, *({"content": letter} for letter in text)]
    given = [pieces.add({"choices": [{"delta": delta, "finish_reason": None}]}) for delta in deltas]
    given.append(pieces.add({"choices": [{"delta": {}, "finish_reason": reason}]}))
    assert "".join(given) == pieces.text == expected


def test_a_server_is_told_to_think(server: OpenAIServer, photo: Path, run: Command) -> None:
    words = ("--server", server.url, "--model", "vl", "--format", "jsonl")
    server.troubles = [answer(f"A cat?</think>{ANSWER}"), answer(ANSWER)]
    told = run("vqa", photo, "-q", "What?", "--think", *words)
    assert json.loads(told.stdout)["text"] == ANSWER, told.stderr
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": True}
    schema = '{"type": "object", "properties": {"dog": {"type": "boolean"}}}'
    run("extract", photo, "--schema", schema, "--think", *words)
    assert server.bodies[1]["chat_template_kwargs"] == {"enable_thinking": False}
    server.troubles = [answer(f"<think>A cat?</think>{ANSWER}"), answer(ANSWER)]
    lines = [{"task": "vqa", "question": "What?", "image": str(photo), "think": one} for one in (True, None)]
    asked = "\n".join(map(json.dumps, lines)).encode()
    rows = run("batch", "-", "--batch-size", "1", *words[:4], stdin=asked)
    assert [json.loads(row)["text"] for row in rows.stdout.splitlines()] == [ANSWER] * 2, rows.stderr
    assert [body.get("chat_template_kwargs") for body in server.bodies[2:]] == [
        {"enable_thinking": True},
        None,
    ]


def test_a_server_that_is_not_known_to_think_is_not_told(photo: Path, run: Command) -> None:
    with open_server("library") as server:
        asked = run("vqa", photo, "-q", "What?", "--think", "--server", server.url, "--model", "vl")
    assert asked.code == 1
    assert "this server is not known to take --think; leave it out" in asked.stderr
    assert not server.bodies
