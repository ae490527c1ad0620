"""Going on: after an end of any kind every item has one row, as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from idefics_cli.errors import AnswerError, ItemError, ModelError
from idefics_cli.values import Request
from tests.program import Run
from tests.scripted import ScriptedBackend
from tests.scripted_program import ROOT

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(60):
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / "in" / f"{number:02}.png")
    for number in (7, 33):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(b"broken")
    return tmp_path / "in"


def parse(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def caption(run: Program, folder: Path, *more: str | Path, backend: ScriptedBackend | None = None) -> Run:
    return run("caption", folder, *MODEL, *more, backend=backend or ScriptedBackend())


def test_the_same_command_again_does_nothing_twice(run: Program, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    first = caption(run, folder, "-o", out)
    assert (first.code, first.stdout, len(parse(out))) == (1, "", 60)
    before = out.read_bytes()
    backend = ScriptedBackend()
    again = caption(run, folder, "-o", out, backend=backend)
    assert (again.code, out.read_bytes(), backend.batch_size) == (1, before, 0)  # not even a model was opened
    assert "58 done before, 2 failed before (2 not images; --existing retry-errors tries them again)" in again.stderr
    PIL.Image.new("RGB", (8, 8)).save(folder / "99.png")
    assert caption(run, folder, "-o", out, backend=backend).code == 1
    assert [Path(request.images[0]).name for request in backend.requests] == ["99.png"]


def test_only_failed_ones_are_made_again(run: Program, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    caption(run, folder, "-o", out)
    PIL.Image.new("RGB", (8, 8)).save(folder / "07.png")
    backend = ScriptedBackend(" new")
    retried = caption(run, folder, "-o", out, "--existing", "retry-errors", backend=backend)
    assert (retried.code, len(backend.requests)) == (1, 1)
    rows = parse(out)
    assert len({row["id"] for row in rows}) == len(rows) == 60
    assert [(Path(row["id"]).name, row["text"]) for row in rows[-2:]] == [("07.png", "new"), ("33.png", None)]


def test_overwriting_waits_for_a_successful_start(run: Program, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    caption(run, folder, "-o", out)
    before = out.read_bytes()

    seen = []

    def broken(request: Request) -> str:
        seen.append(out.read_bytes())
        raise ModelError("the model cannot be run")

    ended = caption(run, folder, "-o", out, "--existing", "overwrite", backend=ScriptedBackend(broken))
    assert ended.code == 3
    assert [*seen, out.read_bytes()] == [before, before]
    caption(run, folder, "-o", out, "--existing", "overwrite", backend=ScriptedBackend(" new"))
    assert {row["text"] for row in parse(out)} == {"new", None}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("caption", "in", "--model", "idefics2"), 'model "idefics-9b", which is now "idefics2"'),
        (("vqa", "in", "-q", "a?", *MODEL), 'task "caption", which is now "vqa"'),
        (("run", "alt-text", "in", *MODEL), 'task "caption", which is now "run"'),
        (("caption", "in", *MODEL, "--prompt", "A"), "was made without --prompt"),
        (("caption", "in", *MODEL, "--num-beams", "2"), "decoding"),
        (("caption", "in", *MODEL, "--4bit"), "options of the model"),
        (("caption", "in", *MODEL, "--examples", "shots.yaml"), "shots"),
        (("batch", "items.jsonl", *MODEL), "another command"),
    ],
)
def test_rows_of_another_kind_are_not_mixed(
    run: Program,
    folder: Path,
    tmp_path: Path,
    command: tuple[str, ...],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shots.yaml").write_text("- {image: in/00.png, answer: x}\n")
    Path("items.jsonl").write_text('{"task": "caption", "image": "in/00.png"}\n')
    caption(run, Path("in"), "-o", "out.jsonl")
    before = Path("out.jsonl").read_bytes()
    refused = run(*command, "-o", "out.jsonl", backend=ScriptedBackend())
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1)
    assert reason in refused.stderr
    assert "--existing overwrite" in refused.stderr
    assert Path("out.jsonl").read_bytes() == before


ROW = '{"id": "a", "images": ["a"], "task": "caption", "text": "x", "key": "%s", "error": %s}'
FOREIGN = {
    "one line": b"some notes",
    "one line of JSON": b'{"id": "a", "name": "cat"}',
    "a piece of JSON": b'{"id": "a", "name": "c',
    "a piece of another row": b'{"id": "a\\"b", "prompt": "c',
    "nested deep": b"[" * 100_000,
    "nested deep, with a line end": b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "nested deep as a last row": b'{"id": ["' + b"[" * 100_000,
    "error is a word": (ROW % ("{run}-0123456789abcdef", '"boom"')).encode(),
    "error says nothing": (ROW % ("{run}-0123456789abcdef", "{}")).encode() + b"\n",
    "key is a number": b'{"id": "a", "images": [], "task": "caption", "text": "x", "key": 7, "error": null}\n',
    "text is a list": (ROW % ("{run}-0123456789abcdef", "null")).replace('"x"', "[1]").encode(),
    "images are none": (ROW % ("{run}-0123456789abcdef", "null")).replace('["a"]', "7").encode(),
    "zeros": bytes(100_000),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(5000),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("begins", ["", "with rows of this run"])
def test_a_foreign_file_is_left_as_it_is(run: Program, folder: Path, tmp_path: Path, kind: str, begins: str) -> None:
    """Whatever it ends with: nothing is repaired before every row has been read as one of this run."""
    out = tmp_path / "out.jsonl"
    caption(run, folder / "00.png", "-o", out)
    rows = out.read_bytes()
    content = FOREIGN[kind].replace(b"{run}", parse(out)[0]["key"].partition("-")[0].encode())
    out.write_bytes(rows + content if begins else content)
    before = out.read_bytes()
    if begins and kind == "zeros":
        pytest.skip("what a crash leaves behind whole rows")
    for existing in ("resume", "retry-errors"):
        refused = caption(run, folder, "-o", out, "--sidecar", "txt", "--existing", existing)
        assert (refused.code, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
        assert "out.jsonl" in refused.stderr
        assert out.read_bytes() == before
    assert not list(folder.glob("*.txt"))


def test_rows_from_elsewhere_have_nothing_written_beside_what_was_not_asked(
    run: Program, folder: Path, tmp_path: Path
) -> None:
    """A row of this run's digest about a file that is no item of it."""
    out, other = tmp_path / "out.jsonl", tmp_path / "authorized.png"
    other.write_bytes(b"")
    caption(run, folder / "00.png", "-o", out)
    row = parse(out)[0] | {"id": str(other), "images": [str(other)], "text": "ssh-rsa mine"}
    out.write_text(json.dumps(row | {"key": row["key"][:9] + "0" * 16}) + "\n")
    assert caption(run, folder / "00.png", "-o", out, "--sidecar", "txt").code == 0
    assert not other.with_suffix(".txt").exists()
    assert (folder / "00.txt").exists()


