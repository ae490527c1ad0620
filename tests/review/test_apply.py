"""Corrections put into effect, by the command: rows, sidecars, examples, a page in one file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from idefics_cli.prompts.examples import load_examples
from idefics_cli.review.corrections import review_path
from idefics_cli.review.session import ReviewSession
from tests.program import Run
from tests.review.rows import make_failed, make_ranked, make_row, read_rows, write_rows

Program = Callable[..., Run]


@pytest.fixture
def rows(tmp_path: Path, two_images: tuple[Path, Path]) -> Path:
    first, second = two_images
    several = [
        make_row(0, images=[str(first)], fields={"question": "What?"}),
        make_ranked(1, "cat", 0.6, images=[second.name]),
        make_row(2),
        make_failed(3),
    ]
    return write_rows(tmp_path / "rows.jsonl", several)


@pytest.fixture
def corrected(rows: Path, tmp_path: Path) -> Path:
    session = ReviewSession([rows], tmp_path / "cache")
    session.read_all()
    session.decide([0], "text", {"text": "a \u2028red disc"}, {})
    session.decide([0, 1], "accept", {}, {})
    session.decide([1], "label", {"label": "dog"}, {})
    session.decide([1], "accept", {}, {})
    session.decide([2], "reject", {}, {})
    session.decide([3], "text", {"text": "nothing"}, {})
    return rows


def test_rows_are_written_anew_without_the_rejected(run: Program, corrected: Path) -> None:
    before = corrected.read_bytes()
    result = run("review", corrected, "--apply")
    assert result.code == 0, result.stderr
    assert result.stderr.endswith(
        "3 rows in " + str(corrected.with_name("rows.corrected.jsonl")) + ", 3 corrected, 1 rejected left out\n"
    )
    assert corrected.read_bytes() == before
    one, two, three = read_rows(corrected.with_name("rows.corrected.jsonl"))
    assert (one["text"], one["review"]) == ("a \u2028red disc", "accept")
    assert (two["text"], two["label"], two["review"]) == ("dog", "dog", "accept")
    assert (three["text"], three["error"], three["review"]) == ("nothing", None, "edit")
    assert one | {"text": "", "review": 0} == read_rows(corrected)[0] | {"text": "", "review": 0}


def test_accepted_rows_become_examples(run: Program, corrected: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "shots.jsonl"
    target.parent.mkdir()
    assert run("review", corrected, "--apply", "--as", "examples", "-o", target).code == 0
    first, second = load_examples(target)
    assert (first.answer, dict(first.fields)) == ("a \u2028red disc", {"question": "What?"})
    assert second.answer == "dog"
    assert all(Path(image).exists() for shot in (first, second) for image in shot.images)


def test_sidecars_are_written_beside_images(run: Program, corrected: Path, two_images: tuple[Path, Path]) -> None:
    rejected = [row for row in read_rows(corrected) if row["id"] not in ("3.png",)]
    write_rows(corrected, rejected)
    result = run("review", corrected, "--apply", "--as", "sidecars")
    assert result.code == 0, result.stderr
    assert two_images[0].with_suffix(".txt").read_text(encoding="utf-8") == "a \u2028red disc\n"
    assert two_images[1].with_suffix(".txt").read_text(encoding="utf-8") == "dog\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--as", "rows"), 2, "add --apply"),
        (("-o", "x.jsonl"), 2, "add --apply"),
        (("--apply", "-o", "rows.jsonl"), 2, "is the input file; give another --output"),
        (("--apply", "-o", "nowhere/x.jsonl"), 2, "nothing was changed"),
        (("other.jsonl",), 2, "is not a file of rows"),
        (("rows.jsonl", "--apply"), 2, "--apply takes one file"),
        (("--port", "99999"), 2, "choose another --port"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Program,
    corrected: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(corrected.parent)
    result = run("review", "rows.jsonl", *words)
    assert (result.code, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in corrected.parent.glob("*.jsonl")) == [
        "rows.jsonl",
        "rows.review.jsonl",
    ]


def test_nothing_decided_is_nothing_to_do(run: Program, rows: Path) -> None:
    assert run("review", rows, "--apply").code == 4
    assert not review_path(rows).exists()


def test_a_page_in_one_file_asks_for_nothing_and_takes_nothing_for_code(
    run: Program, tmp_path: Path, red_circle: Path
) -> None:
    hostile = "</script><script>alert(1)</script><!--"
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [make_row(0, images=[str(red_circle)], text=hostile, id=hostile), make_row(1)],
    )
    assert run("review", rows, "--html", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    assert "alert(1)" in page
    assert "data:image/webp;base64," in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert re.search(r"default-src 'none'; img-src data:; script-src 'sha256-[^']+'; style-src 'sha256-[^']+';", page)


def test_too_many_rows_for_one_file_are_refused(run: Program, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", (make_row(n) for n in range(2001)))
    result = run("review", rows, "--html", tmp_path / "page.html")
    assert result.code == 2
    assert "head -n 2000" in result.stderr
    assert not (tmp_path / "page.html").exists()
