"""Many inputs at once: lists of names, mixed sources, shards, odd names and things that are no files."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.values import Request
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


def rows(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def names(run: Run) -> list[str]:
    return [Path(row["images"][0]).name for row in rows(run)]


@pytest.fixture
def here(tmp_path: Path, red_circle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a.png, b c.png, #d.png and sub/e.png."""
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b c.png", "#d.png", "sub/e.png"):
        (tmp_path / name).write_bytes(red_circle.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def caption(run: Program, *arguments: str | Path, stdin: bytes = b"") -> Run:
    return run("caption", *arguments, *MODEL, "--format=jsonl", backend=ScriptedBackend(), stdin=stdin)


def test_a_list_has_a_name_a_line_with_comments(run: Program, here: Path) -> None:
    (here / "list.txt").write_bytes(b"\xef\xbb\xbf# mine\r\na.png\r\n\n./#d.png\nsub\nb c.png")
    result = caption(run, "--files-from", "list.txt")
    assert names(result) == ["a.png", "#d.png", "e.png", "b c.png"]
    assert caption(run, "sub", "--files-from", "-", stdin=b"a.png\n").stdout.count("\n") == 2


def test_lists_as_people_write_them(run: Program, here: Path) -> None:
    """A comment sign may begin a name, spaces surround a URL, and a file may be called as a data URL is."""
    (here / "data:x.png").write_bytes((here / "a.png").read_bytes())
    image = "data:image/png;base64," + base64.b64encode((here / "a.png").read_bytes()).decode()
    Path("list.txt").write_text(f"#d.png\n#no such file.png\ndata:x.png\n  {image} \t\n")
    result = caption(run, "--files-from", "list.txt", "data:x.png")
    assert [row["error"] for row in rows(result)] == [None] * 4
    assert [row["images"][0] for row in rows(result)] == ["./data:x.png", "#d.png", "./data:x.png", image]


def test_a_nul_separated_list_takes_any_name(run: Program, here: Path) -> None:
    odd = ["line\nbreak.png", "#no comment.png", "tab\t.png", " space .png", "🐈.png", "\u202egnp.png", "-"]
    if sys.platform == "linux":
        odd.append(os.fsdecode(b"caf\xe9\xff.png"))
    for name in odd:
        Path(name).write_bytes(Path("a.png").read_bytes())
    listed = b"\0".join(os.fsencode(name) for name in odd)
    for data in (listed, listed + b"\0"):
        result = caption(run, "--files-from", "-", "-0", stdin=data)
        assert (result.code, len(rows(result))) == (0, len(odd)), result.stderr
    shown = [base64.b64decode(row["path_b64"][0]) if "path_b64" in row else row["images"][0] for row in rows(result)]
    assert [os.fsdecode(name) for name in shown] == [name if name != "-" else "./-" for name in odd]


def test_names_in_a_list_are_no_patterns(run: Program, here: Path) -> None:
    (here / "list.txt").write_text("*.png\n")
    result = caption(run, "--files-from", "list.txt")
    assert rows(result)[0]["error"]["code"] == "not_found"


def test_sources_of_all_kinds_mix_in_their_order(run: Program, here: Path) -> None:
    data = "data:image/png;base64," + base64.b64encode(Path("a.png").read_bytes()).decode()
    (here / "list.txt").write_text(f"{data}\nb c.png\n")
    result = caption(
        run,
        "sub",
        "-",
        "[ab]*.png",
        data,
        "gone.png",
        "--files-from",
        "list.txt",
        stdin=Path("a.png").read_bytes(),
    )
    shown = [row["images"][0].split("/")[-1][-9:] for row in rows(result)]
    assert [name[-9:] for name in shown] == [
        "e.png", "-", "a.png", "b c.png", data[-9:].split("/")[-1], "gone.png", data[-9:].split("/")[-1], "b c.png",
    ]  # fmt: skip
    assert result.code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--files-from", "none.txt"), 2, "none.txt"),
        (("--files-from", "sub"), 2, "sub"),
        (("--files-from", "empty.txt"), 4, "no images in the list empty.txt"),
        (("-", "--files-from", "-"), 2, "both a list and an image"),
        (("a.png", "-0"), 2, "--files-from"),
        (("a.png", "--shard", "0/2"), 2, "1/4"),
        (("a.png", "--shard", "3/2"), 2, "1/4"),
        (("a.png", "--shard", "half"), 2, "1/4"),
    ],
)
def test_what_cannot_be_listed_is_one_line(
    run: Program, here: Path, arguments: tuple[str, ...], code: int, word: str
) -> None:
    (here / "empty.txt").write_text("# nothing\n\n")
    result = caption(run, *arguments)
    assert (result.code, result.stdout, len(result.stderr.splitlines())) == (code, "", 1)
    assert word in result.stderr


def test_shards_split_a_list_without_talking(run: Program, here: Path) -> None:
    images = [f"{number}.png" for number in range(40)]
    for image in images:
        Path(image).symlink_to("a.png")
    parts = [names(caption(run, *images, "--shard", f"{index}/3")) for index in (1, 2, 3)]
    assert sorted(chain.from_iterable(parts)) == sorted(images)
    assert all(len(part) >= 5 for part in parts)
    assert names(caption(run, *images, "--shard", "2/3")) == parts[1]
    command = ("vqa", *images, "-q", "a?", "-q", "b?", *MODEL, "--format=jsonl", "--shard=1/3")
    asked = run(*command, backend=ScriptedBackend())
    assert names(asked) == [image for image in parts[0] for _ in range(2)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_what_is_no_file_fails_alone(run: Program, here: Path) -> None:
    os.mkfifo("pipe.png")
    Path("x.jpg").mkdir()
    Path("x.jpg/in.png").symlink_to("../a.png")
    Path("x.jpg/loop").symlink_to("..")
    Path("dangling.png").symlink_to("nowhere")
    result = caption(run, ".", "-r")
    assert result.code == 1
    by_name = {Path(row["images"][0]).name: row["error"] and row["error"]["code"] for row in rows(result)}
    assert by_name["pipe.png"] == "not_an_image"
    assert by_name["dangling.png"] == "not_found"
    assert by_name["in.png"] is None
    assert len(by_name) == 8


def test_a_file_that_vanishes_after_it_was_listed_fails_alone(run: Program, here: Path) -> None:
    def reply(request: Request) -> str:
        for number in range(150, 200):
            Path(f"{number}.png").unlink(missing_ok=True)
        return " fine"

    for number in range(200):
        Path(f"{number}.png").symlink_to("a.png")
    images = [f"{number}.png" for number in range(200)]
    result = run("caption", *images, *MODEL, "--format=jsonl", "--batch-size=2", backend=ScriptedBackend(reply))
    codes = [row["error"] and row["error"]["code"] for row in rows(result)]
    assert (codes[:100], codes[150:]) == ([None] * 100, ["not_found"] * 50)
