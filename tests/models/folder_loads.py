"""A process that opens the folders it is told, one after the other, and says what each came to and took."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
ENDS_AFTER_SECONDS = 300.0


@dataclass(frozen=True)
class Outcome:
    """What became of a folder. `peak_bytes` is the most that was ever held, until then."""

    error: str | None
    seconds: float
    peak_bytes: int


class Opener:
    """The process, asked from here."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, folder: Path, *, loads: bool = False) -> Outcome:
        """Open a folder there, and load its weights too if that is wanted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(ENDS_AFTER_SECONDS, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps([str(folder), loads]) + "\n")
            self._process.stdin.flush()
            said = self._process.stdout.readline()
        finally:
            timer.cancel()
        assert said, "the process ended"
        return Outcome(**json.loads(said))


@contextmanager
def opening() -> Iterator[Opener]:
    command = [sys.executable, "-m", "tests.models.folder_loads"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield Opener(process)
        finally:
            process.kill()


def main() -> None:
    from idefics_cli.errors import ModelError
    from idefics_cli.models.loading import load_model, open_family
    from idefics_cli.values import ModelSpec

    for line in sys.stdin:
        folder, loads = json.loads(line)
        spec = ModelSpec(folder, device="cpu")
        began, error = time.monotonic(), None
        try:
            family = open_family(spec)
            if loads:
                load_model(spec, family)
        except ModelError as refusal:
            error = str(refusal)
        seconds = time.monotonic() - began
        own, ended = (
            resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        others = [child.memory_info().rss for child in psutil.Process().children()]
        outcome = {"error": error, "seconds": seconds, "peak_bytes": own + max(ended, *others, 0)}
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
