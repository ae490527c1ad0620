"""Requests on their way to a server: how many, in which messages, and what happens when one is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import PIL.Image
import pytest

from idefics_cli.backends import PreparedRequest
from idefics_cli.backends.daemon.ahead import Sending, TellEnd, send_ahead
from idefics_cli.errors import ServerLost
from idefics_cli.values import Answer, Image, Request


@dataclass
class Server:
    """Answers each request when its event is set, those of a message together."""

    messages: list[list[str]] = field(default_factory=list)
    may_end: dict[str, threading.Event] = field(default_factory=dict)
    sendings: list[Sending] = field(default_factory=list)
    fails: Callable[[str], bool] = lambda id: False

    def send(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: None = None,
        sending: Sending | None = None,
        on_end: TellEnd | None = None,
    ) -> Any:
        assert sending is not None
        assert on_end is not None
        assert all(source in images for request in requests for source in request.images)
        self.messages.append([request.id for request in requests])
        self.sendings.append(sending)
        for number, request in enumerate(requests):
            if self.fails(request.id):
                raise ServerLost("gone")
            if (event := self.may_end.get(request.id)) is not None:
                assert event.wait(30)
            on_end(number, Answer(request.id))


def prepare(*ids: str, examples: int = 0) -> list[PreparedRequest]:
    image = Image("a", PIL.Image.new("RGB", (1, 1)), digest="a")
    work = {"a": image} | {f"example {number}": image for number in range(examples)}
    return [PreparedRequest(Request(id, "vqa", (), images=("a",)), work) for id in ids]


class Source:
    """Hands over what is there; with `grudging`, one at a time unless it is waited for."""

    def __init__(self, left: list[PreparedRequest], *, grudging: bool = False) -> None:
        self.left = left
        self.grudging = grudging

    def take(self, count: int, wait: bool) -> list[PreparedRequest] | None:
        if not self.left:
            return None
        count = 1 if self.grudging else count
        taken, self.left = self.left[:count], self.left[count:]
        return taken


def test_a_long_answer_does_not_hold_up_what_comes_after_it() -> None:
    server = Server(may_end={"0": threading.Event()})
    names = [str(number) for number in range(40)]
    # The first of a message holds the others of it up here, as the server of this test is a simple one.
    ended: list[str] = []
    for pair in send_ahead(server.send, Source(prepare(*reversed(names))).take, 8):
        if pair is not None:
            assert pair[1] == Answer(pair[0].request.id)
            ended.append(pair[0].request.id)
            if len(ended) == 39:
                server.may_end["0"].set()
    assert ended[-1] == "0"
    assert sorted(ended, key=int) == names


def test_at_most_so_many_are_on_their_way() -> None:
    server = Server(may_end={str(number): threading.Event() for number in range(30)})
    source = Source(prepare(*server.may_end))
    ended = 0
    answers = send_ahead(server.send, source.take, 8)
    server.may_end["0"].set()
    for pair in answers:
        if pair is not None:
            ended += 1
            assert sum(map(len, server.messages)) - ended <= 8
            for event in list(server.may_end.values())[: ended + 1]:
                event.set()
    assert ended == 30
    assert max(map(len, server.messages)) <= 8
    assert len(server.messages) <= 1 + 22 // 2 + 1  # a quarter of eight at a time


def test_examples_are_not_sent_with_each_request() -> None:
    server = Server(may_end={"0": threading.Event()})
    source = Source(prepare(*map(str, range(17)), examples=2), grudging=True)
    for _ in send_ahead(server.send, source.take, 16):
        server.may_end["0"].set()
    assert len(server.messages) <= 1 + 16 // 4


def test_a_lost_server_is_told_and_what_else_is_sent_is_given_up() -> None:
    gate = threading.Event()
    server = Server(may_end={"0": gate}, fails=lambda id: id == "9")
    source = Source(prepare(*map(str, range(12))), grudging=True)
    with pytest.raises(ServerLost, match="gone"):
        list(send_ahead(server.send, source.take, 8))
    assert server.sendings[0].is_stopped
    gate.set()


def test_nothing_is_sent_for_nothing() -> None:
    taken: Iterator[list[PreparedRequest] | None] = iter([[], [], None])
    assert list(send_ahead(Server().send, lambda count, wait: next(taken), 8)) == [None, None, None]
