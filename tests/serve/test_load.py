"""How fast it is, and that it stays as it is: measured, so slow (`make soak`) and best on an idle machine."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from idefics_cli.serve.state import REST_SECONDS
from tests.serve.running import PROGRAM, ROOT, SAMPLES, Running, data_url, running
from tests.shapes.test_truth import CAPTIONS

pytestmark = pytest.mark.slow

NAMES = ("red-circle.png", "blue-star.png", "green-triangle.png", "blank.png")
ITEMS = {name: {"task": "caption", "image": data_url(name)} for name in NAMES}


@pytest.fixture
def server() -> Iterator[Running]:
    with running() as one:
        yield one


def tell(line: str) -> None:
    """Figures for who runs this with -s."""
    sys.stderr.write(f"\n{line}\n")


def ask(server: Running, number: int) -> None:
    name = NAMES[number % len(NAMES)]
    status, row = server.ask("/v1/requests", ITEMS[name])
    assert (status, row["text"]) == (200, CAPTIONS[name])


def time_calls(server: Running, count: int, clients: int) -> float:
    """Calls a second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda number: ask(server, number), range(count)))
    return count / (time.perf_counter() - began)


def test_clients_together_are_answered_three_times_as_fast(server: Running) -> None:
    time_calls(server, 64, 32)
    one, many = time_calls(server, 60, 1), time_calls(server, 640, 32)
    told = server.ask("/metrics")[1]
    sizes = [float(re.findall(rf"^idefics_requests_at_once_{name} (\d+)", told, re.M)[0]) for name in ("sum", "count")]
    tell(f"{one:.1f} calls/s alone, {many:.1f} with 32 clients, {sizes[0] / sizes[1]:.1f} at once")
    assert many >= 3 * one


def test_ten_thousand_calls_leave_no_trace(server: Running) -> None:
    def resident_bytes() -> float:
        time.sleep(2 * REST_SECONDS)
        return float(re.findall(r'memory="resident"} (\S+)', server.ask("/metrics")[1])[0])

    time_calls(server, 500, 32)
    before = resident_bytes()
    rate = time_calls(server, 9500, 32)
    more = (resident_bytes() - before) / 1e6
    tell(f"9,500 calls at {rate:.1f} a second, {more:.1f} MB more")
    assert more <= 50
    assert 'outcome="answered"} 10000\n' in server.ask("/metrics")[1]


def test_a_warm_command_is_fast(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its bytecode on disk, as after the first run of an installed program."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    command = [*PROGRAM, "caption", str(SAMPLES / "red-circle.png"), "--model", "shapes"]

    def seconds(*more: str) -> float:
        began = time.perf_counter()
        done = subprocess.run(
            [*command, *more],
            cwd=ROOT,
            env={**os.environ, "IDEFICS_RUNTIME_DIR": str(server.folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == CAPTIONS["red-circle.png"] + "\n"
        return time.perf_counter() - began

    warm = [seconds() for _ in range(8)][1:]
    cold = [seconds("--no-server") for _ in range(4)][1:]
    tell(f"warm {statistics.median(warm):.2f} s, cold {statistics.median(cold):.2f} s")
    assert statistics.median(warm) <= 0.4
    assert statistics.median(cold) >= 6 * statistics.median(warm)
