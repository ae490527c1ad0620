"""The only place that prints: results on stdout or as text into a file, talk on stderr.

How a result looks is said by its format (`formats`). A closed pipe ends the program without a message.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import UnsupportedOperation
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TextIO

from ..errors import UsageError
from ..files import append_whole, is_own_stream, name_kind
from ..rows import Result
from ..url_secrets import hide_secrets
from .width import count_columns, find_columns, fit_table, fold

_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
# What a terminal would obey rather than show, turning text around included: an image may make a model say anything.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# The same as single bytes of a name that is not UTF-8, and as what is left of a character when one between is dropped.
_CONTROL_BYTES = re.compile("[\udc80-\udc9f]")


def emit(text: str, end: str = "\n") -> None:
    """Write data to stdout, at once."""
    if sys.stdout is None:
        raise UsageError("standard output is closed", hint="write to a file with --output")
    _write(sys.stdout, _make_harmless(text, sys.stdout) + end, "standard output")


def emit_table(rows: Sequence[Sequence[str]], *, has_head: bool = False) -> None:
    """Write rows to stdout as columns, or as narrow as the terminal is."""
    for line in fit_table(rows, find_columns(sys.stdout), has_head=has_head):
        emit(line)


def emit_folded(line: str) -> None:
    """Write a line for people to stdout, broken between words where the terminal ends."""
    emit(fold(line, find_columns(sys.stdout)))


def emit_name(name: str, end: str) -> None:
    """Write the name of a file to stdout: in its own bytes, but without control codes on a terminal."""
    if sys.stdout is None or sys.stdout.isatty():
        emit(name, end)
    else:
        _write(sys.stdout, name + end, "standard output")


def say(line: str) -> None:
    """Write one line of talk to stderr. A closed stderr is no error."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            told = f"idefics: {_make_harmless(one_line(line), sys.stderr)}"
            sys.stderr.write(f"{fold(told, find_columns(sys.stderr))}\n")
            sys.stderr.flush()


def say_error(line: str) -> None:
    say(f"error: {line}")


def ask_yes_or_no(question: str) -> bool:
    """Ask on stderr; only `yes` typed on a terminal counts. Raises UsageError where nobody can answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"{question} needs an answer, and standard input is not a terminal", hint="give --yes")
    sys.stderr.write(fold(f"idefics: {one_line(question)} [y/N]", find_columns(sys.stderr)) + " ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def may_fetch(urls: list[str]) -> bool:
    """Ask whether images that a file from elsewhere names may be fetched. Raises UsageError where nobody can say."""
    names = ", ".join(dict.fromkeys(url.split("/")[2].rpartition("@")[2] for url in urls))
    count = f"{len(urls)} images" if len(urls) > 1 else "an image"
    if not is_terminal():
        raise UsageError(f"the conversation needs {count} from {names}", hint="load it on a terminal")
    return ask_yes_or_no(f"fetch {count} from {names}?")


def say_at_once(line: str) -> None:
    """Write a message from within a signal handler, which may have interrupted `say` itself."""
    with contextlib.suppress(OSError):
        os.write(2, f"{fold(f'idefics: {line}', count_columns(2))}\n".encode())


def one_line(text: str) -> str:
    """The text on one line without tabs, so that lines and columns are not disturbed."""
    return drop_controls(_BREAKS.sub(" ", text))


def drop_controls(text: str) -> str:
    """The text without control codes for a terminal; line breaks stay."""
    return _CONTROLS.sub("", text)


def _make_harmless(text: str, stream: TextIO) -> str:
    """The text as a stream can encode it; names keep their bytes where no terminal reads them."""
    text = drop_controls(text)
    return _CONTROL_BYTES.sub("\N{REPLACEMENT CHARACTER}", text) if stream.isatty() else text


def use_utf8() -> None:
    """Results are UTF-8 whatever the locale, and a path is written in its own bytes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="surrogateescape")


