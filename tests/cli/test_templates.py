"""`idefics templates`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.program import Run

Program = Callable[..., Run]


def test_list_has_the_users_own_too(run: Program) -> None:
    own = Path(os.environ["IDEFICS_CONFIG_DIR"]) / "templates"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("name: mine\nversion: 1\ndescription: My own.\nchat: {turn: [image, hi]}\n")
    listed = run("templates")
    assert listed.code == 0
    assert listed.stdout == run("templates", "list").stdout
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert {"mine", "caption", "vqa", "classify", "story", "ocr", "alt-text"} <= set(names)
    assert "My own." in listed.stdout


def test_show_names_fields_and_wording(run: Program) -> None:
    shown = run("templates", "show", "vqa").stdout
    assert "# vqa@1" in shown
    assert "fields: question" in shown
    assert "Question: $question Answer:" in shown
    missing = run("templates", "show", "vqaa")
    assert missing.code == 2
    assert "vqaa" in missing.stderr


def test_check_says_what_is_wrong(run: Program, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("name: good\nversion: 1\ndescription: d\nchat: {turn: [image, hi]}\n")
    bad.write_text("name: bad\nversion: 1\ndescription: d\nchat: {turn: [image, $who]}\n")
    assert run("templates", "check", good).stdout.endswith("good@1 is fine\n")
    result = run("templates", "check", good, bad)
    assert result.code == 2
    assert "bad.yaml" in result.stderr
    assert "$who" in result.stderr
