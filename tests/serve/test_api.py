"""The API of a real server: with the OpenAI client as it is, and with what no client should send."""

from __future__ import annotations

import io
import json
import os
import re
import select
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import PIL.Image
import pytest

from idefics_cli.cli.app import execute
from tests.program import run_program
from tests.serve.running import PROGRAM, ROOT, SAMPLES, Running, chat, data_url, running, wait_for
from tests.shapes.test_truth import CAPTIONS
from tests.site import open_site

NAMES = ("red-circle.png", "blue-star.png", "green-triangle.png")
QUESTION = "What is in this image?"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("--queue", "64", "--max-pixels", "1000000") as one:
        yield one


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as one:
        yield one


def ask(client: openai.OpenAI, *parts: str, **options: Any) -> Any:
    return client.chat.completions.create(**chat(*parts, **options))


def test_the_openai_client_gets_true_answers(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["shapes"]
    for name in NAMES:
        said = ask(client, name, QUESTION)
        assert said.choices[0].message.content == CAPTIONS[name]
        assert said.choices[0].finish_reason == "stop"
        usage = said.usage
        assert usage.prompt_tokens > 5
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_what_changes_nothing_is_accepted(client: openai.OpenAI) -> None:
    neutral = {
        **{"frequency_penalty": 0, "presence_penalty": 0.0, "n": 1, "tools": [], "user": "somebody"},
        **{"response_format": {"type": "text"}, "logprobs": False, "logit_bias": {}, "stream": False},
    }
    plain = ask(client, "red-circle.png", QUESTION)
    assert ask(client, "red-circle.png", QUESTION, **neutral).choices == plain.choices
    told = {"role": "system", "content": "Be brief."}
    body = chat("red-circle.png", QUESTION)
    said = client.chat.completions.create(**{**body, "messages": [told, *body["messages"]]})
    assert said.usage.prompt_tokens > plain.usage.prompt_tokens
    assert client.models.retrieve("shapes").id == "shapes"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    for name, value in (("frequency_penalty", 0.5), ("tools", [{"type": "function"}]), ("n", 0)):
        with pytest.raises(openai.BadRequestError, match=name):
            ask(client, "red-circle.png", QUESTION, **{name: value})


def test_a_stream_adds_up_to_the_same(client: openai.OpenAI) -> None:
    whole = ask(client, "red-circle.png", QUESTION)
    events = list(ask(client, "red-circle.png", QUESTION, stream=True, stream_options={"include_usage": True}))
    pieces = [event.choices[0].delta.content for event in events if event.choices]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(piece or "" for piece in pieces) == whole.choices[0].message.content
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-2].choices[0].finish_reason == "stop"
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_options_of_decoding_take_effect(client: openai.OpenAI) -> None:
    short = ask(client, "red-circle.png", QUESTION, max_tokens=2)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (2, "length")
    assert ask(client, "red-circle.png", QUESTION, max_completion_tokens=2).usage == short.usage
    stopped = ask(client, "red-circle.png", QUESTION, stop="circle")
    assert stopped.choices[0].message.content == "A red"
    hot = [
        ask(client, "red-circle.png", QUESTION, temperature=50.0, top_p=0.99, seed=seed, max_tokens=8)
        for seed in (1, 1, 2)
    ]
    said = [one.choices[0].message.content for one in hot]
    assert said[0] == said[1] != said[2]


def test_several_images_are_seen_in_their_order(server: Running) -> None:
    body = chat("red-circle.png", "blue-star.png", QUESTION)
    assert (
        server.ask("/v1/chat/completions", body)[1]["choices"][0]["message"]["content"]
        == (
            CAPTIONS["blue-star.png"]  # an IDEFICS looks at the latest
        )
    )
    history = {
        "model": "shapes",
        "messages": [
            *chat("red-circle.png", QUESTION)["messages"],
            {"role": "assistant", "content": CAPTIONS["red-circle.png"]},
            *chat("green-triangle.png", QUESTION)["messages"],
        ],
    }
    said = server.ask("/v1/chat/completions", history)[1]["choices"][0]["message"]["content"]
    assert said == CAPTIONS["green-triangle.png"]


