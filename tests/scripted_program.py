"""The program with a scripted backend, in a process of its own: for signals, terminals and pipes.

`$SCRIPTED_SECONDS` is how long each answer takes. A file name with "fail" in it fails.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from idefics_cli.cli.app import main
from idefics_cli.cli.ask import open_with
from idefics_cli.errors import AnswerError, ItemError
from idefics_cli.values import Request
from tests.scripted import ScriptedBackend

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "tests.scripted_program"]


def reply(request: Request) -> str | ItemError:
    time.sleep(float(os.environ.get("SCRIPTED_SECONDS", "0")))
    name = Path(request.images[0]).name if request.images else request.id
    if "fail" in name:
        return AnswerError("no memory", code="out_of_memory")
    return f" It is {name}."


if __name__ == "__main__":
    open_with.set(ScriptedBackend(reply).open)
    main()
