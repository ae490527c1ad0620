"""Messages of the layers below, which write to the log of the package and never print; and unexpected errors: the
traceback for those who want to see it, and where to report them.
"""

from __future__ import annotations

import logging
import platform
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, metadata

from .. import __version__
from .output import Talk, say

DISTRIBUTION = "idefics-cli"
PACKAGE = __name__.partition(".")[0]


def ask_to_report(problem: str) -> None:
    """Print what to report, in one line, and where."""
    told = f"idefics {__version__}, Python {platform.python_version()}, {platform.system()}: {problem}"
    say(f"please report it {_find_address()}with this line: {told}")


def list_trace(error: BaseException) -> Iterable[str]:
    """The lines of a traceback."""
    return (line for part in traceback.format_exception(error) for line in part.splitlines())


@contextmanager
def log_to(talk: Talk) -> Iterator[None]:
    """Within the context, notes and warnings go to standard error unless quiet, details only if verbose."""
    log = logging.getLogger(PACKAGE)
    handler = _TalkHandler(talk)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class _TalkHandler(logging.Handler):
    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            # What it came to is told by whoever it happened to.
            for line in list_trace(record.exc_info[1]):
                self._talk.detail(line)
            return
        say = self._talk.detail if record.levelno < logging.INFO else self._talk.note
        say(record.getMessage())


def _find_address() -> str:
    """The address for reports, if the package's metadata has one."""
    try:
        urls = metadata(DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    addresses = dict(url.split(", ", 1) for url in urls if ", " in url)
    found = next((url for name, url in addresses.items() if name.lower() in {"issues", "bug tracker"}), None)
    return "" if found is None else f"at {found} "
