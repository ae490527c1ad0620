"""The scheduler with a scripted answerer: what runs together, what is refused, and who is harmed by whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise

import PIL.Image
import pytest

from idefics_cli.backends import Outcome, PreparedRequest
from idefics_cli.backends.backend import TakePrepared
from idefics_cli.engine.listener import Listener
from idefics_cli.errors import AnswerError, BadItem, ModelError
from idefics_cli.serve.job_queue import Refused
from idefics_cli.serve.jobs import Job, make_job
from idefics_cli.serve.metrics import Metrics
from idefics_cli.serve.scheduler import Scheduler
from idefics_cli.values import Answer, Image, ImagePart, Message, Request, Usage, list_sources
from tests.serve.running import wait_for


@dataclass
class Answerer:
    """Echoes ids, each after as many steps as it is `long`. A step waits for `may_go`, and fails where told to."""

    may_go: threading.Event = field(default_factory=threading.Event)
    steps: threading.Semaphore | None = None
    """In place of `may_go`: so many steps may go."""
    began: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)
    """What ran in each step."""
    long: Mapping[str, int] = field(default_factory=dict)
    refuses: Callable[[Request], BaseException | None] = lambda request: None
    fails: Callable[[Request], BaseException | None] = lambda request: None

    def prepare(
        self, request: Request, images: Mapping[str, Image], listener: Listener | None = None
    ) -> PreparedRequest:
        assert threading.current_thread().name != "model"
        assert all(source in images for source in list_sources(request.prompt))
        if (error := self.refuses(request)) is not None:
            raise error
        return PreparedRequest(request, listener)

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
        running: dict[PreparedRequest, int] = {}
        taken: Sequence[PreparedRequest] | None = ()
        while taken is not None or running:
            taken = None if taken is None else take(64, not running)
            running |= {one: self.long.get(one.request.id, 1) for one in taken or ()}
            if not running:
                continue
            self.batches.append(sorted(one.request.id for one in running))
            self.began.set()
            assert self.steps.acquire(timeout=30) if self.steps else self.may_go.wait(30)
            for one in list(running):
                running[one] -= 1
                if (error := self.fails(one.request)) is not None:
                    raise error
                if running[one] == 0 or one.work.is_cancelled():
                    del running[one]
                    if one.work.on_text is not None:
                        one.work.on_text(f"said {one.request.id}")
                    yield one, Answer(one.request.id, usage=Usage(3, 1, 2), seconds=0.5)


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


def submit(scheduler: Scheduler, *jobs: Job) -> None:
    """Submit jobs, and wait until they are prepared."""
    for one in jobs:
        scheduler.submit(one)
    wait_for(lambda: all(len(one.ready) == one.waiting for one in jobs), 30)


def occupy(scheduler: Scheduler, answerer: Answerer, *ids: str) -> Job:
    """Keep the model at work, so that what comes next has to wait."""
    first = job(*(ids or ("first",)))
    scheduler.submit(first)
    assert answerer.began.wait(30)
    return first


def test_what_waits_together_is_answered_together_each_with_its_own() -> None:
    answerer = Answerer()
    with working(answerer) as (scheduler, metrics):
        first = occupy(scheduler, answerer)
        jobs = [job("a"), job("b", "c"), job("d"), job("e")]
        submit(scheduler, *jobs)
        answerer.may_go.set()
        assert [texts(one) for one in (first, *jobs)] == [["first"], ["a"], ["b", "c"], ["d"], ["e"]]
    assert answerer.batches == [["first"], ["a", "b", "c", "d"], ["e"]]
    told = metrics.write({})
    assert "idefics_requests_at_once_sum 18\nidefics_requests_at_once_count 6\n" in told
    assert "idefics_answer_seconds_total 3\n" in told
    assert 'idefics_tokens_total{kind="new"} 12\n' in told


def test_a_request_joins_those_that_run_and_leaves_before_them() -> None:
    answerer = Answerer(steps=threading.Semaphore(0), long={"long": 3})
    assert answerer.steps is not None
    with working(answerer) as (scheduler, metrics):
        long = occupy(scheduler, answerer, "long")
        short = job("short")
        submit(scheduler, short)
        answerer.steps.release(2)
        assert texts(short) == ["short"]
        assert not long.outcomes.done()
        answerer.steps.release()
        assert texts(long) == ["long"]
    assert answerer.batches == [["long"], ["long", "short"], ["long"]]
    assert "idefics_requests_at_once_sum 3\nidefics_requests_at_once_count 2\n" in metrics.write({})


def test_there_are_at_most_so_many_rows_and_several_join_in_one_pass() -> None:
    answerer = Answerer(steps=threading.Semaphore(0), long={"0": 9} | {str(number): number for number in range(1, 8)})
    assert answerer.steps is not None
    with working(answerer, rows=8, size=64) as (scheduler, _):
        first = occupy(scheduler, answerer, *map(str, range(8)))
        jobs = [job(f"later {number}") for number in range(3)]
        submit(scheduler, *jobs)
        answerer.steps.release(100)
        for one in (first, *jobs):
            texts(one)
    # One row is free after the first step, which is not worth a pass for three; two are after the second.
    late = [[id for id in ids if id.startswith("later")] for ids in answerer.batches]
    assert late[:4] == [[], [], ["later 0", "later 1"], ["later 2"]]
    assert max(map(len, answerer.batches)) == 8


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
        return {"bad": ModelError("refused"), "bug": KeyError("bug"), "panic": PanicException()}.get(request.id)

    answerer = Answerer(fails=fails)
    with working(answerer, rows=8) as (scheduler, _):
        occupy(scheduler, answerer)
        jobs = [job("a"), job("bad"), job("bug"), job("b"), job("panic")]
        submit(scheduler, *jobs)
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


def test_what_cannot_be_prepared_fails_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    errors = {"bad": BadItem("bad", hint=""), "bug": KeyError("bug"), "model": ModelError("damaged")}
    answerer = Answerer(refuses=lambda request: errors.get(request.id))
    with working(answerer) as (scheduler, metrics):
        first = occupy(scheduler, answerer)
        mixed, broken, failed = job("a", "bad", "b", "bug"), job("bad"), job("model", "c")
        submit(scheduler, mixed)
        scheduler.submit(broken)
        scheduler.submit(failed)
        (outcome,) = broken.outcomes.result(30)  # without the model
        assert outcome is errors["bad"]
        with pytest.raises(ModelError, match="damaged"):
            failed.outcomes.result(30)
        answerer.may_go.set()
        said = mixed.outcomes.result(30)
        assert [getattr(one, "code", None) for one in said] == [None, "bad_item", None, "internal"]
        assert texts(mixed) == ["a", "b"]
        assert texts(first) == ["first"]
        wait_for(lambda: scheduler.is_idle, 30)
        assert scheduler.waiting == 0
    assert answerer.batches == [["first"], ["a", "b"]]
    assert 'idefics_requests_total{outcome="bad_item"} 2\n' in metrics.write({})


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
        submit(scheduler, gone, here)
        assert not any(listener.is_cancelled() for listener in gone.listeners)
        gone.abandon()
        assert all(listener.is_cancelled() for listener in gone.listeners)  # the engine asks at every token
        answerer.may_go.set()
        assert texts(here) == ["here"]
        assert gone.outcomes.cancelled()
    assert answerer.batches == [["first"], ["here"]]


def test_a_running_request_whose_client_has_gone_leaves() -> None:
    answerer = Answerer(steps=threading.Semaphore(0), long={"gone": 10**9, "here": 4})
    assert answerer.steps is not None
    with working(answerer) as (scheduler, _):
        here, gone = occupy(scheduler, answerer, "here"), job("gone")
        submit(scheduler, gone)
        answerer.steps.release()
        wait_for(lambda: len(answerer.batches) == 2, 30)
        gone.abandon()
        answerer.steps.release(3)
        assert texts(here) == ["here"]
    assert answerer.batches == [["here"], ["gone", "here"], ["here"], ["here"]]


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


def test_the_listener_hears_the_first_and_calls_have_the_model_alone() -> None:
    answerer = Answerer()
    heard: list[str] = []
    with working(answerer) as (scheduler, _):
        occupy(scheduler, answerer)
        one = job("a", "b", on_text=heard.append)
        submit(scheduler, one)
        call = scheduler.call(lambda: threading.current_thread().name)
        time.sleep(0.05)
        assert not call.done()
        answerer.may_go.set()
        assert call.result(30) == "model"
        texts(one)
    assert heard == ["said a"]


def test_neither_calls_nor_requests_starve_while_others_come_all_the_time() -> None:
    answerer = Answerer(long={str(number): 1 + number % 3 for number in range(10**5)})
    answerer.may_go.set()
    numbers = count()
    is_over = threading.Event()

    def load(_: object = None) -> None:
        """One request after another: with others like it, the model is never idle."""
        if not is_over.is_set():
            one = job(str(next(numbers)))
            one.outcomes.add_done_callback(load)
            scheduler.submit(one)

    def ring() -> int:
        if not is_over.is_set():
            scheduler.call(ring)
        return next(numbers)

    with working(answerer, size=10**5) as (scheduler, _):
        for _ in range(6):
            load()
        rung = [scheduler.call(lambda: next(numbers)).result(30) for _ in range(5)]
        scheduler.call(ring)
        last = job("last")
        scheduler.submit(last)
        assert texts(last) == ["last"]
        is_over.set()
    assert min(after - before for before, after in pairwise(rung)) > 1  # requests came in between


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
    metrics.count_given(1, 2)
    metrics.count_outcomes([AnswerError("none", code="no_label"), Answer("x", seconds=0.5)])
    metrics.count_call("/v1/models", 200)
    told = metrics.write({("queue_requests", ()): 3})
    for line in (
        'idefics_requests_total{outcome="no_label"} 1',
        'idefics_calls_total{route="/v1/models",status="200"} 1',
        "idefics_answer_seconds_total 0.5",
        "idefics_queue_requests 3",
        'idefics_requests_at_once_bucket{le="+Inf"} 1',
    ):
        assert line in told.splitlines()
