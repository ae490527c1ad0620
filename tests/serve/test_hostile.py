"""Clients that mean no good: whatever they do, others are answered, and all that they took is given back."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from idefics_cli.serve.budget import Holding, MemoryBudget, OverBudget
from idefics_cli.serve.connections import LOG_LINES, LOG_LINES_A_MINUTE, Sparse
from idefics_cli.serve.state import PARSES_AT_ONCE
from tests.program import run_program
from tests.rivals import count_rivals
from tests.serve.running import Running, chat, running, wait_for

BUDGET_BYTES = 300_000_000
HEALTH_WITHIN_SECONDS = 1.0
"""On a machine that has nothing else to do."""
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module", autouse=True)
def _files() -> None:
    """Numbers for 500 connections: some systems give 256 to begin with."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, min(most, 2048)), most))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("--max-memory-in-flight", "300MB", "--request-timeout", "60") as one:
        one.ask(CHAT, chat("Hello?"))  # what is made once is made
        yield one


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(path: str, length: int | None = None, *, host: str = "localhost", more: str = "") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode()


def read_status(client: socket.socket) -> int:
    """The status of an answer, 0 where the connection was ended instead."""
    try:
        line = client.makefile("rb").readline()
    except OSError:
        return 0
    return int(line.split()[1]) if line else 0


def resident_bytes(server: Running) -> int:
    """What the server and the processes that it has started hold."""
    count = 0
    for process in (server.process.pid, *list_children(server.process.pid)):
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{process}/status").read_text()
            count += int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024
    return count


def list_children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def in_flight_bytes(server: Running) -> int:
    return int(re.findall(r"^idefics_memory_in_flight_bytes (\d+)", server.ask("/metrics")[1], re.M)[0])


def count_files(server: Running) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


