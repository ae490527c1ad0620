"""Unexpected errors: the traceback for those who want to see it, and where to report them."""

from __future__ import annotations

import platform
import traceback
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata

from .. import __version__
from .output import say

DISTRIBUTION = "idefics-cli"


def ask_to_report(problem: str) -> None:
    """Print what to report, in one line, and where."""
    told = f"idefics {__version__}, Python {platform.python_version()}, {platform.system()}: {problem}"
    say(f"please report it {_find_address()}with this line: {told}")


def list_trace(error: BaseException) -> Iterable[str]:
    """The lines of a traceback."""
    return (line for part in traceback.format_exception(error) for line in part.splitlines())


def _find_address() -> str:
    """The address for reports, if the package's metadata has one."""
    try:
        urls = metadata(DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    addresses = dict(url.split(", ", 1) for url in urls if ", " in url)
    found = next((url for name, url in addresses.items() if name.lower() in {"issues", "bug tracker"}), None)
    return "" if found is None else f"at {found} "
