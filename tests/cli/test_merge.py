"""Parts of a run: who takes which, and one file of all of them, in order, with nothing missing unsaid."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.cli.shards import name_shard, read_shard
from idefics_cli.errors import UsageError
from idefics_cli.files import lock
from idefics_cli.values import Answer, Confidence
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


@pytest.fixture
def here(tmp_path: Path, red_circle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with in/00.png to in/39.png, one of them broken."""
    (tmp_path / "in").mkdir()
    for number in range(40):
        (tmp_path / "in" / f"{number:02}.png").symlink_to(red_circle)
    (tmp_path / "in" / "17.png").unlink()
    (tmp_path / "in" / "17.png").write_bytes(b"broken")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vqa(run: Program, *more: str | Path, model: str = "idefics-9b") -> Run:
    words = ("vqa", "in", "-q", "a?", "-q", "b?", "--model", model)
    return run(*words, *more, backend=ScriptedBackend(lambda request: f" It is {request.id}."))


def make_parts(run: Program, count: int = 3) -> list[str]:
    for index in range(1, count + 1):
        vqa(run, "--shard", f"{index}/{count}", "-o", "part-{shard}.jsonl")
    return [f"part-{index}-of-{count}.jsonl" for index in range(1, count + 1)]


def parse(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_parts_make_the_file_of_a_run_without_parts(run: Program, here: Path) -> None:
    parts = make_parts(run)
    assert {row["shard"]["index"] for row in parse(parts[1])} == {2}
    whole = vqa(run, "-o", "whole.jsonl")
    merged = run("merge", *reversed(parts), "-o", "all.jsonl")
    assert (whole.code, merged.code) == (1, 1)  # of the broken image
    assert merged.stderr == "idefics: 80 rows of 3 files in all.jsonl, 2 of them failed\n"
    assert Path("all.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    again = vqa(run, "-o", "all.jsonl")
    assert "78 done before, 2 failed before" in again.stderr
    assert run("merge", *parts, "-o", "all.jsonl").code == 1  # what is there has nothing that the parts lack


def test_what_is_missing_is_told_and_answered_by_the_run_without_parts(run: Program, here: Path) -> None:
    parts = make_parts(run)
    rows = parse(parts[1])
    write(parts[1], rows[:5])
    merged = run("merge", *parts, "-o", "all.jsonl")
    assert merged.code == 1
    missing = len(rows) - 5
    place = rows[5]["shard"]["place"] + 1
    assert f"{missing} items have no row; the first is item {place} of the list; run part 2/3 again" in merged.stderr
    assert [row["text"] for row in parse("all.jsonl")][: place - 1] == [
        f"It is in/{number // 2:02}.png#{number % 2 + 1}." if number // 2 != 17 else None for number in range(place - 1)
    ]
    assert f"{80 - missing} done before" in vqa(run, "-o", "all.jsonl").stderr
    assert "run parts 1/3, 2/3 again" in run("merge", parts[2], "-o", "one.jsonl").stderr


def test_a_row_that_is_there_twice_is_kept_once_and_a_good_one_first(run: Program, here: Path) -> None:
    parts = make_parts(run, 2)
    rows = parse(parts[0])
    bad = [{**row, "error": {"code": "timeout", "message": "late"}, "text": None} for row in rows[:3]]
    write("more.jsonl", bad)
    for order in (["more.jsonl", *parts], [*parts, "more.jsonl"]):
        merged = run("merge", *order, "-o", "all.jsonl")
        assert "3 rows are duplicates" in merged.stderr
        assert "2 of them failed" in merged.stderr
    vqa(run, "-o", "whole.jsonl")
    assert Path("all.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


@pytest.mark.parametrize("has_places", [True, False])
def test_what_was_asked_again_takes_its_place(run: Program, here: Path, has_places: bool) -> None:
    """The last row of each item is kept, also where a crash left the earlier one beside it."""
    unsure = ScriptedBackend(lambda request: say("first", 0.3 if request.id[-6:-4] in ("03", "30") else 0.9))
    surer = ScriptedBackend(lambda request: say("second", 0.95))
    parts = ["part-1-of-2.jsonl", "part-2-of-2.jsonl"]
    for index in (1, 2):
        words = ("caption", "in", "--shard", f"{index}/2", "-o", "part-{shard}.jsonl")
        run(*words, "--model", "idefics-9b", backend=unsure)
        before = Path(parts[index - 1]).read_text()
        retry = ("--existing", "retry-unsure", "--min-confidence", "0.8", "--model", "idefics2")
        run(*words, *retry, backend=surer)
        if index == 1:
            crashed = [row for row in parse(parts[0]) if "instead_of" in row]
            Path(parts[0]).write_text(before + "".join(f"{json.dumps(row)}\n" for row in crashed))
    if not has_places:
        for part in parts:
            write(part, [{name: value for name, value in row.items() if name != "shard"} for row in parse(part)])
    merged = run("merge", *parts, "-o", "all.jsonl")
    assert merged.code == 1  # of the broken image
    assert merged.stderr.splitlines()[0] == "idefics: 40 rows of 2 files in all.jsonl, 1 of them failed"
    assert "duplicate" not in merged.stderr
    rows = parse("all.jsonl")
    assert len({row["id"] for row in rows}) == 40
    if has_places:
        assert len(merged.stderr.splitlines()) == 1
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert {Path(row["id"]).stem for row in rows if row["text"] == "second"} == {"03", "30"}
    again = run("merge", *parts, "-o", "all.jsonl")
    assert again.stderr == merged.stderr
    asked = ScriptedBackend()
    run("caption", "in", "-o", "all.jsonl", "--model", "idefics-9b", backend=asked)
    assert asked.requests == []


def say(text: str, sure: float) -> Answer:
    return Answer(text, text, confidence=Confidence(math.log(sure), math.log(sure)))


def test_rows_that_do_not_say_their_place_come_in_the_order_of_a_list(run: Program, here: Path) -> None:
    whole = [f"in/{number:02}.png" for number in range(40) if number != 17]
    Path("list.txt").write_text("\n".join(whole))
    for name, images in (("b", whole[20:]), ("a", whole[:18])):
        run("caption", *images, *MODEL, "-o", f"{name}.jsonl", backend=ScriptedBackend())
    plain = run("merge", "b.jsonl", "a.jsonl", "-o", "plain.jsonl")
    assert (plain.code, "--files-from LIST" in plain.stderr) == (0, True)
    assert [row["images"][0] for row in parse("plain.jsonl")] == whole[20:] + whole[:18]
    ordered = run("merge", "b.jsonl", "a.jsonl", "--files-from", "list.txt", "-o", "all.jsonl")
    assert ordered.code == 1
    assert f"2 items have no row; the first is {whole[18]}" in ordered.stderr
    assert [row["images"][0] for row in parse("all.jsonl")] == whole[:18] + whole[20:]


def test_what_is_missing_at_the_end_is_missed(run: Program, here: Path) -> None:
    parts = make_parts(run)
    last = max((row for part in parts for row in parse(part)), key=lambda row: row["shard"]["place"])
    part = last["shard"]["index"]
    write(parts[part - 1], [row for row in parse(parts[part - 1]) if row["images"] != last["images"]])
    merged = run("merge", *parts, "-o", "all.jsonl")
    assert f"2 items have no row; the first is item 79 of the list; run part {part}/3 again" in merged.stderr
    listed = run("merge", *parts, "--files-from", "-", "-r", "-o", "all.jsonl", stdin=b"in\n")
    assert "1 item has no row; it is in/39.png" in listed.stderr


def test_what_cannot_be_merged_is_one_line(run: Program, here: Path) -> None:
    parts = make_parts(run, 2)
    vqa(run, "-o", "other.jsonl", model="idefics-80b")
    run("caption", "in", *MODEL, "-o", "third.jsonl", backend=ScriptedBackend())
    Path("cut.jsonl").write_bytes(Path(parts[0]).read_bytes()[:-20])
    Path("text.jsonl").write_text("no row\n")
    for arguments, word in (
        ((*parts, "other.jsonl", "-o", "all.jsonl"), 'other.jsonl line 1 has model "idefics-80b", not'),
        ((*parts, "third.jsonl", "-o", "all.jsonl"), 'has task "caption", not "vqa"'),
        ((*parts, "-o", parts[0]), "is one of the parts"),
        ((*parts, "-o", "third.jsonl"), "40 rows that no part has"),
        ((*parts, "-o", "text.jsonl"), "text.jsonl line 1 is not a row"),
        (("cut.jsonl", "-o", "all.jsonl"), "was cut off"),
        (("gone.jsonl", "-o", "all.jsonl"), "cannot read gone.jsonl"),
        (parts, "--output all.jsonl"),
    ):
        result = run("merge", *arguments)
        assert (result.code, len(result.stderr.splitlines())) == (2, 1), result.stderr
        assert word in result.stderr
    with Path(parts[1]).open("rb") as stream:
        assert lock(stream.fileno())
        busy = run("merge", *parts, "-o", "all.jsonl")
    assert (busy.code, "still writing" in busy.stderr) == (2, True)
    assert not os.path.exists("all.jsonl")


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ("SLURM_PROCID=1 SLURM_NTASKS=4", (2, 4)),
        ("SLURM_JOB_ID=9 SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=4", (2, 2)),
        ("SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3", (4, 4)),
        ("SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_STEP=2", (4, 4)),
        ("SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_COUNT=2 SLURM_PROCID=1 SLURM_NTASKS=3", (5, 6)),
        ("SLURM_JOB_ID=9 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_COUNT=3", (3, 3)),
        ("RANK=2 WORLD_SIZE=3", (3, 3)),
        ("SLURM_PROCID=0 SLURM_NTASKS=1 RANK=2 WORLD_SIZE=3", (3, 3)),
        ("JOB_COMPLETION_INDEX=0 JOB_COMPLETIONS=8", (1, 8)),
        ("RANK=0 WORLD_SIZE=1", (1, 1)),
        ("JOB_COMPLETION_INDEX=0", "JOB_COMPLETIONS"),
        ("SLURM_JOB_ID=9 SLURM_PROCID=0 SLURM_NTASKS=4", "srun"),
        ("RANK=3 WORLD_SIZE=3", "RANK and WORLD_SIZE"),
        ("RANK=two WORLD_SIZE=3", "RANK is 'two'"),
        ("SLURM_ARRAY_TASK_ID=9 SLURM_ARRAY_TASK_COUNT=2 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=9", "gaps"),
        ("SLURM_NTASKS=4", "--shard 1/4"),
    ],
)  # fmt: skip
def test_auto_is_the_part_that_a_job_says(environment: str, part: tuple[int, int] | str) -> None:
    variables = dict(word.split("=") for word in environment.split())
    if isinstance(part, str):
        with pytest.raises(UsageError, match=part):
            read_shard("auto", variables)
    else:
        assert read_shard("auto", variables) == part


def test_the_names_of_parts_sort_as_parts_do(run: Program, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name_shard(index, 12) for index in range(1, 13)]
    assert names == sorted(names)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "12"), ("IDEFICS_SHARD", "auto")):
        monkeypatch.setenv(name, value)
    vqa(run, "-o", "{shard}.jsonl")
    assert Path("02-of-12.jsonl").exists()
