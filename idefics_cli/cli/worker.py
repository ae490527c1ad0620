"""The entry point of a worker process: settings are a line on standard input, an error is a line on standard error."""

from __future__ import annotations

import json
import os
import sys

from ..errors import IdeficsError
from ..models.libraries import import_libraries
from .output import say


def main() -> None:
    given = json.loads(sys.stdin.readline())
    try:
        import_libraries()
        from ..serve.worker import run_worker

        run_worker(given)
    except IdeficsError as error:
        say(str(error))
        os._exit(error.exit_code)
    os._exit(0)