def is_terminal() -> bool:
    """Whether a person types, and reads the results."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def display_name(sources: tuple[str, ...]) -> str:
    """Sources as a column: data URLs shortened, several joined."""
    shown = (
        source.split(",")[0] + ",…" if source[:5].lower() == "data:" else hide_secrets(source) for source in sources
    )
    return ", ".join(shown)


def tell_failure(name: str, message: str) -> None:
    """Print why an item failed, with its name once."""
    from ..images import name_source

    is_named = False
    for called in (name, name_source(name)):  # messages show what a terminal would obey
        bare = called.partition("?")[0]
        begins_so = message.startswith(bare) and message[len(bare) : len(bare) + 1] in {" ", "?", ":"}
        is_named = is_named or begins_so or f" {bare} (" in message
    say_error(message if is_named else f"{name}: {message}")


@dataclass(frozen=True, slots=True)
class Talk:
    """What goes to standard error: errors always, notes unless quiet, details if verbose."""

    quiet: bool = False
    verbose: bool = False

    def note(self, line: str) -> None:
        if not self.quiet:
            say(line)

    def detail(self, line: str) -> None:
        if self.verbose and not self.quiet:
            say(line)


@dataclass(frozen=True, slots=True)
class FormatTraits:
    """What a format supports."""

    can_resume: bool = False
    """Whether a file of it says what its rows are about, so that a run can be resumed from it."""
    streams: bool = False
    """Whether a single answer can be shown while it is generated."""
    is_table: bool = False
    """Whether its file is written at the end of a run, from rows that are kept beside it."""


class ResultFormat(Protocol):
    """The interface of a format."""

    traits: ClassVar[FormatTraits]

    def __init__(self, layout: Any) -> None: ...

    def write(self, result: Result) -> Sequence[str]:
        """The lines of one result, in order; none for a result that is not shown."""
        ...


@dataclass(slots=True)
class Output:
    """Writes results in a format. The file is created with the first row."""

    format: ResultFormat
    path: Path | None = None
    existing: Literal["refuse", "overwrite"] = "refuse"
    is_kept_elsewhere: bool = False
    """Whether rows are written elsewhere, so that only failures are told here."""
    is_silent: bool = False
    """Whether only failures are shown."""
    url: str | None = None
    """Where in a bucket the rows go, for which those in `path` wait."""
    table: str | None = None
    """The table that is written from the rows in `path` when the run ends."""
    _file: int | None = field(default=None, init=False)
    _streamed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Find out before the model is loaded that results could not be written."""
        if self.path is None:
            return
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            kind = name_kind(_stat(self.path).st_mode)
            if kind is not None and not is_own_stream(self.path):
                raise UsageError(f"{self.path} is {kind}", hint="--output takes a file")
        if not self.path.parent.is_dir():
            raise UsageError(f"there is no folder {self.path.parent}", hint="make it first")
        if self.existing == "refuse" and self.path.is_file() and not self.is_kept_elsewhere:
            raise UsageError(
                f"{self.path} exists, and text output cannot be resumed",
                hint="use --format jsonl, name another file, or replace it with --existing overwrite",
            )

    @property
    def name(self) -> str:
        """The name of the output in messages."""
        return str(self.path) if self.url is None else hide_secrets(self.url)

    @property
    def is_watched(self) -> bool:
        """Whether somebody reads the results on a terminal."""
        is_here = self.path is None and not self.is_silent
        return is_here and sys.stdout is not None and sys.stdout.isatty()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def write(self, result: Result) -> None:
        """Write one result, if it is shown here."""
        if not self.is_kept_elsewhere and not self.is_silent:
            for line in [""] if self._streamed else self.format.write(result):
                self._line(line)

    def streamer(self) -> Callable[[str], None]:
        """Takes pieces of the only answer while it is generated; its row is then not printed again."""
        pending = ""

        def take(piece: str) -> None:
            nonlocal pending
            shown = drop_controls(pending + piece)
            if not self._streamed:
                shown = shown.lstrip()
            if not shown:
                return
            # Space at the end is kept back: it is dropped if nothing follows, as in the row.
            visible = shown.rstrip()
            pending = shown[len(visible) :]
            self._streamed = self._streamed or bool(visible)
            emit(visible, end="")

        return take

    def _line(self, line: str) -> None:
        if self.path is None:
            emit(line)
            return
        try:
            append_whole(self._open_file(self.path), f"{line}\n".encode("utf-8", "surrogateescape"))
        except BrokenPipeError as error:
            raise SystemExit(0) from error
        except OSError as error:
            raise UsageError(f"cannot write to {self.path}: {error.strerror}") from error

    def _open_file(self, path: Path) -> int:
        if self._file is None:
            is_replaced = self.existing == "overwrite" or is_own_stream(path)
            mode = os.O_TRUNC if is_replaced else os.O_EXCL
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | mode, 0o666)
        return self._file


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _write(stream: TextIO, text: str, name: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError as error:
        # The interpreter flushes stdout once more as it ends, which must not fail again.
        with contextlib.suppress(UnsupportedOperation, OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(0) from error
    except OSError as error:
        raise UsageError(f"cannot write to {name}: {error.strerror}") from error


def tell_more(result: Result, talk: Talk) -> None:
    """The warnings of a result, and its cost."""
    for warning in result.warnings:
        talk.note(warning)
    tell_cost(result.id, result, talk)


def tell_cost(name: str, result: Result, talk: Talk) -> None:
    """How many tokens and seconds a result took."""
    usage = result.usage
    talk.detail(
        f"{name}: {usage.prompt_tokens} + {usage.new_tokens} tokens in {result.seconds:.2f} s, "
        f"{usage.shared_tokens} of them shared"
    )
