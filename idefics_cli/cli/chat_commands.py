"""The commands within a conversation: `/image`, `/undo`, … One table; each says what it did in a line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields

from ..config import expand_user
from ..errors import UsageError
from ..images import has_image_suffix, is_url
from ..runner.chat_session import Session
from ..values import Decoding
from .output import ask_yes_or_no, may_fetch

ENDS = ("exit", "quit", "bye")
"""Other words for Ctrl-D."""


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    argument: str
    help: str
    run: Callable[[Session, str], str]


def is_command(line: str) -> bool:
    return line.startswith("/") and not line.startswith("//")


def as_message(line: str) -> str:
    """A message that begins with a slash is written with two."""
    return line.removeprefix("/") if line.startswith("//") else line


def looks_like_image(message: str) -> bool:
    """Whether a message is only the name of an image that exists."""
    name = os.path.expanduser(message.strip().strip("'\""))
    return has_image_suffix(name) and (is_url(name) or os.path.isfile(name))


def obey(session: Session, line: str) -> str:
    """Run a command and say what it did. Raises IdeficsError."""
    name, _, argument = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(f"no command /{name}", hint="/help lists them; write // for a message with a slash")
    argument = argument.strip()
    if argument and not command.argument:
        raise UsageError(f"/{name} takes no argument")
    if command.argument.isupper() and not argument:
        raise UsageError(f"/{name} needs an argument", hint=f"write /{name} {command.argument}")
    return command.run(session, argument)


def _show_image(session: Session, argument: str) -> str:
    sources = _parse_names(argument)
    session.add_images(sources)
    count = len(session.conversation.waiting)
    return f"{'an image goes' if count == 1 else f'{count} images go'} with the next message"


def _undo(session: Session, argument: str) -> str:
    if not session.conversation.undo():
        return "there is nothing to take back"
    waiting = "; its images go with the next one" if session.conversation.waiting else ""
    return f"took back the last message and its reply{waiting}"


def _reset(session: Session, argument: str) -> str:
    session.conversation.reset()
    return "a new conversation"


def _set_system(session: Session, argument: str) -> str:
    session.set_system(argument)
    return "system message set" if argument else "system message removed"


def _save(session: Session, argument: str) -> str:
    path = expand_user(argument)
    if path.exists() and not ask_yes_or_no(f"replace {path}?"):
        return f"{path} was not replaced"
    session.save(path)
    return f"saved as {path}"


def _load(session: Session, argument: str) -> str:
    session.load(expand_user(argument), may_fetch)
    return f"{len(session.conversation.turns)} messages and their replies"


def _set(session: Session, argument: str) -> str:
    name, _, value = argument.partition(" ")
    if name:
        if not value.strip():
            raise UsageError(f"/set {name} needs a value", hint="write /set temperature 0.7")
        session.set_option(name, value.strip())
    decoding = session.conversation.decoding
    return ", ".join(f"{each.name} {_show(getattr(decoding, each.name))}" for each in fields(Decoding))


def _show(value: object) -> str:
    return (" ".join(map(repr, value)) or "none") if isinstance(value, tuple) else str(value)


def _list_commands(session: Session, argument: str) -> str:
    lines = [(f"/{one.name} {one.argument}".rstrip(), one.help) for one in COMMANDS.values()]
    lines += [
        ("Alt-Enter", "a new line within the message"),
        ("Ctrl-C", "stop the reply; what was written stays"),
        ("Ctrl-D", "end; so do /exit and /quit"),
    ]
    return "\n".join(f"{keys:<20} {help}" for keys, help in lines)


def _parse_names(argument: str) -> list[str]:
    """One name as it is, or several as a shell has them."""
    if is_url(argument) or os.path.lexists(os.path.expanduser(argument)):
        names = [argument]
    else:
        try:
            names = shlex.split(argument)
        except ValueError:
            names = [argument]
    if "-" in names:
        raise UsageError("standard input is where you type", hint="name a file or a URL")
    return [name if is_url(name) else os.path.expanduser(name) for name in names]


COMMANDS = {
    command.name: command
    for command in (
        Command("image", "PATH|URL", "show an image with the next message", _show_image),
        Command("undo", "", "take back the last message and its reply", _undo),
        Command("reset", "", "begin a new conversation", _reset),
        Command(
            "system",
            "[text]",
            "set how the model should behave (system message); no text removes it",
            _set_system,
        ),
        Command("save", "FILE", "write the conversation to a file", _save),
        Command("load", "FILE", "continue a saved conversation", _load),
        Command("set", "[name value]", "show the decoding options, or change one", _set),
        Command("help", "", "list the commands", _list_commands),
    )
}
