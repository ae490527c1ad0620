"""Requests join the running ones of a real server and leave when they end: no answer holds up or changes another."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from idefics_cli.backends.daemon.backend import find_server
from idefics_cli.config import resolve_model
from idefics_cli.values import Message, ModelSpec, Request, TextPart
from tests.program import run_program
from tests.serve.running import Running, chat, data_url, running
from tests.serve.test_workers import LONG as SLOW
from tests.serve.test_workers import NAMES, stream
from tests.shapes.test_truth import CAPTIONS

QUESTION = "What is in this image?"
LONG = {**SLOW, "max_tokens": 300}
MOST_PAUSE_SECONDS = 0.05


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.fixture(scope="module")
def long_text(server: Running) -> str:
    """The long answer, when nothing runs beside it."""
    return stream(server, LONG, lambda pieces: None)


def count_answered(server: Running) -> int:
    found = re.findall(r'idefics_requests_total\{outcome="answered"\} (\d+)', server.ask("/metrics")[1])
    return int(found[0]) if found else 0


@contextmanager
def loaded(server: Running, clients: int) -> Iterator[None]:
    """Clients that ask for answers of all lengths, one after another: the model is never idle."""
    is_over = threading.Event()

    def ask(number: int) -> None:
        drawn = random.Random(number)
        while not is_over.is_set():
            length, seed = drawn.randint(20, 60), drawn.randint(0, 99)
            body = chat(NAMES[0], QUESTION, temperature=50.0, seed=seed, max_tokens=length)
            assert server.ask("/v1/chat/completions", body)[0] == 200

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask, number) for number in range(clients)]
        try:
            yield
        finally:
            is_over.set()
        for one in asking:
            one.result()


def test_a_short_answer_is_given_while_a_long_one_is_written(server: Running, long_text: str) -> None:
    before = count_answered(server)
    said: list[dict[str, Any]] = []
    answered: list[int] = []

    def ask(pieces: int) -> None:
        if pieces == 5 * (len(said) + 1) <= 15:
            said.append(server.ask("/v1/chat/completions", chat(NAMES[1], QUESTION, max_tokens=4))[1])
            answered.append(count_answered(server) - before)

    assert stream(server, LONG, ask) == long_text
    assert [one["usage"]["completion_tokens"] for one in said] == [4, 4, 4]
    assert answered == [1, 2, 3]  # each of the short ones, and not yet the long one
    assert count_answered(server) - before == 4


def test_whoever_joins_when_gets_the_answer_of_a_command_alone(server: Running, tmp_path: Path) -> None:
    drawn = random.Random(17)
    kinds: list[dict[str, Any]] = [
        {"task": "caption"},
        {"task": "vqa", "question": "What colour is the circle?"},
        {"task": "write", "temperature": 1.5, "max_new_tokens": 30},
        {"task": "write", "max_new_tokens": 25},
        {"task": "caption", "num_beams": 3},
        {"task": "classify", "labels": ["circle", "square", "star"]},
        {"task": "classify", "labels": ["star", "circle"], "normalize": "pmi"},
        {"task": "vqa", "question": "Why?", "temperature": 50.0, "max_new_tokens": 40},
    ]
    items = [
        {
            **kinds[number % len(kinds)],
            "id": str(number),
            "image": data_url(drawn.choice(NAMES)),
            "seed": number,
        }
        for number in range(32)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    command = ("batch", tmp_path / "items.jsonl", "--model", "shapes", "--no-server", "--batch-size", "1")
    alone = [json.loads(line) for line in run_program(*command).stdout.splitlines()]
    pauses = [drawn.uniform(0, MOST_PAUSE_SECONDS) for _ in items]

    def ask(number: int) -> dict[str, Any]:
        time.sleep(pauses[number])
        status, row = server.ask("/v1/requests", items[number])
        assert status == 200, row
        return dict(row)

    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(ask, range(len(items))))
    for row, own in zip(rows, alone, strict=True):
        names = ("id", "text", "label", "finish_reason", "error")
        assert {name: row[name] for name in names} == {name: own[name] for name in names}
        assert row["usage"]["new_tokens"] == own["usage"]["new_tokens"]
        for score, same in zip(row["scores"] or (), own["scores"] or (), strict=True):
            assert score == pytest.approx(same, abs=1e-3)
    told = server.ask("/metrics")[1]
    buckets = dict(re.findall(r'idefics_requests_at_once_bucket\{le="([^"]+)"\} (\d+)', told))
    assert int(buckets["+Inf"]) > int(buckets["1"])


def test_a_command_has_its_short_answers_before_a_long_one_ends(server: Running, tmp_path: Path) -> None:
    os.environ["IDEFICS_RUNTIME_DIR"] = str(server.folder)
    long = {"id": "long", "task": "caption", "image": data_url(NAMES[0]), "temperature": 50.0, "seed": 5}
    short = [{"id": str(number), "task": "caption", "image": data_url(NAMES[1])} for number in range(60)]
    items = [long | {"max_new_tokens": 900}, *short]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    result = run_program("batch", tmp_path / "items.jsonl", "--model", "shapes", "--unordered", "--verbose")
    assert "answered by the server" in result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    # More than the requests that a command has on their way at a time.
    assert [row["id"] for row in rows[60:]] == ["long"]
    assert rows[60]["usage"]["new_tokens"] > 600
    assert {row["text"] for row in rows[:60]} == {CAPTIONS[NAMES[1]]}


def test_what_needs_the_model_alone_gets_its_turn_under_load(server: Running) -> None:
    os.environ["IDEFICS_RUNTIME_DIR"] = str(server.folder)
    backend = find_server(ModelSpec(resolve_model("shapes").checkpoint)).backend
    assert backend is not None
    request = Request("0", "vqa", (Message("user", (TextPart("Why?"),)),))
    quiet = backend.preview(request, {})
    with loaded(server, 4):
        answered = []
        for _ in range(5):
            assert backend.preview(request, {}) == quiet
            answered.append(count_answered(server))
        assert server.ask("/v1/chat/completions", chat(NAMES[0], QUESTION, max_tokens=4))[0] == 200
    backend.close()
    assert answered[-1] > answered[0]  # requests were answered in between


def test_failing_requests_harm_none_that_run(server: Running, long_text: str) -> None:
    image = data_url(NAMES[0])
    failing: list[tuple[str, Any, str]] = [
        ("/v1/chat/completions", chat(NAMES[0], "<image>"), "special_token"),
        ("/v1/chat/completions", chat(NAMES[0], "why " * 5000), "prompt_too_long"),
        ("/v1/requests", {"task": "caption", "image": "data:image/png;base64,AAAA"}, "not_an_image"),
        (
            "/v1/requests",
            {"task": "classify", "image": image, "labels": ["x", "y"], "generate": True},
            "no_label",
        ),
    ]
    codes: list[str] = []

    def harm(pieces: int) -> None:
        if len(codes) < len(failing) and pieces == 5 * (len(codes) + 1):
            path, body, _ = failing[len(codes)]
            codes.append(server.ask(path, body)[1]["error"]["code"])
            with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client:  # one that goes away
                events = client.chat.completions.create(**LONG, stream=True)
                next(events)
                events.close()

    assert stream(server, LONG, harm) == long_text
    assert codes == [code for _, _, code in failing]