class Watch:
    """How long /health takes and how large the process becomes while something is done to it."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.slowest_seconds = 0.0
        self.most_bytes = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.is_set():
            began = time.monotonic()
            status, _ = self._server.ask("/health")
            assert status == 200
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            self.most_bytes = max(self.most_bytes, resident_bytes(self._server))
            time.sleep(0.02)


class Waiting:
    """A client that says nothing and one that stops in the middle, from the beginning of these tests on."""

    def __init__(self, server: Running) -> None:
        self._clients = connect(server), connect(server)
        self._clients[1].sendall(head(CHAT, 1000) + b"{")
        self._began = time.monotonic()
        self._pool = ThreadPoolExecutor(1)
        self.outcome = self._pool.submit(self._wait)

    def _wait(self) -> tuple[float, float, int]:
        silent, slow = self._clients
        with silent, slow:
            silent.settimeout(60)
            slow.settimeout(60)
            assert silent.recv(1) == b""
            head_seconds = time.monotonic() - self._began
            status = read_status(slow)
        return head_seconds, time.monotonic() - self._began, status


@pytest.fixture(scope="module", autouse=True)
def waiting(server: Running) -> Waiting:
    return Waiting(server)


def one_bit_png(width: int, height: int) -> bytes:
    rows = zlib.compress((b"\0" + b"\0" * ((width + 7) // 8)) * height, 9)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def large_pictures() -> bytes:
    """A small call with eight different pictures of fifty megapixels."""
    urls = [
        "data:image/png;base64," + base64.b64encode(one_bit_png(7000 + number, 7000)).decode() for number in range(8)
    ]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return json.dumps({"model": "shapes", "messages": [{"role": "user", "content": content}]}).encode()


def send_slow_heads(server: Running, count: int) -> None:
    """Connections that say a byte and no more."""
    clients = []
    for _ in range(count):
        clients.append(connect(server))
        with suppress(OSError):
            clients[-1].sendall(b"P")
    time.sleep(1)
    for client in clients:
        client.close()


def send_large_bodies(server: Running, count: int, size: int) -> list[int]:
    """Clients that send large pictures at the same time, none of which is one."""
    picture = base64.b64encode(os.urandom(1000) * (size // 4000)).decode()
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}] * 3
    body = json.dumps({"model": "shapes", "messages": [{"role": "user", "content": content}]}).encode()
    together = threading.Barrier(count)

    def send(_: int) -> int:
        with closing(connect(server)) as client:
            together.wait(30)
            try:
                client.sendall(head(CHAT, len(body)))
                client.sendall(body)
            except OSError:
                return 0
            return read_status(client)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(send, range(count)))


def hold_connections(server: Running, count: int) -> None:
    """More than the server takes from one address, each in the middle of something."""
    said = (b"", b"P", head(CHAT, 1000), head(CHAT, 1000) + b"{", head("/v1/requests") + b"5\r\n")
    clients = []
    for number in range(count):
        with suppress(OSError):
            clients.append(connect(server))
            clients[-1].sendall(said[number % len(said)])
    time.sleep(2)
    for client in clients:
        client.close()


def send_endless_bodies(server: Running, seconds: float) -> None:
    clients = [connect(server) for _ in range(4)]
    for client in clients:
        client.sendall(head("/v1/requests"))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for client in clients:
            with suppress(OSError):
                client.sendall(b"10000\r\n" + b"[" * 0x10000 + b"\r\n")
    for client in clients:
        client.close()


def vanish_while_streaming(server: Running, count: int) -> None:
    body = json.dumps(chat("Tell me a story.", stream=True, max_tokens=200)).encode()
    for _ in range(count):
        with closing(connect(server)) as client:
            client.sendall(head(CHAT, len(body)) + body)
            client.recv(10)


def send_huge_json(server: Running) -> list[int]:
    bodies = [
        json.dumps({f"k{number}": 1 for number in range(400_000)}),
        json.dumps(chat("a " * 2_500_000)),
        json.dumps({"model": "shapes", "messages": [{"role": "user", "content": [{}] * 20_000}]}),
        "[" * 1_000_000,
        '{"a": ' + "1" * 5_000_000 + "}",
        '"' + "\\u00e9" * 1_000_000 + '"',
    ]
    return [server.ask(path, body.encode())[0] for body in bodies for path in (CHAT, "/v1/requests")]


ATTACKS: dict[str, Callable[[Running], Any]] = {
    "slow heads": lambda server: send_slow_heads(server, 200),
    "large bodies": lambda server: send_large_bodies(server, 12, 12_000_000),
    "endless bodies": lambda server: send_endless_bodies(server, 1.5),
    "vanishing": lambda server: vanish_while_streaming(server, 20),
    "huge JSON": send_huge_json,
    "large pictures": lambda server: server.ask(CHAT, large_pictures()),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_others_are_answered_meanwhile_and_all_is_given_back(server: Running, name: str) -> None:
    found = attack(server, ATTACKS[name])
    if name == "huge JSON":
        assert set(found) <= {200, 400}  # an item that is none is a row
    if name == "large bodies":
        assert {400, 503} <= set(found) <= {0, 400, 503}  # who is over the budget hears so
    if name == "large pictures":
        assert (found[0], found[1]["error"]["code"]) == (503, "busy")


def attack(server: Running, do: Callable[[Running], Any]) -> Any:
    files, before = count_files(server), resident_bytes(server)
    calls = server.ask("/health")[1]["calls"]
    with Watch(server) as watch:
        found = do(server)
    assert watch.slowest_seconds < HEALTH_WITHIN_SECONDS * count_rivals()
    assert watch.most_bytes - before < BUDGET_BYTES
    wait_for(lambda: count_files(server) <= files + 2 + 2 * PARSES_AT_ONCE, 15)
    wait_for(lambda: server.ask("/health")[1]["calls"] <= calls, 15)
    wait_for(lambda: in_flight_bytes(server) <= 8, 15)  # a byte of the client that waits, four times
    assert server.ask(CHAT, chat("red-circle.png", "What is this?"))[0] == 200
    assert len(server.log.read_text().splitlines()) < 50
    return found


def test_what_waits_for_ever_has_been_ended(waiting: Waiting) -> None:
    """Heads that do not come, and bodies that do not go on."""
    head_seconds, body_seconds, status = waiting.outcome.result(60)
    assert 9 < head_seconds < 30
    assert (14 < body_seconds < 45, status) == (True, 408)


def test_five_hundred_connections(server: Running, waiting: Waiting) -> None:
    """After those that wait for ever, who would make room for them."""
    waiting.outcome.result(60)
    attack(server, lambda server: hold_connections(server, 500))


def test_a_command_may_send_more_than_all_calls_together(server: Running, tmp_path: Path) -> None:
    """What it sends counts all the same."""
    PIL.Image.new("RGB", (5200, 5200), "white").save(tmp_path / "large.png", compress_level=1)
    os.environ["IDEFICS_RUNTIME_DIR"] = str(server.folder)
    with ThreadPoolExecutor(1) as pool:
        running_command = pool.submit(
            run_program, "caption", tmp_path / "large.png", "--model", "shapes", "--format", "jsonl"
        )
        wait_for(lambda: running_command.done() or in_flight_bytes(server) > BUDGET_BYTES, 60)
        run = running_command.result()
    assert (run.code, json.loads(run.stdout)["error"]) == (0, None), run.stderr
    wait_for(lambda: in_flight_bytes(server) == 0, 15)


def test_few_file_numbers_cost_neither_health_nor_disk_and_a_server_ends_whoever_holds_on() -> None:
    with running(preexec=lambda: _limit_files(96)) as one:
        clients = []
        for _ in range(200):
            with suppress(OSError):
                clients.append(connect(one))
                clients[-1].sendall(head(CHAT, 1000) + b"{")
        for _ in range(20):
            assert one.ask("/health")[0] == 200
        assert one.ask("/health")[1]["calls"] > 0
        one.process.terminate()
        one.process.wait(10 * count_rivals())
        for client in clients:
            client.close()
        assert one.process.returncode == 0
        assert len(one.log.read_text()) < 20_000


def _limit_files(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def test_a_budget_gives_back_what_was_held_once() -> None:
    budget = MemoryBudget(100)
    with Holding(budget) as one, Holding(budget) as other:
        one.grow(60)
        with pytest.raises(OverBudget):
            other.grow(41)
        other.grow(40)
        one.close()
        one.close()
        assert budget.used_bytes == 40
        with pytest.raises(OverBudget):
            one.grow(1)
        with pytest.raises(OverBudget):
            other.grow(61, is_own=True)
    assert budget.used_bytes == 0
    with Holding(budget) as own:
        own.grow(1000, is_own=True)
        with pytest.raises(OverBudget):
            own.grow(1)
    assert budget.used_bytes == 0


def test_a_log_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    sparse = Sparse()
    record: Any = None
    assert sum(sparse.filter(record) for _ in range(100)) == LOG_LINES_A_MINUTE
    lines = 0
    for minute in range(1, 1000):
        now[0] = minute * 60.0
        lines += sum(sparse.filter(record) for _ in range(100))
    assert lines + LOG_LINES_A_MINUTE == LOG_LINES


@pytest.mark.slow
def test_ten_minutes_of_everything_at_once(server: Running) -> None:
    before = resident_bytes(server)
    end = time.monotonic() + float(os.environ.get("IDEFICS_SOAK_SECONDS", "600"))
    with Watch(server) as watch, ThreadPoolExecutor(len(ATTACKS)) as pool:

        def repeat(name: str) -> None:
            while time.monotonic() < end:
                with suppress(OSError, AssertionError):
                    ATTACKS[name](server)

        list(pool.map(repeat, ATTACKS))
    assert watch.slowest_seconds < 2 * HEALTH_WITHIN_SECONDS * count_rivals()
    assert watch.most_bytes - before < 2 * BUDGET_BYTES
    wait_for(lambda: server.ask("/health")[1]["calls"] == 0, 30)
    assert resident_bytes(server) - before < BUDGET_BYTES / 2


@pytest.mark.slow
def test_fifty_clients_with_sixty_megabytes_each() -> None:
    with running() as one:
        one.ask(CHAT, chat("Hello?"))
        before = resident_bytes(one)
        with Watch(one) as watch:
            found = send_large_bodies(one, 50, 60_000_000)
        assert set(found) <= {400, 503}
        assert watch.slowest_seconds < HEALTH_WITHIN_SECONDS * count_rivals()
        assert watch.most_bytes - before < 2_000_000_000
