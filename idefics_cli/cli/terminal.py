"""A conversation on a terminal: input lines with a history, replies shown while they are generated, as Markdown."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.live import Live

from ..config import state_folder
from ..errors import IdeficsError, ModelError, to_item_error
from ..runner.chat_session import Session
from .chat_commands import ENDS, as_message, is_command, looks_like_image, obey
from .markdown import AsShown, WholeMarkdown
from .output import Talk, ask_yes_or_no, drop_controls, say, say_error, tell_more

REFRESH_SECONDS = 0.05
_WAYS_OUT = {
    "prompt_too_long": "/undo takes back the last message, /reset begins a new conversation",
    "out_of_memory": "/undo takes back the last message, /reset begins a new conversation",
}


class Terminal:
    """Runs one session with the person at the keyboard."""

    def __init__(self, session: Session, model: str, talk: Talk) -> None:
        self._session = session
        self._model = model
        self._talk = talk
        self._has_told_of_images = False
        self._console = Console(highlight=False)
        self._lines: PromptSession[str] = PromptSession(
            history=_open_history(), key_bindings=_bind_keys(), multiline=True, prompt_continuation="  "
        )

    def run(self) -> None:
        """Until Ctrl-D. Raises ModelError when the model cannot run."""
        self._talk.note(f"talking with {self._model}; /help lists the commands, Ctrl-D ends")
        while True:
            try:
                line = self._lines.prompt("> ").strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if looks_like_image(line) and ask_yes_or_no("is this an image to look at?"):
                self._obey(f"/image {line}")
            elif line.removeprefix("/") in ENDS and is_command(line):
                return
            elif is_command(line):
                self._obey(line)
            elif line:
                self._tell_of_images()
                self._ask(as_message(line))

    def _tell_of_images(self) -> None:
        """Say once that no image was shown: a question without one is usually a mistake."""
        conversation = self._session.conversation
        if not (self._has_told_of_images or conversation.waiting or conversation.list_sources()):
            self._has_told_of_images = True
            self._talk.note("no image was shown yet; /image PATH shows one with the next message")

    def _obey(self, line: str) -> None:
        try:
            for told in obey(self._session, line).splitlines():
                say(told)
        except ModelError:
            raise
        except IdeficsError as error:
            say_error(str(error))
        except Exception as error:
            say_error(str(to_item_error(error)))

    def _ask(self, message: str) -> None:
        try:
            with LiveReply(self._console) as reply:
                result = self._session.ask(message, reply.take)
        except KeyboardInterrupt:
            said = "what was said so far stays" if reply.text.strip() else "it had said nothing yet"
            self._talk.note(f"stopped; {said}")
            return
        if result.error is not None:
            way_out = _WAYS_OUT.get(result.error.code)
            say_error(result.error.message)
            if result.error.code == "special_token" and self._session.conversation.turns:
                way_out = "if it stands in an earlier reply, /undo takes that back"
            if way_out:
                self._talk.note(way_out)
        elif result.finish_reason == "length":
            tokens = result.decoding.max_new_tokens
            self._talk.note(f"cut off at {tokens} tokens; /set max_new_tokens {4 * tokens} gives it more room")
        tell_more(result, self._talk)


class LiveReply:
    """A reply on the screen while it is generated. A finished paragraph is printed once, the current one is redrawn."""

    def __init__(self, console: Console) -> None:
        self.text = ""
        self._shown = 0
        self._drawn_seconds = 0.0
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._print(self.text[self._shown :])

    def take(self, piece: str) -> None:
        self.text = (self.text + drop_controls(piece)).lstrip()
        rest = self.text[self._shown :]
        if end := find_paragraph_end(rest):
            self._print(rest[:end])
            self._shown += end
        if end or time.monotonic() - self._drawn_seconds > REFRESH_SECONDS:
            self._live.update(AsShown(self._render(self.text[self._shown :])), refresh=True)
            self._drawn_seconds = time.monotonic()

    def _print(self, text: str) -> None:
        if text.strip():
            self._console.print(self._render(text), crop=False)

    def _render(self, text: str) -> WholeMarkdown:
        # Links are shown with their address: what a model writes may name one and lead to another.
        return WholeMarkdown(text, hyperlinks=False)


def find_paragraph_end(text: str) -> int:
    """The end of the last finished paragraph: after a blank line outside a code block; 0 if there is none."""
    end = place = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        place += len(line)
        mark = line.lstrip()[:3]
        if mark in ("```", "~~~") and fence in ("", mark):
            fence = "" if fence else mark
        elif not line.strip() and line.endswith("\n") and not fence:
            end = place
    return end


def _bind_keys() -> KeyBindings:
    keys = KeyBindings()

    # Ctrl-J is Enter as well: so a terminal hands on an Enter that was typed ahead, during a reply.
    @keys.add("enter")
    @keys.add("c-j")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("escape", "c-j")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _open_history() -> History:
    """Earlier input, in a file that only this user can read; otherwise only that of this session."""
    path = state_folder() / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