def test_rows_are_those_of_the_commands(server: Running) -> None:
    items = [
        {"id": "a", "task": "caption", "image": data_url("red-circle.png")},
        {
            "task": "classify",
            "images": [data_url("blue-star.png")],
            "labels": ["circle", "star"],
            "normalize": "pmi",
        },
        {"template": "alt-text", "image": data_url("green-triangle.png"), "max_new_tokens": 4},
        {"task": "vqa"},
    ]
    status, rows = server.ask("/v1/requests", items)
    assert status == 200
    lines = "\n".join(json.dumps(item) for item in items).encode()
    local = run_program("batch", "-", "--model", "shapes", stdin=lines)
    for row, line in zip(rows, local.stdout.splitlines(), strict=True):
        expected = json.loads(line)
        for volatile in ("seconds", "usage", "key"):
            row.pop(volatile), expected.pop(volatile)
        for one in (row, expected):
            for score in one["scores"] or ():
                score["logprob"], score["probability"] = (
                    round(score["logprob"], 3),
                    round(score["probability"], 3),
                )
        assert row == expected
    assert rows[0]["text"] == CAPTIONS["red-circle.png"]
    single = server.ask("/v1/requests", items[0])[1]
    assert (single["id"], single["text"]) == ("a", CAPTIONS["red-circle.png"])


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"frequency_penalty": 1.0}, 400, "frequency_penalty must be "),
        ({"tools": [{"type": "function"}]}, 400, "tools: "),
        ({"functions": []}, 400, "functions is not supported"),
        ({"n": 17}, 400, "n must be "),
        ({"max_tokens": 0}, 400, "max_tokens: "),
        ({"temperature": "hot"}, 400, "temperature must be "),
        ({"stop": [""]}, 400, "stop"),
        ({"messages": []}, 400, "messages: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role must be "),
        (
            {"messages": [{"role": "user", "content": "x", "name": "me"}]},
            400,
            "messages.0.name is not supported",
        ),
        ({"model": "gpt-4o"}, 404, "this is shapes"),
        ({"messages": [{"role": "user", "content": "What? <image>"}]}, 400, "special token"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400, "the model has room for"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    server: Running, change: dict[str, Any], status: int, reason: str
) -> None:
    for stream in (False, True):
        got, said = server.ask("/v1/chat/completions", chat("red-circle.png", QUESTION, stream=stream) | change)
        assert got == status
        assert reason in said["error"]["message"]
        assert set(said["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/etc/passwd", "refused"),
        ("red-circle.png", "refused"),
        ("file:///etc/passwd", "refused"),
        ("ftp://example.com/a.png", "refused"),
        ("", "refused"),
        ("http://127.0.0.1:9/a.png", "refused"),
        ("http://localhost/a.png", "refused"),
        ("http://[::ffff:10.0.0.1]/a.png", "refused"),
        ("http://169.254.169.254/latest/meta-data", "refused"),
        ("data:image/png;base64,AAAA", "not_an_image"),
        ("data:image/png;base64,!", "fetch_failed"),
    ],
)
def test_images_come_from_the_web_or_with_the_call_alone(server: Running, url: str, code: str) -> None:
    body = chat(QUESTION)
    body["messages"][0]["content"].insert(0, {"type": "image_url", "image_url": {"url": url}})
    status, said = server.ask("/v1/chat/completions", body)
    assert (status, said["error"]["code"]) == (400, code)
    row = server.ask("/v1/requests", {"task": "caption", "image": url})[1]
    assert row["error"]["code"] == code


