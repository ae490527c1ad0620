"""The program run in this process, as `main` runs it, with its streams caught."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from idefics_cli.backends import Backend
from idefics_cli.cli.app import execute
from idefics_cli.cli.ask import open_with
from idefics_cli.values import ModelSpec


class AnyBackend(Protocol):
    """One that a test brings instead of a model."""

    def open(self, spec: ModelSpec, batch_size: int) -> Backend: ...


@dataclass(frozen=True)
class Run:
    code: int
    stdout: str
    stderr: str


def run_program(*arguments: str | Path, backend: AnyBackend | None = None, stdin: bytes = b"") -> Run:
    """Run one command line; a backend given here answers it instead of a model."""
    out, err = io.BytesIO(), io.BytesIO()
    stdout, stderr = (io.TextIOWrapper(s, "utf-8", "surrogateescape", newline="") for s in (out, err))
    token = open_with.set(backend.open) if backend is not None else None
    own_stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            code = execute([str(argument) for argument in arguments])
    finally:
        sys.stdin = own_stdin
        if token is not None:
            open_with.reset(token)
    stdout.flush()
    stderr.flush()
    return Run(code, out.getvalue().decode("utf-8", "surrogateescape"), err.getvalue().decode())
