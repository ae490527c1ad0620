"""The table of tasks: what each command asks for, and its template.

A task that takes `--prompt` has a second template for it. Knows neither models nor terminals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from ..errors import UsageError
from ..files import read_file

MAX_STEPS = 101
_SCALE = re.compile(r"([0-9]{1,3})-([0-9]{1,3})")
MAX_LABELS = 100_000
MANY_LABELS = 10
"""With more than these it is they that make a prompt long."""
MAX_LABELS_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Task:
    """A command's task: its template, and the one used instead when the user gives a prompt."""

    name: str
    template: str
    prompted_template: str | None = None


TASKS = {
    task.name: task
    for task in (
        Task("caption", "caption", "caption-prompted"),
        Task("vqa", "vqa"),
        Task("classify", "classify"),
        Task("write", "story", "write"),
        Task("extract", "extract"),
        Task("rate", "rate"),
    )
}


def template_name(task: str, chosen: str | None, prompt: str | None) -> str:
    """The template of a command: the user's choice, else the task's, with or without a prompt."""
    if chosen is not None:
        return chosen
    entry = TASKS[task]
    return entry.prompted_template if prompt is not None and entry.prompted_template else entry.template


@dataclass(frozen=True, slots=True)
class Scale:
    """The steps of a rating: their labels, what each counts, and how a prompt names them."""

    labels: tuple[str, ...]
    values: tuple[float, ...]
    wording: str


def parse_scale(argument: str) -> Scale:
    """A scale from `1-5` or `yes/no`, which counts 1 for yes and 0 for no. Raises UsageError for anything else."""
    if argument.strip().lower() == "yes/no":
        return Scale(("yes", "no"), (1.0, 0.0), "yes or no")
    match = _SCALE.fullmatch(argument.strip())
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < last - first < MAX_STEPS:
        raise UsageError(
            f"--scale {argument!r} is not a scale",
            hint=f"write 1-5, 0-10 or yes/no; at most {MAX_STEPS} steps",
        )
    steps = range(first, last + 1)
    return Scale(tuple(map(str, steps)), tuple(map(float, steps)), f"a number from {first} to {last}")


def parse_labels(argument: str) -> tuple[str, ...]:
    """Labels from `a,b,c`, or from `@file` with one a line. Raises UsageError for none, blank or repeated ones."""
    if argument.startswith("@"):
        path = Path(argument[1:])
        try:
            lines = read_file(path, MAX_LABELS_BYTES).decode("utf-8-sig").splitlines()
        except OSError as error:
            raise UsageError(f"cannot read the labels in {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text", hint="write one label a line") from error
        labels = [line.strip() for line in lines if line.strip()]
    else:
        labels = [label.strip() for label in argument.split(",")]
        if "" in labels:
            raise UsageError(f"an empty label in {argument!r}", hint="write --labels a,b,c or --labels @file")
    return check_labels(labels)


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels. Raises UsageError for blank, repeated, too few or too many ones."""
    if not all(label.strip() for label in labels):
        raise UsageError("a label is empty")
    known: dict[str, str] = {}
    for label in labels:
        composed = normalize("NFC", label)
        if composed not in known:
            known[composed] = label
            continue
        if known[composed] != label:
            raise UsageError(
                f"label {label!r} is given twice, with its accents encoded in two ways",
                hint="leave one of them out",
            )
        raise UsageError(f"label {label!r} is given twice")
    if len(labels) < 2:
        raise UsageError("classify needs at least two labels", hint="write --labels a,b,c or --labels @file")
    if len(labels) > MAX_LABELS:
        raise UsageError(f"{len(labels)} labels are too many", hint=f"at most {MAX_LABELS}")
    return tuple(labels)


def name_labels(labels: Sequence[str]) -> str:
    """The list of labels in the form of the task guide's prompt: `['animals', 'vegetables']`."""
    return repr(list(labels))


def match_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that a generated answer equals, ignoring case and final punctuation."""
    said = _fold(text.strip().rstrip(".!").strip())
    return next((label for label in labels if _fold(label).rstrip(".!") == said), None)


def _fold(text: str) -> str:
    """The text without differences of case and of how accents are encoded."""
    return normalize("NFC", normalize("NFC", text).casefold())
