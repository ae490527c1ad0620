"""From the words of `idefics doctor` to its lines. Imported when the command runs, never for `--help`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import typer

from ..doctor.machine import Check, check_machine
from .output import emit, emit_folded, one_line
from .pull import is_offline
from .settings import Settings


def run_checks(settings: Settings, *, is_quick: bool, is_json: bool) -> None:
    """Print each check as it is made, or all as JSON. Raises typer.Exit(1) if one of them is broken."""
    done: list[Check] = []
    for check in _list_checks(settings.model.device or "auto", is_quick=is_quick):
        done.append(check)
        if not is_json:
            hint = f"; {check.hint}" if check.hint else ""
            emit_folded(one_line(f"{check.state:<7}  {check.name:<15}  {check.text}{hint}"))
    is_sound = all(check.state != "broken" for check in done)
    if is_json:
        emit(json.dumps({"is_sound": is_sound, "checks": [asdict(check) for check in done]}, ensure_ascii=False))
    if not is_sound:
        raise typer.Exit(1)


def _list_checks(device: str, *, is_quick: bool) -> Iterator[Check]:
    can_run = True
    for check in check_machine(is_offline=is_offline()):
        can_run = can_run and not (check.name == "devices" and check.state == "broken")
        yield check
    if is_quick or not can_run:
        reason = "not run, as --quick says" if is_quick else "not run, as a library cannot be imported"
        yield Check("model", "skipped", reason)
        return
    from ..doctor.answers import check_answers  # has torch, which may be what is broken

    yield from check_answers(device)
