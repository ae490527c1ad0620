"""Several servers behind one command: shared by speed, left out when they go, asked again when they are back."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from idefics_cli.backends import close_backends
from idefics_cli.backends.openai import client
from idefics_cli.backends.pool import backend as pool
from tests.backends.openai.server import OpenAIServer, open_server, say
from tests.backends.pool.test_processes import count_rows, untimed
from tests.program import Run
from tests.serve.running import SAMPLES, Running, running, wait_for
from tests.site import Page

Command = Callable[..., Run]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[OpenAIServer]]:
    """Three that answer; pauses are short."""
    monkeypatch.setattr(client, "RETRY", replace(client.RETRY, backoff_seconds=0.01))
    monkeypatch.setattr(pool, "FIRST_PAUSE_SECONDS", 0.05)
    with ExitStack() as stack:
        yield [stack.enter_context(open_server()) for _ in range(3)]
        close_backends()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(40):
        colour = ("red", "blue")[number % 2]
        PIL.Image.new("RGB", (20 + number, 10), colour).save(tmp_path / "in" / f"{number:02}.png")
    return tmp_path / "in"


def ask(run: Command, folder: Path, servers: list[OpenAIServer], *more: str | Path) -> Run:
    named = [word for one in servers for word in ("--server", one.url)]
    return run("vqa", folder, "-q", "What is it?", "--format=jsonl", "--batch-size=4", *named, *more)


def rows_of(result: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def check_all_seen(result: Run) -> None:
    assert [row["text"] for row in rows_of(result)] == [
        f"I see {('red', 'blue')[n % 2]} {20 + n}x10 in turn 1." for n in range(40)
    ], result.stderr


def vanish(page: Page) -> None:
    """As a server that is killed: the connection ends without a word."""
    page.close_connection = True
    page.connection.shutdown(socket.SHUT_RDWR)


class Mortal:
    """Makes a server vanish from a call on, and come back after some time; its list of models vanishes with it."""

    def __init__(self, server: OpenAIServer, dies: Callable[[dict[str, Any]], bool], seconds: float) -> None:
        self.server, self._dies, self._seconds = server, dies, seconds
        self.deaths = self.answered = 0
        self._back = 0.0
        self._lock = threading.Lock()
        self._pages = dict(server.site.pages)
        for path, answer in self._pages.items():
            server.site.pages[path] = self._wrap(answer)

    def _wrap(self, answer: Any) -> Any:
        def reply(page: Page) -> None:
            body = json.loads(page.body) if page.body else {}
            with self._lock:
                if time.monotonic() >= self._back and body and self._dies(body):
                    self.deaths += 1
                    self._back = time.monotonic() + self._seconds
                is_dead = time.monotonic() < self._back
            if is_dead:
                vanish(page)
            else:
                answer(page)
                self.answered += bool(body)

        return reply


def test_servers_share_the_work_in_order_and_the_slow_one_has_less(
    run: Command, folder: Path, servers: list[OpenAIServer]
) -> None:
    for server, seconds in zip(servers, (0.02, 0.02, 0.6), strict=True):
        server.seconds = seconds
    result = ask(run, folder, servers)
    check_all_seen(result)
    fast, other, slow = (len(server.bodies) for server in servers)
    assert fast + other + slow == 40
    assert slow <= 8 < min(fast, other)
    assert "using vl, the first model of 3 servers" in result.stderr


def test_servers_are_named_in_a_file(run: Command, folder: Path, servers: list[OpenAIServer], tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("# mine\n" + "\n".join(server.url for server in servers) + "\n\n")
    check_all_seen(run("vqa", folder, "-q", "?", "--format=jsonl", "--server", f"@{hosts}"))
    assert all(server.bodies for server in servers)
    hosts.write_text("# none\n")
    for name in (str(hosts), "gone.txt"):
        result = run("vqa", folder, "-q", "?", "--server", f"@{name}")
        assert (result.code, name in result.stderr) == (2, True)


def test_servers_of_different_models_are_not_mixed(run: Command, folder: Path, servers: list[OpenAIServer]) -> None:
    models = {"data": [{"id": "another", "owned_by": "library"}]}
    servers[1].site.pages["/v1/models"] = lambda page: say(page, 200, models)
    result = ask(run, folder, servers)
    assert (result.code, result.stdout) == (3, "")
    assert "another, and" in result.stderr
    assert "has vl" in result.stderr
    named = ask(run, folder, servers, "--model", "vl")
    assert (named.code, "has another, not vl" in named.stderr) == (3, True)


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def test_a_server_that_is_not_there_is_left_out(run: Command, folder: Path, servers: list[OpenAIServer]) -> None:
    check_all_seen(ask(run, folder, servers[:1], "--server", free_address()))
    none = run("vqa", folder, "-q", "?", "--server", free_address(), "--server", free_address())
    assert (none.code, "no server answers, of http://127" in none.stderr) == (3, True)


def test_what_a_lost_server_had_is_asked_elsewhere_and_it_comes_back(
    run: Command, folder: Path, servers: list[OpenAIServer]
) -> None:
    for server in servers:
        server.seconds = 0.05
    mortal = Mortal(servers[0], lambda body: mortal.answered > 0 and mortal.deaths == 0, 1.0)
    result = ask(run, folder, servers)
    check_all_seen(result)
    assert (result.code, mortal.deaths) == (0, 1)
    assert "went away; others get its requests" in result.stderr


def test_a_request_that_ends_servers_fails_alone(run: Command, folder: Path, servers: list[OpenAIServer]) -> None:
    number = 13
    poison = (20 + number, 10)
    for server in servers:
        Mortal(server, lambda body: is_about(body, poison), 0.2)
    result = ask(run, folder, servers)
    errors = {row["images"][0][-6:-4]: row["error"]["code"] for row in rows_of(result) if row["error"]}
    assert (result.code, errors) == (1, {"13": "worker_lost"}), result.stderr
    assert len(rows_of(result)) == 40


def is_about(body: dict[str, Any], size: tuple[int, int]) -> bool:
    from tests.backends.openai.server import look

    parts = body["messages"][0]["content"]
    return any(part["type"] == "image_url" and look(part)[1] == size for part in parts)


def test_a_run_without_servers_waits_and_then_says_how_far_it_is(
    run: Command, folder: Path, servers: list[OpenAIServer], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    calls = iter(range(1000))
    Mortal(servers[0], lambda body: next(calls) == 9, 1.5)
    given_up = ask(run, folder, servers[:1], "-o", out, "--server-wait", "0.3")
    done = len(out.read_text().splitlines())
    assert given_up.code == 3
    assert f"{done} rows are done; run the same command again to continue" in given_up.stderr
    assert 0 < done < 40
    time.sleep(1.5)
    assert ask(run, folder, servers[:1], "-o", out).code == 0
    assert len(out.read_text().splitlines()) == 40


class Relay(socketserver.ThreadingTCPServer):
    """Stands before a server, whose replies it holds back for some time, or as long as the gate is shut."""

    daemon_threads = True

    def __init__(self, server: Running, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        host, port = server.url.split("/")[2].split(":")
        self.target = host, int(port)
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Relay:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.shutdown()
        self.server_close()


class _Passage(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as beyond:
            back = threading.Thread(target=self._pass, args=(beyond, self.request, True), daemon=True)
            back.start()
            self._pass(self.request, beyond, False)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, is_held: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                if is_held:
                    time.sleep(self.server.seconds)
                    self.server.gate.wait()
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_of_three_real_servers_one_is_slow_and_one_is_killed_and_comes_back(run: Command, tmp_path: Path) -> None:
    """The rows are those of one server, but for what each took."""
    (tmp_path / "in").mkdir()
    pictures = sorted(SAMPLES.glob("*.png"))
    for number in range(60):
        (tmp_path / "in" / f"{number:02}.png").symlink_to(pictures[number % len(pictures)])
    words = ("caption", tmp_path / "in", "--model", "shapes", "--style", "chat")
    out = tmp_path / "rows.jsonl"
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(running()) for _ in range(3))
        near, slow = (stack.enter_context(Relay(one, wait)) for one, wait in ((first, 0.0), (second, 0.4)))

        def kill_third() -> None:
            wait_for(lambda: count_rows(out) >= 9)
            third.process.kill()
            wait_for(lambda: count_rows(out) >= 18)
            for relay in (near, slow):  # so that there is work left for the one that comes
                relay.gate.clear()
            port = third.url.rpartition(":")[2].removesuffix("/v1")
            again = stack.enter_context(running("--port", port, tcp=False))
            wait_for(lambda: "requests_total{" in again.ask("/metrics")[1], 60)
            for relay in (near, slow):
                relay.gate.set()

        befalls = threading.Thread(target=kill_third)
        befalls.start()
        named = [word for url in (near.url, slow.url, third.url) for word in ("--server", url)]
        result = run(*words, "--batch-size=2", *named, "-o", out)
        befalls.join()
        assert result.code == 0, result.stderr
        assert f"{third.url} went away; others get its requests" in result.stderr
        assert f"{third.url} answers again" in result.stderr
        alone = run(*words, "--server", first.url, "--format=jsonl")
        close_backends()
    assert untimed(out.read_text()) == untimed(alone.stdout)
    assert count_rows(out) == 60
