"""YAML that somebody else wrote: refused in a line, at once, whatever it would become."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from idefics_cli.config import configs_folder, read_yaml
from idefics_cli.errors import UsageError
from idefics_cli.yaml_reader import BadYAML, parse_yaml
from tests.rivals import count_rivals


def grow(first: str, inner: str) -> str:
    """A document in which each line stands ten times in the next."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {inner.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested"),
        ("- " * 1_000_000, "nested"),
        ("{a: " * 100_000, "nested"),
        (grow("[x]", "[{}]"), "aliases"),
        (grow("{x: 1}", "{{<<: [{}]}}"), "aliases"),
        ("\n".join(f"k{n}: v" for n in range(300_000)), "more than 200,000 values"),
        ("a: &a [*a]", "contains itself"),
        ("a: 1\nb: 2\na: 3", "'a' is given twice"),
        ("{1: a}", "put it in quotes"),
        ("{[a]: b}", "put it in quotes"),
        ("a: !!int 1" + ":59" * 1_000_000, "not a number"),
        ("a: !!float 1" + ":59" * 1_000_000 + ".5", "not a number"),
        ("a: 0x" + "F" * 5_000_000, "digits"),
        ("a: " + "9" * 5_000_000, "digits"),
        ("a: 2001-13-45", "month"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("!" + "a" * 1_000_000, "tag"),
        ("---\na\n" * 100_000, "another document"),
        ("a: \0", "control characters"),
    ],
)
def test_what_would_never_end_is_refused_at_once(text: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadYAML, match=reason) as caught:
        parse_yaml(text)
    assert time.monotonic() - began < 3 * count_rivals()
    assert len(str(caught.value)) < 500


def test_numbers_to_the_base_of_60_are_texts() -> None:
    assert parse_yaml("{a: 1:30, b: 190:20:30.15, c: 012, d: 1_000, e: -0x1F, f: 1.5, g: .inf, h: 0}") == {
        **{
            "a": "1:30",
            "b": "190:20:30.15",
            "c": 10,
            "d": 1000,
            "e": -31,
            "f": 1.5,
            "g": float("inf"),
            "h": 0,
        }
    }
    assert len(parse_yaml("a: 1" + ":59" * 1_000_000)["a"]) == 3_000_001


def test_aliases_and_merges_of_honest_files_stay() -> None:
    text = "shot: &shot {image: a.png, answer: one}\nshots: [*shot, {<<: *shot, answer: two}]"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("# nothing") is None


def test_the_packaged_files_are_read_as_by_any_reader() -> None:
    files = [*configs_folder().rglob("*.yaml")]
    assert files
    for path in files:
        assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_file_too_large_or_that_is_none_is_named(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("#" * 11_000_000)
    with pytest.raises(UsageError, match=r"large\.yaml: it has more than"):
        read_yaml(large)
    with pytest.raises(UsageError, match="not a file"):
        read_yaml(tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        read_yaml(tmp_path / "none.yaml")
    twice = tmp_path / "twice.yaml"
    twice.write_text("a: 1\na: 2\n")
    with pytest.raises(UsageError, match=r"twice\.yaml line 2 is not valid YAML"):
        read_yaml(twice)
