"""Mistaken arguments: a question among files, a table instead of lines, a chart that is no image; and what was skipped
in folders.
"""

from __future__ import annotations

import glob
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import NothingToDo, UsageError
from ..images import has_image_suffix, is_url

PLOT_FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def check_lines(path: str) -> None:
    """Raise UsageError for a file whose items are not one a line: a JSON array, a table."""
    if path == "-" or not Path(path).is_file():
        return
    with open(path, "rb") as stream:
        head = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    name = shlex.quote(path)
    if head.startswith(b"["):
        raise UsageError(
            f"{path} is a JSON array, not one item a line",
            hint=f"convert it: jq -c '.[]' {name} > items.jsonl",
        )
    first = head.split(b"\n")[0]
    if not head.startswith(b"{") and b"," in first and b"{" not in head:
        raise UsageError(
            f"{path} is a table (CSV), not JSON lines",
            hint='write a line such as {"task": "caption", "image": "a.jpg"}',
        )


def check_words(images: Sequence[str], task: str) -> None:
    """Raise UsageError if an argument is not a file but looks like the value of an option."""
    for name in images:
        if name == "-" or is_url(name) or os.path.lexists(name) or has_image_suffix(name):
            continue
        if any(mark in name for mark in " ?") and "/" not in name:
            flag, what = ("-q", "a question") if task == "vqa" else ("--prompt", "a text")
            flag = "--labels" if task == "classify" else flag
            raise UsageError(f"there is no file {name!r}", hint=f'{what}? write {flag} "{name}"')
    patterns = [name for name in images if glob.has_magic(name) and not is_url(name) and not os.path.lexists(name)]
    if patterns and len(patterns) == len(images) and not any(map(glob.glob, patterns)):
        raise NothingToDo(f"no file matches {patterns[0]}", hint="check the pattern")


def check_plot(path: Path) -> None:
    """Raise UsageError, before anything is measured, if a chart cannot be written there."""
    if path.suffix.lower() not in PLOT_FORMATS:
        hint = f"name it {', '.join('*' + one for one in PLOT_FORMATS)}"
        raise UsageError(f"--plot {path} is not an image file", hint=hint)
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint="make it first")


def describe_skipped(skipped: Counter[str], sidecar: str) -> str:
    """What was skipped in folders, by suffix; texts beside images are expected."""
    folders = skipped.pop("", 0)
    skipped.pop(sidecar, None)
    kinds = [f"{kind} {count:,}" for kind, count in skipped.most_common(5)]
    if len(skipped) > len(kinds):
        kinds.append("others")
    parts = [f"files that are not images: {', '.join(kinds)}"] if kinds else []
    if folders:
        parts.append(f"{folders:,} subfolder{'' if folders == 1 else 's'} (-r reads them too)")
    return f"skipped {'; '.join(parts)}" if parts else ""
