"""Downloads a checkpoint, with messages on standard error: the size, a bar on a terminal, and the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..config import Model
from ..errors import UsageError
from ..figures import format_bytes
from ..models.hub.cache import is_downloaded
from .output import Talk, ask_yes_or_no, is_terminal
from .settings import Settings

LARGE_BYTES = 2_000_000_000
"""The size from which the user is asked before a download."""


def is_offline() -> bool:
    """Whether huggingface_hub's own variable, which --offline sets, forbids the network."""
    said = (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper()
    return said in {"1", "ON", "YES", "TRUE"}


def pull_missing(model: Model, revision: str | None, settings: Settings) -> None:
    """Fetch a checkpoint that is about to be used, unless it is here or the network is forbidden."""
    is_here = Path(model.checkpoint).is_dir() or is_downloaded(model.checkpoint, revision)
    if not is_here and not settings.output.dry_run and not is_offline():
        pull(model, revision, settings.talk)


def pull(model: Model, revision: str | None, talk: Talk, *, is_agreed: bool = True) -> None:
    """Fetch the missing files of a checkpoint; an interrupted download is resumed.

    On a terminal it asks before a large one, unless `is_agreed`.
    """
    if Path(model.checkpoint).is_dir():
        raise UsageError(f"{model.name} is a folder of this machine", hint="there is nothing to download")
    from ..models.hub.download import check_space, download, plan_download

    plan = plan_download(model.checkpoint, revision)
    check_space(plan)
    is_asked = plan.missing_bytes > LARGE_BYTES and not is_agreed and is_terminal()
    if is_asked and not ask_yes_or_no(f"download {model.name} ({format_bytes(plan.missing_bytes)})?"):
        raise UsageError("nothing was downloaded", hint="name a smaller --model: see `idefics models list`")
    if plan.missing_bytes:
        talk.note(
            f"downloading {model.checkpoint} ({len(plan.files)} files, {format_bytes(plan.total_bytes)}, "
            f"{format_bytes(plan.missing_bytes)} of them not here yet)"
        )
    with _open_bar(plan.missing_bytes, is_wanted=not talk.quiet) as on_bytes:
        download(plan, on_bytes)
    talk.note(f"{model.name} is here ({format_bytes(plan.total_bytes)}, commit {plan.commit[:12]})")


@contextlib.contextmanager
def _open_bar(total: int, *, is_wanted: bool) -> Iterator[Callable[[int], None]]:
    """A bar of bytes on standard error, if that is a terminal; it gets the bytes as they come."""
    import rich.console

    console = rich.console.Console(stderr=True)
    if not is_wanted or not total or not console.is_terminal or console.is_dumb_terminal:
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        line = bar.add_task("", total=total)
        yield lambda count: bar.advance(line, count)
