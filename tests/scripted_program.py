"""The program with a scripted backend, in a process of its own: for signals, terminals and pipes.

`$SCRIPTED_SECONDS` is how long each answer takes, `$SCRIPTED_CHARACTER_SECONDS` each character of it. A file name with
"fail" in it fails. In a conversation it says `$SCRIPTED_REPLY`, else repeats what it hears.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from idefics_cli.cli.app import main
from idefics_cli.cli.ask import open_with
from idefics_cli.errors import AnswerError, ItemError, PromptError
from idefics_cli.values import Request, TextPart, list_sources
from tests.scripted import ScriptedBackend

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "tests.scripted_program"]


def reply(request: Request) -> str | ItemError:
    time.sleep(float(os.environ.get("SCRIPTED_SECONDS", "0")))
    if request.task == "chat":
        return repeat(request)
    name = Path(request.images[0]).name if request.images else request.id
    if "fail" in name:
        return AnswerError("no memory", code="out_of_memory")
    return f" It is {name}."


def repeat(request: Request) -> str | ItemError:
    """The message, what came before it, and the images, in Markdown."""
    if said := os.environ.get("SCRIPTED_REPLY"):
        return said
    message = dict(request.fields)["message"]
    if "<image>" in message:
        return PromptError("the text contains '<image>', a special token", code="special_token")
    if "long" in message:
        return PromptError("the prompt takes 9000 tokens", code="prompt_too_long")
    turns = sum(one.role == "assistant" for one in request.prompt)
    names = ", ".join(Path(source).name for source in list_sources(request.prompt)) or "no image"
    first = request.prompt[0]
    system = f" as {first.parts[0].text}" if first.role == "system" and isinstance(first.parts[0], TextPart) else ""
    return f" I **heard** {message!r} after {turns} replies{system}\x1b[2J.\n\n1. saw {names}"


if __name__ == "__main__":
    seconds = float(os.environ.get("SCRIPTED_CHARACTER_SECONDS", "0"))
    open_with.set(ScriptedBackend(reply, character_seconds=seconds, remembers=False).open)
    main()