@pytest.mark.parametrize(
    "item",
    [
        {"task": "caption", "path_b64": ["L2V0Yy9wYXNzd2Q="]},
        {"task": "caption", "image": "-"},
        {"template": "./mine.yaml", "image": "data:,"},
        {"template": "/etc/passwd", "image": "data:,"},
        {"task": "caption", "image": "data:,", "examples": "/etc/passwd"},
        {"task": "caption", "image": "data:,", "examples": [{"image": "/etc/passwd", "answer": "x"}]},
    ],
)
def test_items_name_no_files(server: Running, item: dict[str, Any]) -> None:
    row = server.ask("/v1/requests", item)[1]
    assert row["error"]["code"] in {"bad_item", "refused"}
    assert "root:" not in json.dumps(row)


def test_bodies_pictures_and_their_number_are_bounded(server: Running) -> None:
    large = io.BytesIO()
    PIL.Image.new("RGB", (1200, 1000)).save(large, "PNG")
    url = "data:image/png," + urllib.parse.quote_from_bytes(large.getvalue())
    item = {"task": "caption", "image": url}
    assert server.ask("/v1/requests", item)[1]["error"]["code"] == "too_large"
    many = {"task": "caption", "images": [data_url("red-circle.png")] * 33}
    assert server.ask("/v1/requests", many)[1]["error"]["code"] == "refused"
    assert server.ask("/v1/chat/completions", chat(*["red-circle.png"] * 33))[0] == 400
    host, port = server.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = "POST /v1/requests HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(200):
            if select.select([connection], [], [], 0)[0]:
                break
            connection.sendall(piece)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/nothing", None, {}, 404),
        ("/v1/chat/completions", None, {}, 405),
        ("/private/session", {}, {}, 404),
        ("/private/stop", {}, {}, 404),
        ("/v1/requests", b"{", {}, 400),
        ("/v1/requests", b"[" * 100_000, {}, 400),
        ("/v1/requests", b'{"a": 1, "a": 2}', {}, 400),
        ("/v1/requests", b'"\\ud83d"', {}, 400),
        ("/v1/requests", b"\xff", {}, 400),
        ("/v1/requests", b"[]", {}, 400),
        ("/v1/requests", b"1", {}, 400),
        ("/v1/requests", b"[1]", {}, 200),
        ("/v1/requests", b"NaN", {}, 400),
        # A page of the web can send this without being asked, and make its name lead here.
        ("/v1/requests", {"task": "vqa"}, {"Content-Type": "text/plain"}, 415),
        ("/v1/models", None, {"Host": "evil.example"}, 421),
        ("/v1/models", None, {"Host": "evil.example:80"}, 421),
        ("/v1/models", None, {"Host": "localhost:1"}, 200),
        ("/v1/models", None, {"Host": "[::1]:1"}, 200),
    ],
)
def test_odd_calls_get_a_clear_answer(
    server: Running, path: str, body: object, headers: dict[str, str], status: int
) -> None:
    got, said = server.ask(path, body, headers)
    assert got == status, said
    assert status == 200 or said["error"]["message"]


def test_clients_that_go_away_free_their_place(server: Running) -> None:
    host, port = server.url.split("/")[2].split(":")
    body = json.dumps(chat("red-circle.png", QUESTION, stream=True, temperature=50.0, max_tokens=200)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    call = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    for _ in range(5):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(call)
            assert connection.recv(15).startswith(b"HTTP/1.1 200")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(call[:-10])  # before it has said everything
    said = server.ask("/v1/requests", {"task": "caption", "image": data_url("red-circle.png")})[1]
    assert said["text"] == CAPTIONS["red-circle.png"]
    wait_for(lambda: "idefics_queue_requests 0\n" in server.ask("/metrics")[1], 60)


def test_every_client_gets_its_own_answer(server: Running) -> None:
    """A short form of `test_load`."""

    def check(number: int) -> None:
        name = NAMES[number % 3]
        said = server.ask("/v1/chat/completions", chat(name, QUESTION, stream=bool(number % 2)))
        assert said[0] == 200
        text = said[1]["choices"][0]["message"]["content"] if number % 2 == 0 else join_events(said[1])
        assert text == CAPTIONS[name]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(check, range(48)))
    told = server.ask("/metrics")[1]
    sizes = dict(re.findall(r'idefics_requests_at_once_bucket\{le="(\d+)"\} (\d+)', told))
    assert int(sizes["64"]) > int(sizes["1"])  # some were answered together
    assert 'idefics_cache_uses_total{cache="image",outcome="hits"} ' in told


