"""The boundary around an item: whatever it raises is its own row, and nothing else of the run is touched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from idefics_cli.errors import InternalError, ItemError, ModelError, PromptError, UsageError
from idefics_cli.images import Limits
from idefics_cli.rows import Result
from idefics_cli.runner.run import Report, run, run_one
from idefics_cli.values import Answer, ImagePart, Item, Message, Part, Request, TextPart
from tests.scripted import ScriptedBackend

REPORT = Report(model="m")
FAILURES: tuple[tuple[BaseException, str], ...] = (
    (ZeroDivisionError("division by zero"), "internal"),
    (RecursionError(), "internal"),
    (StopIteration(), "internal"),
    (OSError(5, "Input/output error"), "internal"),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "internal"),
    (MemoryError(), "out_of_memory"),
    (PromptError("too long", code="prompt_too_long"), "prompt_too_long"),
)


class PanicException(BaseException):
    """What pyo3 makes of a panic in a library written in Rust."""


EVERY = (*FAILURES, (PanicException("byte index 3 is out of bounds"), "internal"))


def compose(item: Item) -> Request:
    parts: tuple[Part, ...] = (*map(ImagePart, item.images), TextPart("x"))
    return Request(item.id, "caption", (Message("document", parts),), images=item.images)


def failing(error: BaseException) -> Callable[[Item], Request]:
    """The item `bad` cannot be composed."""

    def compose_all(item: Item) -> Request:
        if item.id == "bad":
            raise error
        return compose(item)

    return compose_all


class Failing(ScriptedBackend):
    """A backend that fails as a whole whenever the request `bad` is among those it gets."""

    error: BaseException = RuntimeError()

    def answer(self, requests: Sequence[Request], *others: object) -> list[Answer | ItemError]:
        if any(request.id == "bad" for request in requests):
            raise self.error
        return super().answer(requests, *others)  # type: ignore[arg-type]


def list_items(images: tuple[str, ...] = ()) -> list[Item]:
    return [Item(id, images) for id in ("0", "1", "bad", "3", "4")]


def check(results: Sequence[Result], code: str) -> None:
    """All in order, and the one that was bad alone has failed."""
    assert [result.id for result in results] == ["0", "1", "bad", "3", "4"]
    codes = [result.error.code if result.error else None for result in results]
    assert codes == [None, None, code, None, None]
    assert [result.text for result in results if result.error is None] == ["A red circle."] * 4


def ids(case: object) -> str | None:
    return type(case).__name__ if isinstance(case, BaseException) else None


@pytest.mark.parametrize(("error", "code"), EVERY, ids=ids)
def test_an_item_that_cannot_be_composed_fails_alone(error: BaseException, code: str) -> None:
    results = list(run(list_items(), failing(error), ScriptedBackend(), REPORT, limits=Limits(), window=3))
    check(results, code)


@pytest.mark.parametrize(("error", "code"), EVERY, ids=ids)
def test_a_request_that_brings_a_backend_down_fails_alone(red_circle: Path, error: BaseException, code: str) -> None:
    backend = Failing()
    backend.error = error
    items = list_items((str(red_circle),))
    check(list(run(items, compose, backend, REPORT, limits=Limits(), window=4)), code)


def test_a_question_of_a_conversation_is_one_too() -> None:
    backend = Failing()
    result = run_one(Item("bad"), compose, {}, backend, REPORT)
    assert result.error is not None
    assert result.error.code == "internal"


@pytest.mark.parametrize("error", [ModelError("no weights"), UsageError("x"), SystemExit(0), KeyboardInterrupt()])
def test_what_is_not_of_an_item_ends_the_run(error: BaseException) -> None:
    backend = Failing()
    backend.error = error
    results = run([Item("bad")], compose, backend, REPORT, limits=Limits())
    with pytest.raises(type(error)):
        list(results)


def test_a_list_that_breaks_off_ends_the_run_after_what_it_said() -> None:
    def items() -> Iterator[Item]:
        yield Item("0")
        raise PanicException

    results = run(items(), compose, ScriptedBackend(), REPORT, limits=Limits())
    assert next(results).text == "A red circle."
    with pytest.raises(PanicException):
        next(results)


def test_what_was_not_foreseen_says_its_type_and_place_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def divide(item: Item) -> Request:
        raise ZeroDivisionError(f"a\nb {1 // len(item.images)}")

    (result,) = run([Item("0")], divide, ScriptedBackend(), REPORT, limits=Limits())
    assert result.error is not None
    assert result.error.message.startswith("unexpected ZeroDivisionError at ")
    assert "tests/runner/test_boundary.py:" in result.error.message
    assert "/" + "/".join(Path(__file__).parts[1:4]) not in result.error.message, "a folder of this machine"
    assert "\n" not in result.error.message
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None, "the traceback is there for those who ask for it"


def test_the_message_of_what_was_not_foreseen_is_bounded() -> None:
    assert len(str(InternalError(ValueError("x" * 10_000)))) < 300
