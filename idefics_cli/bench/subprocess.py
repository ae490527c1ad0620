"""Work done in a fresh process, which ends with this one and ignores its Ctrl-C.

Where it is safe the process is forked from one that has torch imported already.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import AnswerError, IdeficsError, ModelError
from .measure import ArmJob

SERVER_ENDED = 255
"""What multiprocessing gives as the exit code of a child whose fork server is gone."""
PRELOADED = [
    *("idefics_cli.bench.baseline", "idefics_cli.bench.roofline", "idefics_cli.backends.local"),
    *(
        "transformers.modeling_utils",
        "transformers.models.auto.processing_auto",
        "transformers.generation.utils",
    ),
]
"""What every child would import; done once where children are forked."""

T = TypeVar("T")


class Runs(Protocol):
    """How a function is run: by `run_in_child`, or in this process by a test."""

    def __call__(self, work: Callable[[ArmJob], T], job: ArmJob, /) -> T: ...


def run_in_child(work: Callable[[ArmJob], T], job: ArmJob) -> T:
    """Run a function in a fresh process. If the system kills it, as it does without memory, raises AnswerError."""
    start = _choose_start()
    context: Any = multiprocessing.get_context(start)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(work, job, sender), daemon=True)
    with _deaf_to_interrupts():
        if start == "forkserver":
            context.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()  # starts the imports and does not wait for them
        else:
            child.start()
    try:
        if start == "forkserver":
            child.start()
        sender.close()
        failure, result = receiver.recv()
    except EOFError:
        code = _wait_for_code(child)
        if 0 <= code < SERVER_ENDED:
            raise RuntimeError("a measurement failed; its error is above") from None
        raise AnswerError(
            "the system ended the process" + (f" with signal {-code}" if code < 0 else ""),
            code="out_of_memory",
            hint="it ran out of memory, most likely",
        ) from None
    finally:
        if sys.exc_info()[0] is KeyboardInterrupt and child.pid is not None:
            child.terminate()
        _wait_for_code(child)
    if failure is not None:
        raise ModelError(failure)
    done: T = result
    return done


def _wait_for_code(child: Any) -> int:
    """The exit code of a child after its end, that of a lost server if it never started."""
    if child.pid is None:
        return SERVER_ENDED
    child.join()
    return int(child.exitcode)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started here ignore Ctrl-C; this process gets it and stops them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(work: Callable[[ArmJob], object], job: ArmJob, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    result: tuple[str | None, object]
    try:
        result = (None, work(job))
    except IdeficsError as error:
        result = (str(error), None)
    with suppress(BrokenPipeError):  # interrupted: nobody listens
        sender.send(result)


def _end_with_parent() -> None:
    """End this process when its parent has ended: nobody waits for the result."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _choose_start() -> str:
    """Fork children from a process with torch imported, unless a fork could break a GPU's driver."""
    has_gpu = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dri"))
    return "forkserver" if sys.platform == "linux" and not has_gpu else "spawn"