def join_events(said: str) -> str:
    events = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data: {")]
    return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events)


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    given = ("--api-key", "secret", "--host", "0.0.0.0", "--queue", "1", "--allow-private-addresses")
    with running(*given) as one:
        one.url = one.url.replace("0.0.0.0", "127.0.0.1")
        yield one


def test_images_of_the_same_network_are_fetched_where_that_is_allowed(strict: Running) -> None:
    with open_site() as site:
        picture = (SAMPLES / NAMES[0]).read_bytes()
        url = site.serve("/a.png", (200, {"Content-Type": "image/png"}, picture))
        item = {"task": "caption", "image": url}
        status, row = strict.ask("/v1/requests", item, {"Authorization": "Bearer secret"})
    assert (status, row["error"], row["text"]) == (200, None, CAPTIONS[NAMES[0]])


def test_the_key_is_asked_for_everywhere_but_at_the_door(strict: Running) -> None:
    assert strict.ask("/health")[0] == 200
    for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/nothing"):
        for header in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}):
            assert strict.ask(path, None, header)[0] == 401
    with openai.OpenAI(base_url=strict.url, api_key="secret") as client:
        assert [model.id for model in client.models.list()] == ["shapes"]
    with (
        openai.OpenAI(base_url=strict.url, api_key="wrong") as client,
        pytest.raises(openai.APIError) as error,
    ):
        client.models.list()
    assert isinstance(error.value, openai.AuthenticationError)


@pytest.mark.parametrize(
    ("host", "key", "status"),
    [
        ("localhost:", "bearer secret", 200),
        ("LOCALHOST", "Bearer  secret", 200),
        ("[::1]:80", "BEARER secret", 200),
        ("localhost:80", "Basic secret", 401),
        ("localhost", "Bearersecret", 401),
    ],
)
def test_hosts_and_keys_are_read_as_http_says(strict: Running, host: str, key: str, status: int) -> None:
    assert strict.ask("/v1/models/shapes", headers={"Host": host, "Authorization": key})[0] == status


