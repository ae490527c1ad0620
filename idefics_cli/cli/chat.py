"""What `chat` does: holds a conversation on a terminal, or line by line through a pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

from ..config import Model
from ..errors import NothingToDo, UsageError
from ..images import expand
from ..jsonl import dump_row, read_lines
from ..prompts.conversation import Conversation
from ..rows import Result
from ..runner.chat_session import Session
from ..runner.run import Report
from ..values import Decoding, ModelSpec
from .ask import open_chosen
from .formats import refuse_tables
from .log import ask_to_report
from .model_choice import choose_model, choose_spec, complete_decoding
from .output import emit, is_terminal, may_fetch, one_line, say_error, tell_more
from .progress import Tally
from .settings import Settings
from .signals import INTERRUPTED

AGAIN_SECONDS = 1.0
"""After so long, a SIGTERM that had no effect is sent again."""


def converse(images: Sequence[str], settings: Settings, *, system: str | None, saved: str | None) -> None:
    """Talk until the input ends. Raises typer.Exit(1) when a question from a pipe failed."""
    if "-" in images:
        raise UsageError("standard input has the questions, so it cannot be an image", hint="name a file")
    talk = settings.talk
    decoding = complete_decoding(settings)
    conversation = Conversation(Decoding())
    conversation.decoding = replace(conversation.template.decoding.to_decoding(), **decoding)
    refuse_tables(settings.output.format)
    model = choose_model(settings)
    with contextlib.ExitStack() as held:
        backend = open_chosen(_choose_spec(model, settings), model, settings, held)
        session = Session(conversation, backend, Report(model=model.name), settings.limits)
        if saved is not None:
            session.load(Path(saved), may_fetch)
            session.conversation.decoding = replace(session.conversation.decoding, **decoding)
        if system is not None:
            session.set_system(system)
        session.add_images(list(expand(images, recursive=False)))
        if settings.output.format is None and is_terminal():
            from .terminal import Terminal

            with _ending_at_sigterm():
                Terminal(session, model.name, talk).run()
            return
        _answer_lines(session, settings)


def _choose_spec(model: Model, settings: Settings) -> ModelSpec:
    """Base checkpoints get --style completion, unless they were trained on conversations too."""
    spec = choose_spec(model, settings)
    is_base = spec.style == "completion" and not (model.entry and model.entry.converses)
    return replace(spec, style=settings.model.style or ("completion" if is_base else "chat"))


def _answer_lines(session: Session, settings: Settings) -> None:
    """One answer for each line that is not blank, as soon as it is complete."""
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed", hint="pipe questions into it, one a line")
    has_asked = False
    tally = Tally()
    for _, line in read_lines(sys.stdin.buffer):
        has_asked = True
        # Bytes that are no text come through as what `word` refuses.
        result = session.ask(line.decode("utf-8", "surrogateescape").strip())
        _write(result, settings)
        tally.add(result)
    if not has_asked:
        raise NothingToDo("no questions", hint="pipe them in, one a line, or talk on a terminal")
    if tally.unforeseen:
        ask_to_report(tally.unforeseen)
    if tally.failed:
        raise typer.Exit(1)


def _write(result: Result, settings: Settings) -> None:
    if settings.output.format == "jsonl":
        emit(dump_row(result.to_row()))
    else:
        emit(one_line(result.text or ""))
        if result.error is not None:
            say_error(f"{result.id}: {result.error.message}")
    tell_more(result, settings.talk)


@contextlib.contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """SIGTERM ends the conversation, while Ctrl-C stops only the current reply."""
    has_ended = threading.Event()

    def send_again() -> None:
        if not has_ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> NoReturn:
        """Any exception but this one and KeyboardInterrupt would be lost in the event loop of the prompt.

        One that is raised within a finaliser is lost too, so the signal is sent again until it has an effect.
        """
        again = threading.Timer(AGAIN_SECONDS, send_again)
        again.daemon = True
        again.start()
        raise SystemExit(INTERRUPTED)

    def tell(lost: sys.UnraisableHookArgs) -> None:
        """Python prints what a finaliser raised; the end of the conversation is no error to report."""
        if not isinstance(lost.exc_value, SystemExit):
            told_before(lost)

    before, told_before = signal.signal(signal.SIGTERM, end), sys.unraisablehook
    sys.unraisablehook = tell
    try:
        yield
    finally:
        has_ended.set()
        sys.unraisablehook = told_before
        signal.signal(signal.SIGTERM, before)
