"""Commands that find a running server: the same rows as without, and no trouble when it is gone or another's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.backends.daemon.backend import find_server
from idefics_cli.backends.daemon.runtime_dir import check_folder, find_folder, is_locked, make_folder
from idefics_cli.config import resolve_model
from idefics_cli.errors import UsageError
from idefics_cli.serve.daemon_routes import describe_difference
from idefics_cli.values import ModelSpec
from tests.program import Run, run_program
from tests.serve.running import (
    PROGRAM,
    ROOT,
    SAMPLES,
    Running,
    leave_dead_socket,
    running,
    wait_for,
)
from tests.shapes.test_truth import CAPTIONS

MODEL = ("--model", "shapes")
SPEC = ModelSpec(resolve_model("shapes").checkpoint)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(tcp=False) as one:
        yield one


@pytest.fixture
def meeting(server: Running) -> Running:
    """The server, where the program looks for it."""
    os.environ["IDEFICS_RUNTIME_DIR"] = str(server.folder)
    return server


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [*PROGRAM, *map(str, arguments), *MODEL]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def rows_of(run: Run) -> list[dict[str, Any]]:
    """Rows without what differs from run to run; likelihoods as exact as batches of other sizes leave them."""
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    for row in rows:
        del row["seconds"], row["usage"]["shared_tokens"]
        for score in row["scores"] or ():
            score["logprob"] = round(score["logprob"], 3)
            score["probability"] = round(score["probability"], 3)
    return rows


@pytest.fixture
def items(tmp_path: Path) -> Path:
    shutil.copy(SAMPLES / "red-circle.png", tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    lines = [
        {"id": "1", "task": "caption", "image": "a.png", "temperature": 2.0, "seed": 7},
        {"id": "2", "task": "vqa", "image": "a.png", "question": "How many <image>?"},
        {"id": "3", "task": "caption", "image": "broken.png"},
        {"id": "4", "task": "classify", "image": "a.png", "labels": ["star", "circle"], "normalize": "pmi"},
        {"id": "5", "task": "vqa"},
        {"id": "6", "task": "classify", "image": "a.png", "labels": ["x", "y"], "generate": True},
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("caption", SAMPLES, "--batch-size", "2"),
        ("vqa", SAMPLES / "two-shapes.jpg", "-q", "What colour is the square?", "-q", "Is there a star?"),
        ("classify", SAMPLES / "blue-star.png", "--labels", "circle,square,star", "--top", "2"),
        ("run", "describe", SAMPLES / "red-circle.png", "--examples", SAMPLES / "examples.yaml"),
        ("run", "dialogue", SAMPLES / "blue-star.png", "--style", "chat", "--set", "message=What is this?"),
        ("caption", ROOT / "tests", SAMPLES / "no-such.png", SAMPLES / "blank.png", "--full-text"),
    ],
    ids=["folder", "questions", "ranking", "shots", "chat", "full text and failures"],
)
def test_rows_are_the_same_as_without_a_server(meeting: Running, arguments: tuple[str | Path, ...]) -> None:
    warm, cold = (run_program(*arguments, *MODEL, "--format", "jsonl", *more) for more in ((), ("--no-server",)))
    assert rows_of(warm) == rows_of(cold)
    assert warm.code == cold.code
    assert warm.stderr.partition(", in ")[0] == cold.stderr.partition(", in ")[0]


def test_batches_fail_in_the_same_lines_and_resume_the_same(meeting: Running, items: Path) -> None:
    warm, cold = (run_program("batch", items, *MODEL, *more) for more in ((), ("--no-server",)))
    assert rows_of(warm) == rows_of(cold)
    assert [row["error"] and row["error"]["code"] for row in rows_of(warm)] == [
        *(None, "special_token", "not_an_image", None, "bad_item", "no_label")
    ]
    out = items.parent / "out.jsonl"
    for more, answered in (((), 2), (("--no-server", "--existing", "retry-errors"), 2)):
        assert run_program("batch", items, *MODEL, "-o", out, *more).code == 1
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert len([row for row in rows if row["error"] is None]) == answered
        assert len(rows) == 6


def test_nothing_heavy_is_imported(meeting: Running) -> None:
    program = (
        "import sys; from idefics_cli.cli.app import execute; code = execute(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'numpy', 'httpx2', 'uvicorn', 'starlette', 'asyncio'} & set(sys.modules);"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    command = [sys.executable, "-c", program, "caption", str(SAMPLES / "red-circle.png"), *MODEL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "A red circle on a white background.\n"), done.stderr


def test_an_answer_is_streamed_through_it(meeting: Running) -> None:
    result = run_program("caption", SAMPLES / "blue-star.png", *MODEL, "--stream", "--verbose")
    assert result.stdout == CAPTIONS["blue-star.png"] + "\n"
    assert f"answered by the server, process {meeting.process.pid}" in result.stderr


def test_a_dry_run_asks_it_for_the_prompt(meeting: Running) -> None:
    warm, cold = (
        run_program("vqa", SAMPLES / "red-circle.png", "-q", "Why?", *MODEL, "--dry-run", *more)
        for more in ((), ("--no-server",))
    )
    assert (warm.stdout, warm.stderr, warm.code) == (cold.stdout, cold.stderr, 0)


def test_a_photo_is_doubted_the_same(meeting: Running, tmp_path: Path) -> None:
    import numpy
    import PIL.Image

    noise = numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=numpy.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "noise.png")
    warm, cold = (run_program("caption", tmp_path / "noise.png", *MODEL, *more) for more in ((), ("--no-server",)))
    assert "does not look like a plain scene" in warm.stderr
    assert (warm.stdout, warm.stderr) == (cold.stdout, cold.stderr)


def test_a_server_with_another_model_is_passed_over_with_a_note(meeting: Running) -> None:
    search = find_server(ModelSpec(SPEC.checkpoint, dtype="bfloat16"))
    assert (search.backend, search.is_alive) == (None, True)
    assert search.reason == "the running server has the model shapes loaded with another dtype"
    assert find_server(ModelSpec("org/model")).reason == "the running server has the model shapes loaded"
    result = run_program("caption", SAMPLES / "red-circle.png", *MODEL, "--dtype", "float32")
    assert result.stdout == CAPTIONS["red-circle.png"] + "\n"
    assert result.stderr.startswith("idefics: the running server has the model shapes loaded with another dtype; ")


def test_without_a_name_the_running_model_answers_and_is_named(meeting: Running) -> None:
    result = run_program("caption", SAMPLES / "red-circle.png")
    assert (result.code, result.stdout) == (0, CAPTIONS["red-circle.png"] + "\n")
    assert result.stderr == "idefics: using shapes, which the running server has (--model names another)\n"


def test_another_name_is_told_which_model_runs(meeting: Running, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(SPEC.checkpoint, other)
    result = run_program("caption", SAMPLES / "red-circle.png", "--model", other)
    assert (result.code, result.stdout) == (0, CAPTIONS["red-circle.png"] + "\n")
    assert "the running server has the model shapes loaded; loading the model here\n" in result.stderr


def test_changed_files_are_another_model() -> None:
    own: dict[str, Any] = {"checkpoint": "/a", "dtype": "auto", "content": [["model.safetensors", 3, 4]]}
    assert describe_difference(own, own) == ""
    changed = own | {"content": [["model.safetensors", 3, 5]]}
    assert describe_difference(own, changed) == "loaded from files that have since changed"


def test_a_server_of_another_version_is_passed_over_with_a_note() -> None:
    program = "import idefics_cli; idefics_cli.__version__ = '9.9'\nfrom idefics_cli.cli.app import main; main()"
    folder = make_folder()
    command = [sys.executable, "-c", program, "serve", *MODEL]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: (folder / "server.sock").exists())
            search = find_server(SPEC)
            assert search.reason == "the running server is of another version (9.9)"
            assert search.is_alive
        finally:
            process.terminate()


def test_a_dead_socket_is_passed_over_with_a_note() -> None:
    leave_dead_socket(make_folder())  # every server of these tests begins where one is, too
    result = run_program("caption", SAMPLES / "red-circle.png", *MODEL)
    assert result.stdout == CAPTIONS["red-circle.png"] + "\n"
    assert result.stderr == ("idefics: a server ended and left its socket behind; loading the model here\n")


def test_keep_alive_starts_one_server_however_many_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(os.environ["IDEFICS_RUNTIME_DIR"]).parent)
    monkeypatch.setenv("IDEFICS_RUNTIME_DIR", Path(os.environ["IDEFICS_RUNTIME_DIR"]).name)
    secrets = ("HF_TOKEN", "IDEFICS_API_KEY", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL")
    for name in secrets:
        monkeypatch.setenv(name, "told-to-nobody")
    monkeypatch.setenv("IDEFICS_PORT", "0")
    commands = [start("caption", SAMPLES / name, "--keep-alive", "1h") for name in ("red-circle.png", "blue-star.png")]
    said = [command.communicate(timeout=600) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    assert [out for out, _ in said] == [CAPTIONS[name] + "\n" for name in ("red-circle.png", "blue-star.png")]
    log = (find_folder() / "server.log").read_text()
    assert log.count("serving shapes") == 1, log
    status = run_program("serve", "--status")
    assert re.search(r"^keep alive\t1 h 0 min$", status.stdout, re.MULTILINE)
    pid = int(re.findall(r"^pid\t(\d+)$", status.stdout, re.MULTILINE)[0])
    again = run_program("caption", SAMPLES / "red-circle.png", *MODEL, "--verbose")
    assert f"process {pid}" in again.stderr
    if Path("/proc/self/environ").exists():
        assert "told-to-nobody" not in Path(f"/proc/{pid}/environ").read_text()
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert "http://" not in status.stdout + log
    second = run_program("serve", *MODEL)
    assert (second.code, "running already" in second.stderr) == (2, True)
    stopped = run_program("serve", "--stop")
    assert (stopped.code, stopped.stderr) == (0, "idefics: the server with shapes has ended\n")
    assert not is_locked(find_folder())
    for option in ("--status", "--stop"):
        nothing = run_program("serve", option)
        assert (nothing.code, "no server is running" in nothing.stderr) == (4, True)


def test_of_two_servers_in_the_background_one_is_told_that_there_is_one() -> None:
    """Begun together, with other ports: who is not the one that serves has not got what was asked for."""
    commands = [start("serve", "--background", "--port", "0", "--api-key", key) for key in ("one", "other")]
    said = [command.communicate(timeout=600) for command in commands]
    try:
        assert sorted(command.returncode for command in commands) == [0, 2], said
        (told,) = (err for command, (_, err) in zip(commands, said, strict=True) if command.returncode)
        assert (len(told.splitlines()), "running already" in told) == (1, True)
        third = run_program("serve", "--background", *MODEL)
        assert (third.code, "running already" in third.stderr) == (2, True)
    finally:
        run_program("serve", "--stop")


def test_keep_alive_of_nothing_ends_it_after_the_command() -> None:
    with running(tcp=False) as server:
        os.environ["IDEFICS_RUNTIME_DIR"] = str(server.folder)
        backend = find_server(SPEC, keep_alive_seconds=0).backend
        assert backend is not None
        time.sleep(0.5)
        assert server.process.poll() is None  # a command is still under way
        backend.close()
        assert server.process.wait(60) == 0
        assert not (server.folder / "server.sock").exists()
        result = run_program("caption", SAMPLES / "red-circle.png", *MODEL, "--keep-alive", "0")
        assert (result.stdout, result.stderr) == (CAPTIONS["red-circle.png"] + "\n", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_whose_server_ends_says_so_and_goes_on_later(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "in").mkdir()
    for index in range(60):
        (tmp_path / "in" / f"{index:03}.png").symlink_to(SAMPLES / "red-circle.png")
    out = tmp_path / "out.jsonl"
    command = ("caption", tmp_path / "in", "-o", out)
    with running(tcp=False) as server:
        os.environ["IDEFICS_RUNTIME_DIR"] = str(server.folder)
        process = start(*command, "--batch-size", "1")
        wait_for(lambda: out.exists() and out.stat().st_size)
        server.process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "run the same command again; with --output it goes on with what is there" in err
    assert "Traceback" not in err
    before = out.read_text().splitlines()
    assert 0 < len(before) < 60
    assert all(json.loads(line)["error"] is None for line in before)
    assert run_program(*command, *MODEL, "--quiet").code == 0
    after = out.read_text().splitlines()
    assert (after[: len(before)], len(after)) == (before, 60)


def test_nobody_else_is_trusted_or_let_in(meeting: Running) -> None:
    assert (server_mode := (meeting.folder / "server.sock").stat().st_mode & 0o777) == 0o600, server_mode
    assert meeting.folder.stat().st_mode & 0o777 == 0o700
    meeting.folder.chmod(0o755)
    try:
        with pytest.raises(UsageError, match="chmod 700"):
            check_folder(meeting.folder)
        search = find_server(SPEC)
        assert (search.backend, "open to other users" in search.reason) == (None, True)
        assert run_program("serve", *MODEL).code == 2
    finally:
        meeting.folder.chmod(0o700)


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.environ["IDEFICS_RUNTIME_DIR"] = str(tmp_path / "link")
    with pytest.raises(UsageError, match="not a folder of yours"):
        make_folder()
    if os.geteuid() == 0:
        os.chown(tmp_path / "mine", 12345, -1)
        with pytest.raises(UsageError, match="not a folder of yours"):
            check_folder(tmp_path / "mine")
    os.environ["IDEFICS_RUNTIME_DIR"] = "/tmp/" + "x" * 100
    with pytest.raises(UsageError, match="too long"):
        make_folder()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("2 D", 172800.0),
        ("forever", None),
    ],
)
def test_durations(given: str, seconds: float | None) -> None:
    from idefics_cli.cli.options import ModelOptions
    from idefics_cli.cli.resolve import resolve

    settings = resolve(ModelOptions(keep_alive=given))
    assert settings.keep_alive_seconds == (float("inf") if seconds is None else seconds)


@pytest.mark.parametrize("given", ["", "soon", "-1", "5 minutes", "1e3", "inf", "nan"])
def test_no_durations(given: str) -> None:
    result = run_program("caption", SAMPLES / "red-circle.png", *MODEL, f"--keep-alive={given}")
    assert (result.code, "is not a duration" in result.stderr) == (2, True)