def test_a_full_queue_says_when_to_come_back(strict: Running) -> None:
    items = [{"task": "caption", "image": data_url(name)} for name in NAMES] * 10
    key = {"Authorization": "Bearer secret"}
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda _: strict.ask("/v1/requests", items, key), range(6)))
    statuses = [status for status, _ in said]
    assert set(statuses) == {200, 503}
    refusal = next(content for status, content in said if status == 503)
    assert refusal["error"]["code"] == "busy"
    # The client of OpenAI comes back by itself.
    with (
        openai.OpenAI(base_url=strict.url, api_key="secret", max_retries=100) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        answers = list(pool.map(lambda _: ask(client, "blue-star.png", QUESTION), range(6)))
    assert {one.choices[0].message.content for one in answers} == {CAPTIONS["blue-star.png"]}


def test_a_call_that_takes_too_long_is_given_up_and_its_work_is_stopped() -> None:
    endless = {"task": "write", "image": data_url("blank.png"), "num_beams": 1}
    items = [endless | {"temperature": 50.0, "seed": seed, "max_new_tokens": 400} for seed in range(256)]
    caption = {"task": "caption", "image": data_url("red-circle.png")}
    with running("--request-timeout", "1") as server, ThreadPoolExecutor(1) as pool:
        many = pool.submit(server.ask, "/v1/requests", items)
        time.sleep(0.3)
        # With this seed it alone takes 695 tokens, for it has the model once the many are given up.
        alone = chat(NAMES[0], QUESTION, temperature=50.0, seed=5, max_tokens=900)
        one = server.ask("/v1/chat/completions", alone)
        for status, said in (many.result(), one):
            assert (status, said["error"]["code"]) == (503, "timeout")
            assert said["error"]["message"] == "no answer within 1 seconds"
        # Neither may the body take for ever to come.
        host, port = server.url.split("/")[2].split(":")
        with socket.create_connection((host, int(port)), timeout=15) as connection:
            head = f"POST /v1/requests HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n[".encode())
            assert connection.recv(12) == b"HTTP/1.1 503"
        # All of the work would take a minute.
        wait_for(lambda: server.ask("/v1/requests", caption)[0] == 200, 15)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--port", "0", "--host", "0.0.0.0"), "needs --api-key"),
        (("--port", "0", "--host", "::"), "needs --api-key"),
        (("--port", "0", "--host", "example.com"), "needs --api-key"),
        (("--host", "127.0.0.1"), "add --port 8000"),
        (("--keep-alive", "soon"), "not a duration"),
        (("--port", "70000"), "65535"),
    ],
)
def test_a_server_that_would_be_open_to_all_does_not_start(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    assert execute(["serve", "--model", "shapes", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_a_taken_port_is_told(capsys: pytest.CaptureFixture[str], server: Running) -> None:
    port = server.url.split(":")[2].removesuffix("/v1")
    assert execute(["serve", "--model", "shapes", "--port", port]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_a_signal_lets_the_work_in_hand_finish() -> None:
    with running() as server:
        items = [{"task": "caption", "image": data_url(name)} for name in NAMES] * 30
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(server.ask("/v1/requests", items)))
        thread.start()
        wait_for(lambda: "idefics_requests_total{" in server.ask("/metrics")[1], 60)
        server.process.terminate()
        refused: list[int] = []
        while server.process.poll() is None:
            try:
                refused.append(server.ask("/v1/models")[0])
            except OSError:
                break
            time.sleep(0.01)
        thread.join(120)
        status, rows = found[0]
        assert (status, len(rows)) == (200, 90)
        assert all(row["error"] is None for row in rows)
        assert set(refused) <= {200, 503}
        assert server.process.wait(60) == 0
        assert not (server.folder / "server.sock").exists()


def test_the_program_of_a_server_is_quiet(server: Running) -> None:
    assert server.log.read_text().count("\n") == 1, server.log.read_text()
    result = subprocess.run(
        [*PROGRAM, "serve", "--status"],
        cwd=ROOT,
        env={"IDEFICS_RUNTIME_DIR": str(server.folder), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "model\tshapes\n" in result.stdout
    assert server.url in result.stdout


def test_the_status_counts_each_call_once_and_says_how_long_ago_the_last_was(server: Running) -> None:
    environment = {**os.environ, "IDEFICS_RUNTIME_DIR": str(server.folder), "OMP_NUM_THREADS": "1"}

    def ask(*words: str) -> str:
        return subprocess.run(
            [*PROGRAM, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout

    def read() -> dict[str, str]:
        return dict(line.split("\t") for line in ask("serve", "--status").splitlines())

    wait_for(lambda: server.ask("/health")[1]["calls"] == 0, 30)
    before = read()
    server.ask("/v1/chat/completions", chat("red-circle.png", "What is this?"))
    server.ask("/v1/chat/completions", chat("red-circle.png", "What is this?", stream=True))
    ask("caption", str(SAMPLES / "red-circle.png"), "--model", "shapes")
    wait_for(lambda: server.ask("/health")[1]["calls"] == 0, 30)
    after = read()
    assert int(after["finished calls"]) - int(before["finished calls"]) == 3
    assert (after["calls"], after["waiting requests"]) == ("0", "0")
    assert not {"", "None"} & set(after.values()), after
    a_time = r"\d+(\.\d)? s|\d+ min \d+ s|\d+ h \d+ min"
    for name in ("uptime", "idle"):
        assert re.fullmatch(a_time, after[name]), after
    assert re.fullmatch(rf"({a_time}) ago", after["last call"]), after
