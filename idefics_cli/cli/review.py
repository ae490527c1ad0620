"""What `idefics review` does: serve the page, write it to a file, or apply corrections."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import threading
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import user_cache
from ..errors import UsageError
from ..review.apply import Kind, apply_corrections, target_path
from ..review.corrections import Corrections, review_path
from ..review.export import write_html
from ..review.server import HOST, make_token, open_socket, serve
from ..review.session import ReviewSession
from .output import Talk, emit
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Wanted:
    """The command's own options."""

    paths: tuple[Path, ...]
    port: int | None = None
    no_browser: bool = False
    html: str | None = None
    apply: bool = False
    apply_as: Literal["rows", "sidecars", "examples"] | None = None


def review_rows(wanted: Wanted, settings: Settings) -> None:
    """Do what the options ask for; the page is served until Ctrl-C."""
    talk = settings.talk
    for path in wanted.paths:
        if not path.is_file():
            raise UsageError(f"{path} is not a file of rows", hint="make one with --output rows.jsonl")
    if wanted.apply_as is not None and not wanted.apply:
        raise UsageError("--as needs --apply", hint="add --apply")
    if settings.output.output is not None and not wanted.apply:
        raise UsageError("--output needs --apply", hint="add --apply, or write the page with --html FILE")
    if wanted.apply:
        _apply(wanted, settings)
        return
    session = ReviewSession(wanted.paths, user_cache())
    if wanted.html is not None:
        session.read_all()
        count = write_html(session, Path(wanted.html))
        talk.note(f"{count:,} rows are in {wanted.html}, which any browser opens; it can save corrections")
        return
    serve_page(session, talk, wanted.port, opens=not wanted.no_browser)


def _apply(wanted: Wanted, settings: Settings) -> None:
    if len(wanted.paths) > 1:
        raise UsageError("--apply takes one file", hint="name only the file that was corrected")
    rows, kind = wanted.paths[0], wanted.apply_as or "rows"
    given = settings.output.output
    if given is not None and kind == "sidecars":
        raise UsageError("sidecars are written beside the images", hint="leave --output out")
    target = Path(given) if given is not None else target_path(rows, kind)
    report = apply_corrections(rows, target, kind)
    places: dict[Kind, str] = {
        "rows": f"rows in {target}",
        "sidecars": "texts beside their images",
        "examples": f"examples in {target}, for --examples",
    }
    left_out = [f"{report.rejected:,} rejected left out"] if report.rejected else []
    left_out += [f"{report.failed:,} failed left out"] if report.failed else []
    corrected = f"{report.corrected:,} corrected"
    settings.talk.note(", ".join([f"{report.written:,} {places[kind]}", corrected, *left_out]))


def serve_page(
    session: ReviewSession, talk: Talk, port: int | None = None, *, opens: bool = True, query: str = ""
) -> None:
    """Serve the page until Ctrl-C; on a desktop, if it `opens`, the browser shows it with the query."""
    listener, token = open_socket(port or 0), make_token()
    port = listener.getsockname()[1]
    address = f"http://{HOST}:{port}/{token}/{f'#{urllib.parse.quote(query)}' if query else ''}"

    def tell() -> None:
        emit(address)
        if opens and _has_browser():
            import webbrowser

            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
            talk.note("the page opens in the browser; Ctrl-C ends it")
        else:
            talk.note(f"open it here, or from another machine after: ssh -L {port}:{HOST}:{port} {_name_login()}")

    with suppress(KeyboardInterrupt):
        serve(session, listener, token, tell)
    path = review_path(session.paths[0])
    if path.exists():
        corrections = Corrections(path)
        corrections.read()
        count = sum(bool(state.decision) for state in corrections.states.values())
        talk.note(f"{count:,} rows have a decision in {path}; `idefics review {session.paths[0]} --apply` uses them")


def _has_browser() -> bool:
    """Whether this is a desktop with a person: over ssh a browser would open where nobody sees it."""
    if sys.stdin is None or not sys.stdin.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _name_login() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):
        return socket.gethostname()
