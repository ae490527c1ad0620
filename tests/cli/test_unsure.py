"""`--existing retry-unsure`: what one model was not sure of, another is asked; either run can go on with the file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from idefics_cli.errors import AnswerError, ItemError
from idefics_cli.values import Answer, Confidence, Request
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
SURE = {"0": 0.9, "1": 0.3, "2": 0.95, "3": 0.5}
RETRY = ("--existing", "retry-unsure", "--min-confidence", "0.8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in SURE:
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def parse(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {Path(row["images"][0]).stem: row for row in rows}


def hesitant(text: str, sure: dict[str, float] = SURE) -> ScriptedBackend:
    def reply(request: Request) -> Answer | ItemError:
        name = Path(request.images[0]).stem
        if name not in sure:
            return AnswerError("no answer", code="no_label")
        return Answer(text, text, confidence=Confidence(math.log(sure[name]), math.log(sure[name])))

    return ScriptedBackend(reply)


def caption(run: Program, out: Path, *more: str | Path, model: str, backend: ScriptedBackend) -> Run:
    return run("caption", out.parent / "in", "-o", out, "--model", model, *more, backend=backend)


def test_another_model_is_asked_what_the_first_was_unsure_of(run: Program, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    first = caption(run, out, "--min-confidence", "0.8", model="idefics-9b", backend=hesitant("first"))
    assert first.code == 0
    assert [name for name, row in parse(out).items() if row["warnings"]] == ["1", "3"]
    key = parse(out)["1"]["key"]

    # One of the two fails: its unsure row stays, and is asked again the next time.
    second = hesitant("second", {"1": 0.4})
    assert caption(run, out, *RETRY, model="idefics2", backend=second).code == 1
    assert sorted(Path(request.images[0]).stem for request in second.requests) == ["1", "3"]
    rows = parse(out)
    assert {name: row["text"] for name, row in rows.items()} == {
        "0": "first", "1": "second", "2": "first", "3": "first",
    }  # fmt: skip
    assert (rows["1"]["model"], rows["1"]["instead_of"]) == ("idefics2", key)
    again = hesitant("again")
    assert caption(run, out, *RETRY, model="idefics2", backend=again).code == 0
    assert [Path(request.images[0]).stem for request in again.requests] == ["3"]

    # A third one takes the place of those that the second was unsure of; the first goes on with its file.
    third = hesitant("third", dict.fromkeys(SURE, 0.99))
    assert caption(run, out, *RETRY, model="smolvlm", backend=third).code == 0
    assert {name: row["text"] for name, row in parse(out).items()} == {
        "0": "first", "1": "third", "2": "first", "3": "third",
    }  # fmt: skip
    PIL.Image.new("RGB", (8, 8)).save(folder / "4.png")
    last = caption(run, out, *RETRY, model="smolvlm", backend=hesitant("none"))
    assert (last.code, "1 item has no row and is skipped" in last.stderr) == (0, True)
    before = out.read_text()
    rest = hesitant("rest", {"4": 0.9})
    assert caption(run, out, model="idefics-9b", backend=rest).code == 0
    assert len(rest.requests) == 1
    assert out.read_text().startswith(before)


def test_an_end_between_the_new_row_and_the_old_ones_removal_leaves_one_of_them(
    run: Program, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    caption(run, out, model="idefics-9b", backend=hesitant("first"))
    before = out.read_text()
    caption(run, out, *RETRY, model="idefics2", backend=hesitant("second"))
    new = "".join(f"{line}\n" for line in out.read_text().splitlines() if "instead_of" in line)
    for model in ("idefics-9b", "idefics2", "smolvlm"):
        out.write_text(before + new)
        more = () if model == "idefics-9b" else RETRY
        backend = hesitant("third")
        assert caption(run, out, *more, model=model, backend=backend).code == 0
        assert len(backend.requests) == (2 if model == "smolvlm" else 0)
        assert {name: row["text"] for name, row in parse(out).items() if row["text"] != "first"} == dict.fromkeys(
            ("1", "3"), "third" if model == "smolvlm" else "second"
        )


def test_another_template_may_be_surer_and_labels_are_as_sure_as_their_probability(
    run: Program, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    words = ("classify", folder, "--labels", "a,b,c,d", "-o", out, "--model", "idefics-9b")
    assert run(*words, backend=ScriptedBackend()).code == 0
    backend = ScriptedBackend()
    result = run(*words, *RETRY, "--template", "classify-photo", backend=backend)
    assert (result.code, len(backend.requests)) == (0, 4)
    assert {row["template"] for row in parse(out).values()} == {"classify-photo@1"}
    again = run(*words, *RETRY, "--template", "classify-photo", backend=backend)
    assert (again.code, len(backend.requests)) == (0, 4)
    assert "only rows of this same command" in again.stderr


def test_what_cannot_be_asked_again_is_said(run: Program, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    backend = hesitant("first")
    caption(run, out, model="idefics-9b", backend=backend)
    bare = caption(run, out, "--existing", "retry-unsure", model="idefics2", backend=backend)
    assert (bare.code, "--min-confidence" in bare.stderr) == (2, True)
    other = run("vqa", folder, "-q", "What?", "-o", out, "--model", "idefics2", *RETRY, backend=backend)
    assert (other.code, "of another task, caption" in other.stderr) == (2, True)
