"""Windows, order, shared images, and what becomes a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from idefics_cli.errors import BadItem, ModelError, UsageError
from idefics_cli.images import Limits
from idefics_cli.rows import Result
from idefics_cli.runner.run import LEAST_AHEAD, Report, join_opening, run
from idefics_cli.values import Answer, ImagePart, Item, Message, Request, TextPart
from tests.scripted import ScriptedBackend

REPORT = Report(model="m")


def compose(item: Item) -> Request:
    parts = tuple(map(ImagePart, item.images))
    prompt = (Message("document", (*parts, TextPart("x"))),)
    return Request(item.id, "caption", prompt, images=item.images, fields=item.fields)


def answer(items: list[Item], backend: ScriptedBackend, window: int = 4) -> list[Result]:
    return list(run(items, compose, backend, REPORT, limits=Limits(), window=window))


def test_items_are_answered_a_window_at_a_time_in_order(red_circle: Path) -> None:
    backend = ScriptedBackend(lambda request: f" {request.id}")
    items = [Item(str(number), (str(red_circle),)) for number in range(10)]
    assert [result.text for result in answer(items, backend)] == [str(number) for number in range(10)]
    assert backend.windows == [4, 4, 2]


def test_reading_ahead_is_bounded(red_circle: Path) -> None:
    read: list[int] = []

    def items() -> Iterator[Item]:
        for number in range(10_000):
            read.append(number)
            yield Item(str(number), (str(red_circle),))

    results = run(items(), compose, ScriptedBackend(), REPORT, limits=Limits(), window=4)
    for done in range(1, 200):
        next(results)
        assert len(read) <= done + 4 + LEAST_AHEAD
    results.close()


def test_a_source_is_loaded_once_however_often_it_is_named(tmp_path: Path, red_circle: Path) -> None:
    """A named pipe is refused and a file is read once: here it is gone after the first window has read it."""
    once = tmp_path / "once.png"
    once.write_bytes(red_circle.read_bytes())

    def reply(request: Request) -> str:
        once.unlink(missing_ok=True)
        return " fine"

    backend = ScriptedBackend(reply)
    results = answer([Item(str(number), (str(once),)) for number in range(6)], backend, window=2)
    assert [result.text for result in results] == ["fine"] * 6


def test_a_request_never_runs_without_its_image(tmp_path: Path, red_circle: Path) -> None:
    backend = ScriptedBackend()
    results = answer([Item("both", (str(red_circle), str(tmp_path / "gone.png"))), Item("none", ())], backend)
    assert [request.id for request in backend.requests] == ["none"]
    assert results[0].error is not None
    assert results[0].error.code == "not_found"
    assert (results[0].text, results[0].images) == (None, (str(red_circle), str(tmp_path / "gone.png")))
    assert results[1].error is None


def test_an_item_that_cannot_be_worded_is_a_row_and_a_usage_error_is_not() -> None:
    def picky(item: Item) -> Request:
        if item.id == "bad":
            raise BadItem("no question")
        if item.id == "worse":
            raise UsageError("no field")
        return compose(item)

    backend = ScriptedBackend()
    results = list(run([Item("bad"), Item("good")], picky, backend, REPORT, limits=Limits()))
    assert [result.error and result.error.code for result in results] == ["bad_item", None]
    with pytest.raises(UsageError):
        list(run([Item("worse")], picky, backend, REPORT, limits=Limits()))


def test_a_model_error_ends_the_run() -> None:
    def reply(request: Request) -> Answer:
        raise ModelError("the device is gone")

    with pytest.raises(ModelError):
        answer([Item("a")], ScriptedBackend(reply))


@pytest.mark.parametrize(
    ("opening", "text", "sentence"),
    [
        ("An image of", " a cat", "An image of a cat"),
        ("An image of ", " a cat", "An image of a cat"),
        ("An image of ", "a cat", "An image of a cat"),
        ("Un", "like", "Unlike"),
        ("", " a cat", " a cat"),
    ],
)
def test_opening_and_continuation_are_one_sentence(opening: str, text: str, sentence: str) -> None:
    assert join_opening(opening, text) == sentence
