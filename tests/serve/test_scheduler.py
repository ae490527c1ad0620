"""The scheduler with a scripted answerer: what shares a batch, what is refused, and who is harmed by whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import PIL.Image
import pytest

from idefics_cli.engine.listener import Listener
from idefics_cli.errors import AnswerError, ModelError
from idefics_cli.serve.jobs import Job, Outcomes, make_job
from idefics_cli.serve.metrics import Metrics
from idefics_cli.serve.scheduler import Refused, Scheduler
from idefics_cli.values import Answer, Image, ImagePart, Message, Request, Usage, list_sources


@dataclass
class Answerer:
    """Echoes ids, in batches that it remembers; waits for `may_go` first, and fails where told to."""

    may_go: threading.Event = field(default_factory=threading.Event)
    began: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)
    fails: Callable[[Request], BaseException | None] = lambda request: None

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
        *,
        listeners: Sequence[Listener | None] = (),
    ) -> Outcomes:
        self.batches.append([request.id for request in requests])
        self.began.set()
        assert self.may_go.wait(30)
        for request, listener in zip(requests, listeners, strict=True):
            assert all(source in images for source in list_sources(request.prompt))
            if (error := self.fails(request)) is not None:
                raise error
            if listener is not None and listener.on_text is not None:
                listener.on_text(f"said {request.id}")
        return [Answer(request.id, usage=Usage(3, 1, 2)) for request in requests]


@contextmanager
def working(answerer: Answerer, *, rows: int = 4, size: int = 8) -> Iterator[tuple[Scheduler, Metrics]]:
    metrics = Metrics()
    scheduler = Scheduler(answerer, metrics, rows=rows, size=size)
    try:
        yield scheduler, metrics
    finally:
        answerer.may_go.set()
        scheduler.close()


def job(*ids: str, on_text: Callable[[str], None] | None = None) -> Job:
    return make_job([Request(id, "vqa", ()) for id in ids], {}, on_text)


def texts(one: Job) -> list[str]:
    return [answer.text for answer in one.outcomes.result(30) if isinstance(answer, Answer)]


def occupy(scheduler: Scheduler, answerer: Answerer) -> Job:
    """Keep the model at work, so that what comes next has to wait."""
    first = job("first")
    scheduler.submit(first)
    assert answerer.began.wait(30)
    return first


def test_what_waits_together_is_answered_together_each_with_its_own() -> None:
    answerer = Answerer()
    with working(answerer) as (scheduler, metrics):
        first = occupy(scheduler, answerer)
        jobs = [job("a"), job("b", "c"), job("d"), job("e")]
        for one in jobs:
            scheduler.submit(one)
        answerer.may_go.set()
        assert [texts(one) for one in (first, *jobs)] == [["first"], ["a"], ["b", "c"], ["d"], ["e"]]
    assert answerer.batches == [["first"], ["a", "b", "c", "d"], ["e"]]
    told = metrics.write({})
    assert "idefics_batch_size_sum 6\nidefics_batch_size_count 3\n" in told
    assert 'idefics_tokens_total{kind="new"} 12\n' in told


def test_those_who_come_within_a_moment_share_a_batch() -> None:
    answerer = Answerer()
    answerer.may_go.set()
    with working(answerer, rows=16, size=64) as (scheduler, _):
        jobs = [job(str(number)) for number in range(8)]
        for one in jobs:
            scheduler.submit(one)
        for one in jobs:
            texts(one)
    assert len(answerer.batches) < 8


def test_one_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class PanicException(BaseException):
        """What pyo3 makes of a panic in a library written in Rust."""

    def fails(request: Request) -> BaseException | None:
        return {"bad": ModelError("refused"), "bug": KeyError("bug"), "panic": PanicException()}.get(
            request.id
        )

    answerer = Answerer(fails=fails)
    with working(answerer) as (scheduler, _):
        occupy(scheduler, answerer)
        jobs = [job("a"), job("bad"), job("bug"), job("b"), job("panic")]
        for one in jobs:
            scheduler.submit(one)
        answerer.may_go.set()
        assert (texts(jobs[0]), texts(jobs[3])) == (["a"], ["b"])
        with pytest.raises(ModelError, match="refused"):
            jobs[1].outcomes.result(30)
        with pytest.raises(KeyError):
            jobs[2].outcomes.result(30)
        with pytest.raises(PanicException):
            jobs[4].outcomes.result(30)
        later = job("later")
        scheduler.submit(later)
        assert texts(later) == ["later"]
    # Bugs are told, with their places.
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_a_full_queue_takes_nothing_more_until_there_is_room() -> None:
    answerer = Answerer()
    with working(answerer, size=2) as (scheduler, _):
        occupy(scheduler, answerer)
        large = job(*map(str, range(5)))
        scheduler.submit(large)  # more than the queue holds, but alone in it
        with pytest.raises(Refused) as refused:
            scheduler.submit(job("b"))
        assert not refused.value.is_ending
        large.abandon()
        scheduler.submit(job("c"))
        assert scheduler.waiting == 1


def test_who_has_gone_is_not_answered() -> None:
    answerer = Answerer()
    with working(answerer) as (scheduler, _):
        occupy(scheduler, answerer)
        gone, here = job("gone"), job("here")
        scheduler.submit(gone)
        scheduler.submit(here)
        assert not any(listener.is_cancelled() for listener in gone.listeners)
        gone.abandon()
        assert all(listener.is_cancelled() for listener in gone.listeners)  # the engine asks at every token
        answerer.may_go.set()
        assert texts(here) == ["here"]
        assert gone.outcomes.cancelled()
    assert answerer.batches == [["first"], ["here"]]


def test_at_the_end_what_is_queued_is_answered_and_nothing_else_taken() -> None:
    answerer = Answerer()
    with working(answerer) as (scheduler, _):
        first = occupy(scheduler, answerer)
        queued = job("queued")
        scheduler.submit(queued)
        scheduler.close()
        with pytest.raises(Refused) as refused:
            scheduler.submit(job("late"))
        assert refused.value.is_ending
        with pytest.raises(Refused) as refused:
            scheduler.call(lambda: None)
        assert refused.value.is_ending
        answerer.may_go.set()
        assert (texts(first), texts(queued)) == (["first"], ["queued"])


def test_the_listener_hears_the_first_and_calls_run_between_batches() -> None:
    answerer = Answerer()
    heard: list[str] = []
    with working(answerer) as (scheduler, _):
        occupy(scheduler, answerer)
        one = job("a", on_text=heard.append)
        scheduler.submit(one)
        call = scheduler.call(lambda: threading.current_thread().name)
        time.sleep(0.05)
        assert not call.done()
        answerer.may_go.set()
        assert call.result(30) == "model"
        texts(one)
    assert heard == ["said a"]


def test_sources_of_two_clients_do_not_meet() -> None:
    def ask(id: str, colour: str) -> Job:
        image = Image("-", PIL.Image.new("RGB", (2, 2), colour), digest=f"digest of {colour}")
        request = Request(id, "vqa", (Message("user", (ImagePart("-"),)),), images=("-",))
        return make_job([request], {"-": image})

    red, blue = ask("a", "red"), ask("b", "blue")
    assert list_sources(red.requests[0].prompt) == ("digest of red",)
    assert list(blue.images) == ["digest of blue"]


def test_a_failed_answer_is_counted_by_its_code() -> None:
    metrics = Metrics()
    metrics.count_batch(2, 0.5)
    metrics.count_outcomes([AnswerError("none", code="no_label"), Answer("x")])
    metrics.count_call("/v1/models", 200)
    told = metrics.write({("queue_requests", ()): 3})
    for line in (
        'idefics_requests_total{outcome="no_label"} 1',
        'idefics_calls_total{route="/v1/models",status="200"} 1',
        "idefics_answer_seconds_total 0.5",
        "idefics_queue_requests 3",
        'idefics_batch_size_bucket{le="+Inf"} 1',
    ):
        assert line in told.splitlines()