def test_more_questions_may_join(run: Program, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    backend = ScriptedBackend()
    for questions in (["-q", "a?"], ["-q", "a?", "-q", "b?"]):
        run("vqa", folder / "00.png", *questions, *MODEL, "-o", out, backend=backend)
    assert [row["fields"]["question"] for row in parse(out)] == ["a?", "b?"]


def test_order_is_kept_unless_it_need_not_be(run: Program, folder: Path, tmp_path: Path) -> None:
    for more in ((), ("--unordered",)):
        out = tmp_path / f"out{len(more)}.jsonl"
        caption(run, folder, "-o", out, *more)
        found = [Path(row["id"]).name for row in parse(out)]
        assert sorted(found) == sorted(path.name for path in folder.iterdir())
        assert more or found == sorted(found)


def test_the_limit_of_failures_stops_the_run(run: Program, folder: Path, tmp_path: Path) -> None:
    def reply(request: Request) -> str | ItemError:
        return AnswerError("no memory", code="out_of_memory") if "4" in request.images[0][-6:] else " fine"

    for more, failures in (("--fail-fast", 1), ("--max-errors=3", 3), ("--max-errors=100", 17)):
        out = tmp_path / f"{more}.jsonl"
        result = caption(run, folder, more, "-o", out, backend=ScriptedBackend(reply))
        rows = parse(out)
        assert (result.code, sum(row["error"] is not None for row in rows)) == (1, failures)
        assert ("stopped at the limit of failed items" in result.stderr) == (failures < 17)
        assert len(rows) == 60 or rows[-1]["error"] is not None


def test_a_summary_says_what_failed_and_why(run: Program, folder: Path, tmp_path: Path) -> None:
    (folder / "empty.png").touch()
    result = caption(run, folder, folder / "gone.png")
    assert "58 answered, 4 of 62 failed (3 not images, 1 not found), in " in result.stderr.splitlines()[-1]
    quiet = caption(run, folder / "00.png", folder / "01.png", "--quiet", "-o", tmp_path / "o.jsonl")
    assert (quiet.code, quiet.stderr) == (0, "")


KILLER = """
import os, random, signal, sys, time
from tests.scripted_program import reply
from tests.scripted import ScriptedBackend
from idefics_cli.cli.app import execute
from idefics_cli.cli.ask import open_with
import idefics_cli.cli.results, idefics_cli.images.decode
rounds, seed, *command = sys.argv[1:]
chance = random.Random(int(seed))
open_with.set(ScriptedBackend(reply).open)
for number in range(int(rounds)):
    child = os.fork()
    if child == 0:
        os._exit(execute(command))
    time.sleep(chance.uniform(0.02, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
child = os.fork()
if child == 0:
    os._exit(execute(command))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def kill(rounds: int, seed: int, *command: str | Path) -> int:
    """Run a command so many times, each killed at a random moment, and once to its end."""
    environment = {**os.environ, "SCRIPTED_SECONDS": "0.005"}
    words = [sys.executable, "-c", KILLER, str(rounds), str(seed), *map(str, command)]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, timeout=300).returncode


def strip(path: Path) -> list[dict[str, Any]]:
    """The rows without what may differ from run to run, in the order of their ids."""
    rows = [row | {"seconds": 0} for row in parse(path)]
    return sorted(rows, key=lambda row: str(row["id"]))


@pytest.mark.parametrize("more", [(), ("--unordered", "--batch-size", "2")], ids=["ordered", "unordered"])
def test_kills_leave_every_row_exactly_once(folder: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    check_kills(folder, tmp_path, more, runs=2, kills=8)


@pytest.mark.slow
def test_fifty_runs_killed_once_leave_every_row_exactly_once(folder: Path, tmp_path: Path) -> None:
    check_kills(folder, tmp_path, (), runs=50, kills=1)


def check_kills(folder: Path, tmp_path: Path, more: tuple[str, ...], *, runs: int, kills: int) -> None:
    whole = tmp_path / "whole.jsonl"
    command: tuple[str | Path, ...] = ("caption", folder, *MODEL, *more, "-o")
    (folder / "fail.png").symlink_to("00.png")
    assert kill(0, 0, *command, whole) == 1
    assert len(parse(whole)) == 61
    for seed in range(runs):
        killed = tmp_path / f"killed{seed}.jsonl"
        assert kill(kills, seed, *command, killed) == 1
        assert strip(killed) == strip(whole)


def test_images_that_were_replaced_are_counted_and_asked_about_again(
    run: Program, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    caption(run, folder, "-o", out)
    for number in (3, 4):
        PIL.Image.new("RGB", (9, 9)).save(folder / f"{number:02}.png")  # another size
    PIL.Image.new("RGB", (8, 8)).save(folder / "07.png")  # what was broken is mended
    (folder / "05.png").write_bytes((folder / "06.png").read_bytes())  # the same again, at another time
    before = out.read_bytes()
    again = caption(run, folder, "-o", out)
    assert "3 images were replaced since the answer; --existing retry-changed asks about them" in again.stderr
    assert out.read_bytes() == before
    (folder / "08.png").unlink()  # what is gone has not changed
    backend = ScriptedBackend(" new")
    retried = caption(run, folder, "-o", out, "--existing", "retry-changed", backend=backend)
    assert "3 images were replaced since the answer\n" in retried.stderr
    assert len(backend.requests) == 3
    rows = parse(out)
    assert len({row["id"] for row in rows}) == len(rows) == 60
    assert [(Path(row["id"]).name, row["text"]) for row in rows[-3:]] == [
        ("03.png", "new"),
        ("04.png", "new"),
        ("07.png", "new"),
    ]
    assert "replaced since" not in caption(run, folder, "-o", out).stderr
    digest = hashlib.sha256((folder / "03.png").read_bytes()).hexdigest()
    assert rows[-3]["content"][0]["sha256"] == digest


def test_rows_that_do_not_say_what_their_images_held_are_gone_on_from(
    run: Program, folder: Path, tmp_path: Path
) -> None:
    """Those of earlier versions, and those that were edited."""
    out = tmp_path / "out.jsonl"
    caption(run, folder, "-o", out)
    rows = parse(out)
    odd: list[Any] = [None, 1, "", {}, [1], [{"sha256": 1}], [None, {}]]
    for row, content in zip(rows, odd, strict=False):
        row["content"] = content
    for row in rows[7:]:
        del row["content"]
    out.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for path in folder.iterdir():
        path.write_bytes(b"other")
    before = out.read_bytes()
    again = caption(run, folder, "-o", out, "--existing", "retry-changed")
    assert "58 done before, 2 failed before" in again.stderr
    assert "replaced since" not in again.stderr
    assert out.read_bytes() == before


def test_an_image_is_read_again_only_if_its_size_or_time_is_another(run: Program, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    caption(run, folder, "-o", out)
    target, other = folder / "01.png", folder / "02.png"
    PIL.Image.new("RGB", (8, 8), "red").save(other)
    status = target.stat()
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "1 image was replaced" in caption(run, folder, "-o", out).stderr


def test_of_items_that_are_the_same_each_row_is_replaced(run: Program, tmp_path: Path) -> None:
    image, out = tmp_path / "a.png", tmp_path / "out.jsonl"
    words = ("caption", image, image, *MODEL, "-o", out)
    PIL.Image.new("RGB", (8, 8)).save(image)
    run(*words, backend=ScriptedBackend(" old"))
    old = out.read_bytes()
    PIL.Image.new("RGB", (9, 9)).save(image)
    run(*words, "--existing", "retry-changed", backend=ScriptedBackend(" new"))
    assert [row["text"] for row in parse(out)] == ["new", "new"]
    # As a kill leaves it: the old rows are there still, and only one of the new ones.
    out.write_bytes(old + out.read_bytes().splitlines(keepends=True)[0])
    run(*words, "--existing", "retry-changed", backend=ScriptedBackend(" new"))
    assert [row["text"] for row in parse(out)] == ["new", "new"]
