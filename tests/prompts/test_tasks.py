"""Labels: read, refused, named in the prompt, matched in an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from idefics_cli.errors import UsageError
from idefics_cli.prompts.tasks import match_label, name_labels, parse_labels, template_name


def test_labels_come_from_the_command_line_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\ufeffbeach\n\ncity, by night\n", encoding="utf-8")
    assert parse_labels("beach, city") == ("beach", "city")
    assert parse_labels(f"@{path}") == ("beach", "city, by night")


@pytest.mark.parametrize("argument", ["a", "a,,b", "a,b,a", "@/no/such/file", ""])
def test_labels_that_cannot_be_ranked_are_refused(argument: str) -> None:
    with pytest.raises(UsageError):
        parse_labels(argument)


def test_labels_are_named_as_the_guide_names_them() -> None:
    assert name_labels(["animals", "city landscape"]) == "['animals', 'city landscape']"


def test_an_answer_matches_a_label_exactly_or_not_at_all() -> None:
    assert match_label(" City.", ["beach", "city"]) == "city"
    assert match_label("city by night", ["beach", "city"]) is None


def test_a_prompt_chooses_the_other_template() -> None:
    assert template_name("caption", None, None) == "caption"
    assert template_name("caption", None, "This is") == "caption-prompted"
    assert template_name("write", "alt-text", "This is") == "alt-text"
