"""The worker processes of `idefics serve --workers`: each has the model; a job goes to the least busy one.

A request whose worker ended is sent again elsewhere. A request whose client hung up is stopped.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from ..backends import Outcome, PreparedRequest
from ..backends.backend import Opening
from ..backends.daemon.ahead import Sending
from ..backends.daemon.backend import USES
from ..backends.daemon.protocol import read_outcomes
from ..backends.pool.backend import Member
from ..backends.pool.processes import ProcessPool, WorkerProcess
from ..errors import AnswerError, IdeficsError, ItemError, ModelError, ServerLost
from ..values import list_sources
from .jobs import Job

BATCHES_AHEAD = 2
"""Batches a worker has at a time: the current and the next one."""
CountGiven = Callable[[int, int], None]
"""Called with the number of requests that were given to a worker, and how many it has now."""


@dataclass(slots=True, eq=False)
class AskedJob:
    """A job in progress."""

    job: Job
    failure: IdeficsError | None = None
    """Why the whole job failed."""
    heard: str = ""
    """Text already sent to the client."""
    hearing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True, eq=False)
class JobRequest:
    """A request by its number in its job. Requests of one part go to one worker."""

    asked: AskedJob
    part: int
    number: int


class ServedProcess(WorkerProcess):
    """A worker that answers requests of a server's clients and streams their text."""

    serves: ClassVar[bool] = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.count_given: CountGiven = lambda requests, held: None
        self._held = 0
        self._lock = threading.Lock()

    def _ask(self, batch: Sequence[PreparedRequest]) -> list[Outcome]:
        first = cast(JobRequest, batch[0].work)
        asked, sending = first.asked, Sending()
        job = asked.job
        job.stops.append(sending.stop)
        self._hold(len(batch))
        hear = _Hearing(asked, sending) if job.on_text is not None and first.number == 0 else None
        try:
            if job.is_cancelled:
                return [_abandoned() for _ in batch]
            requests = [one.request for one in batch]
            images = {source: job.images[source] for one in requests for source in list_sources(one.prompt)}
            reply = self.resident.send(requests, images, hear, sending)
            return read_outcomes(reply["outcomes"])
        except _Differs:
            error = AnswerError(
                "the worker went away after it had begun to answer, and the answer is another now",
                code="worker_lost",
                hint="ask again",
            )
            return [error for _ in batch]
        except ServerLost as lost:
            if job.is_cancelled:
                return [_abandoned() for _ in batch]
            raise ServerLost(f"{self.name} ended while it was answering") from lost
        except ModelError as failure:
            asked.failure = failure
            return [ItemError(str(failure), code=failure.code) for _ in batch]
        finally:
            self._hold(-len(batch))
            sending.stop()
            job.stops.remove(sending.stop)

    def _hold(self, count: int) -> None:
        """The worker has so many requests more, or fewer."""
        with self._lock:
            self._held += count
            held = self._held
        if count > 0:
            self.count_given(count, held)


class ServedPool(ProcessPool):
    """The workers of a server, in place of a model in its own process."""

    process_type: ClassVar[type[WorkerProcess]] = ServedProcess

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        assert opening.batch_size is not None
        self.batch_size = opening.batch_size
        self._wait_seconds = math.inf  # a server does not end for it

    @property
    def lonely_seconds(self) -> float:
        """How long no worker has been there."""
        return 0.0 if self._alone_since is None else time.monotonic() - self._alone_since

    @property
    def size(self) -> int:
        return len(self._processes)

    def measure(self) -> Counter[str]:
        """The sum of what the workers measure."""
        return sum((Counter(process.tell(USES)) for process in self._list_served()), Counter())

    def describe_workers(self) -> list[dict[str, Any]]:
        """Device, process id and status of each worker."""
        lost = {member.worker.name for member in list(self._members.values()) if member.seat.is_lost}
        return [
            {
                "name": process.name.removeprefix("the worker on "),
                "pid": process.pid,
                "status": "starting" if process.name in lost or process.has_ended else "ready",
            }
            for process in self._processes
        ]

    def count_given(self, count: CountGiven) -> None:
        for process in self._list_served():
            process.count_given = count

    def cut(self, asked: AskedJob, most: int) -> Iterable[PreparedRequest]:
        """The requests of a job, in about one part per worker, at most `most` requests each."""
        requests = asked.job.requests
        size = max(1, min(most, -(-len(requests) // self.size)))
        for number, request in enumerate(requests):
            yield PreparedRequest(request, JobRequest(asked, number // size, number))

    def _list_served(self) -> list[ServedProcess]:
        return [process for process in self._processes if isinstance(process, ServedProcess)]

    def _shape(self, batch_size: int) -> tuple[int, int]:
        return 1, BATCHES_AHEAD * batch_size

    def _add(self, taken: Sequence[PreparedRequest]) -> None:
        parts: dict[tuple[int, int], list[PreparedRequest]] = {}
        for one in taken:
            parts.setdefault((id(one.work.asked), one.work.part), []).append(one)
        for part in parts.values():
            self._schedule.add_together(part)

    def _find_lost(self) -> list[tuple[Member, ServerLost]]:
        return [
            (member, ServerLost(f"{member.worker.name} ended"))
            for member in self._members.values()
            if not member.seat.is_lost and cast(WorkerProcess, member.worker).has_ended
        ]


class _Differs(Exception):
    """The new answer does not begin with the text already sent."""


class _Hearing:
    """Hands on the text of an answer; after a restart only what the client does not have yet."""

    def __init__(self, asked: AskedJob, sending: Sending) -> None:
        self._asked = asked
        self._sending = sending
        self._text = ""

    def __call__(self, piece: str) -> None:
        self._text += piece
        on_text = self._asked.job.on_text
        if self._sending.is_stopped or on_text is None:
            return
        with self._asked.hearing:
            heard = self._asked.heard
            if not self._text.startswith(heard) and not heard.startswith(self._text):
                raise _Differs
            if new := self._text[len(heard) :]:
                self._asked.heard = self._text
                on_text(new)


def _abandoned() -> ItemError:
    """The outcome of a request whose client hung up."""
    return ItemError("nobody waits for it", code="internal")
