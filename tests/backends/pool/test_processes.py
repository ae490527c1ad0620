"""Processes of this machine that share a command's work: one is killed, the command itself is killed, and resumed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import psutil
import pytest

from idefics_cli.backends import Workers
from idefics_cli.cli.workers import choose_served, read_devices
from idefics_cli.errors import UsageError
from idefics_cli.values import ModelSpec
from tests.cards import install_cards
from tests.program import Run
from tests.serve.running import PROGRAM, SAMPLES, wait_for
from tests.site import Page, open_site

Command = Callable[..., Run]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    pictures = sorted(SAMPLES.glob("*.png"))
    for number in range(60):
        (tmp_path / "in" / f"{number:02}.png").symlink_to(pictures[number % len(pictures)])
    (tmp_path / "in" / "33.png").unlink()
    (tmp_path / "in" / "33.png").write_bytes(b"no picture")
    return tmp_path / "in"


def list_children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def count_rows(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def untimed(text: str) -> list[dict[str, Any]]:
    """Rows as they do not depend on what had been asked before, nor with what: the last digits of a sum do."""
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        del row["seconds"], row["usage"]["shared_tokens"]
        if row["confidence"] is not None:
            row["confidence"] = {key: one and round(one, 2) for key, one in row["confidence"].items()}
    return rows


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_workers_and_the_command_itself_are_killed_and_every_row_is_there_once(
    run: Command, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    words = ("caption", str(folder), "--model", "shapes", "--batch-size", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*PROGRAM, *words, "--devices", "cpu:2", "-o", str(out)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as program:
        wait_for(lambda: count_rows(out) >= 4)
        workers = list_children(program.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        done = count_rows(out)
        wait_for(lambda: count_rows(out) >= min(done + 8, 50))
        workers = list_children(program.pid)
        program.kill()
        program.wait()
        assert program.stderr is not None
        assert "the worker on cpu 1 went away; others get its requests" in program.stderr.read()
        wait_for(lambda: not any(map(is_running, workers)), seconds=60)
    assert count_rows(out) < 60
    resumed = run(*words, "--devices", "cpu:1", "-o", out)
    assert resumed.code == 1, resumed.stderr
    alone = run(*words, "--format=jsonl")
    assert untimed(out.read_text()) == untimed(alone.stdout)
    assert [json.loads(line)["error"]["code"] for line in out.read_text().splitlines()[33:34]] == ["not_an_image"]


def test_workers_fetch_addresses_themselves_and_decode_as_they_are_told(run: Command, tmp_path: Path) -> None:
    photo = io.BytesIO()
    PIL.Image.new("RGB", (1600, 1200), "white").save(photo, "JPEG")
    askers: list[int] = []

    def answer(page: Page) -> None:
        askers.extend(find_owner(page.client_address[1]))
        page.answer(200, {"Content-Length": str(len(photo.getvalue()))}, photo.getvalue())

    with open_site() as site:
        site.pages["/photo.jpg"] = answer
        items = [{"task": "caption", "image": site.url(f"/{name}.jpg")} for name in ("photo", "photo", "none")]
        (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        site.serve("/none.jpg", (404, {}, b""))
        words = ("batch", tmp_path / "items.jsonl", "--model", "shapes", "--fast-decode")
        result = run(*words, "--devices", "cpu:1", "-o", tmp_path / "rows.jsonl")
    assert len(askers) == 1, "an address is fetched once for the items that show it"
    assert askers[0] != os.getpid()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (result.code, [row["error"] and row["error"]["code"] for row in rows]) == (
        1,
        [None, None, "fetch_failed"],
    )
    for row in rows[:2]:
        assert any("of its size, as --fast-decode allows" in warning for warning in row["warnings"]), row
        assert row["content"][0]["bytes"] == len(photo.getvalue())
    assert "changes nothing" not in result.stderr


def find_owner(port: int) -> list[int]:
    """The processes, of this one and its children, that have a connection from this port."""
    own = psutil.Process()
    return [
        process.pid
        for process in (own, *own.children())
        if any(one.laddr.port == port for one in process.net_connections("tcp"))
    ]


@pytest.fixture
def two_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_cards(tmp_path, monkeypatch)


@pytest.mark.usefixtures("two_cards")
def test_cards_are_found_by_their_numbers() -> None:
    assert read_devices("all") == read_devices("0,1") == ("cuda:0", "cuda:1")
    assert read_devices("cuda:1") == read_devices("1") == ("cuda:1",)
    for text, said in (
        ("0,7", "there is no cuda:7; there are cuda:0, cuda:1"),
        ("1,1", "names a GPU twice"),
    ):
        with pytest.raises(UsageError, match=said):
            read_devices(text)


@pytest.mark.usefixtures("two_cards")
def test_a_server_has_a_worker_for_each_card_unless_it_is_told_otherwise() -> None:
    spec, on_cpu = ModelSpec("shapes"), ModelSpec("shapes", device="cpu")
    assert choose_served("auto", spec) == choose_served("2", spec) == Workers(devices=("cuda:0", "cuda:1"))
    assert choose_served("3", on_cpu) == Workers(devices=("cpu", "cpu", "cpu"))
    assert choose_served("auto", on_cpu) == choose_served("1", spec) == Workers()
    with pytest.raises(UsageError, match="there are 2 GPUs here; write auto"):
        choose_served("3", spec)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", "0"), "no GPU is found here; write cpu:2"),
        (("--devices", "all"), "no GPU is found here"),
        (("--devices", "cpu:0"), "is not 1 to 64 processes"),
        (("--devices", "first"), "names no devices"),
        (("--devices", "cpu:2", "--device", "cpu"), "--devices and --device cannot be combined"),
        (
            ("--devices", "cpu:2", "--server", "http://localhost:1"),
            "--devices and --server cannot be combined",
        ),
    ],
)
def test_what_cannot_be_meant_is_told(
    run: Command, red_circle: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no nvidia-smi
    result = run("caption", red_circle, "--model", "shapes", *words)
    assert (result.code, said in result.stderr) == (2, True), result.stderr


def test_a_model_that_cannot_be_loaded_ends_the_run_in_its_own_words(
    run: Command, red_circle: Path, two_images: tuple[Path, Path]
) -> None:
    result = run("caption", red_circle, *two_images, "--model", "shapes", "--dtype", "float16", "--devices", "cpu:1")
    assert result.code == 3
    assert result.stderr.count("\n") == 1, result.stderr
    assert "float16 overflows in idefics" in result.stderr
