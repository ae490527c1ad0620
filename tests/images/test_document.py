"""Pages of PDF documents as images, against poppler's drawing of the same pages."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from idefics_cli.images import Limits, load
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


def write_pdf(path: Path, contents: list[str], size: tuple[int, int] = (300, 200), extra: str = "") -> Path:
    """A PDF of pages with these drawing operators, made by hand."""
    count = len(contents)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, content in enumerate(contents):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] /Contents {5 + 2 * number} 0 R "
            f"/Resources << /Font << /F 3 0 R >> {extra} >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    body, places = "%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{one}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size_of = len(objects) + 1
    trailer = f"trailer\n<< /Size {size_of} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    path.write_text(f"{body}xref\n0 {size_of}\n0000000000 65535 f \n{table}{trailer}")
    return path


def draw_box(number: int) -> str:
    return f"{number / 5} 0.2 0.7 rg 20 30 {40 + 40 * number} 90 re f BT /F 24 Tf 40 150 Td (Page {number}) Tj ET"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write_pdf(tmp_path / "report.pdf", [draw_box(number) for number in range(1, 5)])


def ask(run: Program, *arguments: Any) -> tuple[Run, list[dict[str, Any]]]:
    result = run("caption", *arguments, "--format", "jsonl", *MODEL, backend=ScriptedBackend(" ok"))
    return result, [json.loads(line) for line in result.stdout.splitlines()]


def test_each_page_is_an_image(run: Program, report: Path) -> None:
    for arguments, pages in [
        ((report,), [1, 2, 3, 4]),
        ((f"{report}#3",), [3]),
        ((report, "--pages", "2-3"), [2, 3]),
        ((report, "--pages", "4,1"), [1, 4]),
        ((report, "--pages", "3-"), [3, 4]),
    ]:
        result, rows = ask(run, *arguments)
        assert result.code == 0, result.stderr
        assert [row["images"] for row in rows] == [[f"{report}#{page}"] for page in pages], arguments
    result, rows = ask(run, f"{report}#9", f"{report}#0")
    assert [row["error"]["code"] for row in rows] == ["not_found", "not_found"]
    result, rows = ask(run, report, "--together")
    assert [row["images"] for row in rows] == [[f"{report}#{page}" for page in (1, 2, 3, 4)]]


def test_folders_have_documents_where_pages_are_asked_for(run: Program, report: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(report.parent / "a.png")
    write_pdf(report.parent / "second.pdf", [draw_box(1)])
    result, rows = ask(run, report.parent)
    assert len(rows) == 1
    assert ".pdf 2" in result.stderr
    _, rows = ask(run, report.parent, "--pages", "all")
    assert len(rows) == 6
    (report.parent / "a.png").unlink()
    _, rows = ask(run, report.parent, "--pages", "all", "--together")
    assert [len(row["images"]) for row in rows] == [4, 1]


@pytest.mark.parametrize("dpi", [72, 150])
def test_pages_look_as_poppler_draws_them(report: Path, dpi: int) -> None:
    if shutil.which("pdftoppm") is None:
        pytest.skip("pdftoppm is not installed")
    subprocess.run(["pdftoppm", "-png", "-r", str(dpi), report, report.parent / "page"], check=True)
    for number in range(1, 5):
        theirs = np.asarray(PIL.Image.open(report.parent / f"page-{number}.png").convert("RGB"), dtype=float)
        ours = np.asarray(load(f"{report}#{number}", Limits(dpi=dpi)).pixels, dtype=float)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).mean() <= 2


def test_a_bomb_stays_within_its_limits(run: Program, tmp_path: Path) -> None:
    """Forms that draw forms that draw forms, a page as wide as a street, a damaged one, one that is none."""
    endless = write_pdf(tmp_path / "endless.pdf", ["0 0 m " + "300 200 l 1 199 l 299 3 l " * 400_000 + "S"])
    huge = write_pdf(tmp_path / "huge.pdf", [draw_box(1)], size=(14_400, 14_400))
    (tmp_path / "cut.pdf").write_bytes(write_pdf(tmp_path / "whole.pdf", [draw_box(1)]).read_bytes()[:100])
    result, rows = ask(run, f"{endless}#1", "--decode-timeout", "1")
    assert rows[0]["error"] is None or rows[0]["error"]["code"] == "timeout"
    _, rows = ask(run, f"{huge}#1", tmp_path / "cut.pdf", "--dpi", "300")
    assert [row["error"]["code"] for row in rows] == ["too_large", "not_an_image"]
    for pages in ("0-2", "x", "3-1", ""):
        result = run("caption", huge, "--pages", pages, *MODEL, backend=ScriptedBackend())
        assert (result.code, result.stderr.count("\n")) == (2, 1), result.stderr


def test_a_video_is_refused_with_what_makes_images_of_it(run: Program, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    result = run("caption", path, *MODEL, backend=ScriptedBackend())
    assert result.code == 1
    assert f"ffmpeg -i '{path}' -vf fps=1 frame-%04d.png makes images of it" in result.stderr
