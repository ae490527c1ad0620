"""A server with worker processes: they share the work, one is killed, and no client notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.backends.pool.test_processes import is_running, untimed
from tests.program import Run
from tests.serve.running import PROGRAM, ROOT, SAMPLES, Running, chat, data_url, running, wait_for
from tests.shapes.test_truth import CAPTIONS

NAMES = ("red-circle.png", "blue-star.png", "green-triangle.png")
LONG = chat(NAMES[0], "What is in this image?", temperature=50.0, seed=5, max_tokens=900)
"""Takes 695 tokens, some seconds, and is written the same each time."""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("--workers", "2") as one:
        yield one


def list_workers(server: Running) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = server.ask("/health")[1]["workers"]
    return workers


def wait_until_ready(server: Running) -> None:
    wait_for(lambda: all(one["status"] == "ready" for one in list_workers(server)), 120)


def count_seconds(pid: int) -> float:
    """CPU seconds of a process."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def find_busy(server: Running) -> int | None:
    """The worker that is busy now."""
    before = {one["pid"]: count_seconds(one["pid"]) for one in list_workers(server) if one["status"] == "ready"}
    time.sleep(0.2)
    return next((pid for pid, seconds in before.items() if count_seconds(pid) > seconds + 0.03), None)


def stream(server: Running, body: dict[str, Any], on_piece: Callable[[int], None]) -> str:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client:
        pieces: list[str] = []
        for event in client.chat.completions.create(**body, stream=True):
            pieces += [choice.delta.content for choice in event.choices if choice.delta.content]
            on_piece(len(pieces))
        return "".join(pieces)


def test_rows_are_those_of_a_command_and_the_status_names_the_workers(
    server: Running, run: Callable[..., Run], tmp_path: Path
) -> None:
    pictures = sorted(SAMPLES.glob("*.png")) * 3
    lines = "".join(json.dumps({"task": "caption", "image": str(one)}) + "\n" for one in pictures)
    (tmp_path / "items.jsonl").write_text(lines)
    words = ("batch", str(tmp_path / "items.jsonl"), "--model", "shapes", "-o")
    environment = {**os.environ, "IDEFICS_RUNTIME_DIR": str(server.folder), "OMP_NUM_THREADS": "1"}
    subprocess.run([*PROGRAM, *words, str(tmp_path / "served.jsonl")], cwd=ROOT, env=environment, check=True)
    assert run(*words, tmp_path / "alone.jsonl").code == 0
    assert untimed((tmp_path / "served.jsonl").read_text()) == untimed((tmp_path / "alone.jsonl").read_text())
    status = subprocess.run(
        [*PROGRAM, "serve", "--status"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    first, second = list_workers(server)
    assert f"workers\tcpu 1 (process {first['pid']}, ready), cpu 2 (process {second['pid']}, ready)\n" in status
    told = server.ask("/metrics")[1]
    assert 'idefics_workers{status="ready"} 2\n' in told
    assert f'idefics_requests_total{{outcome="answered"}} {len(pictures)}\n' in told
    assert f"idefics_requests_at_once_count {len(pictures)}\n" in told
    assert "idefics_memory_in_flight_bytes 0\n" in told
    assert min(count_seconds(one["pid"]) for one in (first, second)) > 1


def test_an_answer_goes_on_where_its_worker_was_killed(server: Running) -> None:
    whole = stream(server, LONG, lambda count: None)
    killed: list[int] = []

    def kill(count: int) -> None:
        if count == 30:
            killed.append(wait_for(lambda: find_busy(server), 60))
            os.kill(killed[0], signal.SIGKILL)

    assert stream(server, LONG, kill) == whole
    assert "went away; others get its requests" in server.log.read_text()
    wait_until_ready(server)
    assert killed[0] not in [one["pid"] for one in list_workers(server)]


@pytest.mark.slow
def test_no_call_fails_while_a_worker_is_killed(server: Running) -> None:
    wait_until_ready(server)
    items = [{"task": "caption", "image": data_url(name)} for name in NAMES]

    def ask(number: int) -> tuple[int, str]:
        if number == 20:
            os.kill(list_workers(server)[0]["pid"], signal.SIGKILL)
        status, row = server.ask("/v1/requests", items[number % 3])
        return status, row["text"]

    with ThreadPoolExecutor(8) as clients:
        said = list(clients.map(ask, range(60)))
    assert said == [(200, CAPTIONS[NAMES[number % 3]]) for number in range(60)]
    wait_until_ready(server)


def test_a_client_that_hangs_up_is_no_concern_of_a_worker(server: Running) -> None:
    wait_until_ready(server)
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client:
        events = client.chat.completions.create(**LONG, stream=True)
        next(events)
        events.close()
    wait_for(lambda: server.ask("/health")[1]["calls"] == 0, 5)
    pids = [one["pid"] for one in list_workers(server)]
    time.sleep(0.3)
    before = list(map(count_seconds, pids))
    time.sleep(0.5)
    assert list(map(count_seconds, pids)) == pytest.approx(before, abs=0.1)
    assert "went away" not in server.log.read_text().splitlines()[-1]


@pytest.mark.slow
def test_a_request_that_ends_workers_fails_alone(server: Running) -> None:
    wait_until_ready(server)
    over: list[Exception] = []

    def ask() -> None:
        try:
            stream(server, LONG, lambda count: None)
        except openai.APIError as error:
            over.append(error)

    client = threading.Thread(target=ask)
    client.start()
    while client.is_alive():
        if (pid := find_busy(server)) is not None:
            os.kill(pid, signal.SIGKILL)
    assert "3 workers went away while they had this request" in str(over[0])
    wait_until_ready(server)
    status, row = server.ask("/v1/requests", {"task": "caption", "image": data_url(NAMES[0])})
    assert (status, row["text"]) == (200, CAPTIONS[NAMES[0]])


def test_work_in_hand_is_finished_and_no_worker_stays_behind(server: Running) -> None:
    wait_until_ready(server)
    pids = [one["pid"] for one in list_workers(server)]
    found: list[str] = []
    client = threading.Thread(target=lambda: found.append(stream(server, LONG, lambda count: None)))
    client.start()
    wait_for(lambda: server.ask("/health")[1]["calls"] == 1, 60)
    for pid in (server.process.pid, *pids):  # as a service manager does it
        os.kill(pid, signal.SIGTERM)
    client.join(60)
    assert len(found[0]) > 500
    assert server.process.wait(30) == 0
    wait_for(lambda: not any(map(is_running, pids)), 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", "0"), "--workers 0 is neither auto nor a number of 1 to 64"),
        (("--workers", "two"), "--workers two is neither auto"),
        (("--workers", "2", "--device", "cuda:1"), "--workers and --device cuda:1 cannot be combined"),
        (("--workers", "2", "--max-memory", "cpu=8GiB"), "--workers and --max-memory cannot be combined"),
    ],
)
def test_what_cannot_be_meant_is_told(run: Callable[..., Run], words: tuple[str, ...], said: str) -> None:
    result = run("serve", "--model", "shapes", *words)
    assert (result.code, said in result.stderr) == (2, True), result.stderr
