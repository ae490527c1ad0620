"""Reading ahead: order, patience, bounds, and images that are loaded once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.errors import ItemError, UsageError
from idefics_cli.images import Limits
from idefics_cli.runner.prefetch import LISTING_SECONDS, PATIENCE_SECONDS, Prefetcher
from idefics_cli.runner.prepared_item import PreparedItem
from idefics_cli.values import Image, ImagePart, Item, Message, Request, list_sources
from tests.site import Page, Site, open_site


@pytest.fixture
def site() -> Iterator[Site]:
    with open_site() as server:
        yield server


def compose(item: Item) -> Request:
    return Request(item.id, "caption", (Message("document", tuple(map(ImagePart, item.images))),))


def never() -> bool:
    return False


def open_ahead(items: list[Item], size: int = 64, max_held_bytes: int = 10**9) -> Prefetcher:
    return Prefetcher(items, compose, Limits(), size=size, max_held_bytes=max_held_bytes)


def draw(path: Path, side: int = 8) -> str:
    PIL.Image.new("RGB", (side, side), "red").save(path)
    return str(path)


@settings(max_examples=30, deadline=None)
@given(total=st.integers(0, 40), window=st.integers(1, 9), size=st.integers(1, 20))
def test_every_item_comes_once_and_in_order(total: int, window: int, size: int) -> None:
    found: list[str] = []
    with open_ahead([Item(str(number)) for number in range(total)], size) as prefetcher:
        while entries := prefetcher.next_batch(window, never):
            assert len(entries) <= window
            found += [entry.item.id for entry in entries]
            prefetcher.release(entries)
    assert found == [str(number) for number in range(total)]


def test_a_window_is_full_where_items_are_at_hand(tmp_path: Path) -> None:
    items = [Item(str(number), (draw(tmp_path / f"{number}.png"),)) for number in range(20)]
    sizes = []
    with open_ahead(items) as prefetcher:
        while entries := prefetcher.next_batch(8, never):
            sizes.append(len(entries))
            prefetcher.release(entries)
    assert sizes == [8, 8, 4]


def test_a_pipe_that_is_silent_for_now_does_not_hold_up_what_it_has_said() -> None:
    answered = threading.Event()

    def items() -> Iterator[Item]:
        for number in range(3):
            yield Item(str(number))
            assert answered.wait(10)
            answered.clear()

    with Prefetcher(items(), compose, Limits(), size=64) as prefetcher:
        for number in range(3):
            began = time.monotonic()
            (entry,) = prefetcher.next_batch(8, never)
            assert entry.item.id == str(number)
            assert time.monotonic() - began < LISTING_SECONDS + 2
            prefetcher.release([entry])
            answered.set()
        assert prefetcher.next_batch(8, never) == []


def wait_for(event: threading.Event, body: bytes) -> Callable[[Page], None]:
    def answer(page: Page) -> None:
        event.wait(20)
        page.answer(200, {"Content-Length": str(len(body))}, body)

    return answer


def test_a_stuck_download_is_overtaken_and_comes_when_it_is_there(tmp_path: Path, site: Site) -> None:
    picture = draw(tmp_path / "a.png")
    let_go = threading.Event()
    site.pages["/slow.png"] = wait_for(let_go, Path(picture).read_bytes())
    items = [Item("slow", (site.url("/slow.png"),)), *(Item(str(n), (picture,)) for n in range(7))]
    with open_ahead(items) as prefetcher:
        began = time.monotonic()
        first = prefetcher.next_batch(4, never)
        assert [entry.item.id for entry in first] == ["0", "1", "2"]
        assert time.monotonic() - began >= PATIENCE_SECONDS
        prefetcher.release(first)
        began = time.monotonic()
        second = prefetcher.next_batch(4, never)
        assert [entry.item.id for entry in second] == ["3", "4", "5", "6"]
        assert time.monotonic() - began < PATIENCE_SECONDS  # no item is waited for twice
        prefetcher.release(second)
        let_go.set()
        (last,) = prefetcher.next_batch(4, never)
        assert last.item.id == "slow"
        assert isinstance(last.loads[site.url("/slow.png")].outcome, Image)


def test_pixels_that_wait_are_bounded(tmp_path: Path) -> None:
    """100 images of 30,000 bytes with room for five: what is held never exceeds that by more than what is in work."""
    paths = [draw(tmp_path / f"{number}.png", 100) for number in range(100)]
    items = [Item(path, (path,)) for path in paths]
    most = 0
    count = 0
    with open_ahead(items, size=64, max_held_bytes=150_000) as prefetcher:
        while entries := prefetcher.next_batch(8, never):
            count += len(entries)
            time.sleep(0.005)
            most = max(most, prefetcher._held_bytes)
            prefetcher.release(entries)
    assert count == 100
    assert 150_000 <= most <= 150_000 + 30_000 * 8


def test_an_image_larger_than_all_room_gets_through(tmp_path: Path) -> None:
    items = [Item(str(n), (draw(tmp_path / f"{n}.png", 100), draw(tmp_path / f"{n}b.png", 90))) for n in range(9)]
    with open_ahead(items, max_held_bytes=1) as prefetcher:
        total = 0
        while entries := prefetcher.next_batch(4, never):
            assert all(entry.is_ready for entry in entries)
            total += len(entries)
            prefetcher.release(entries)
    assert total == 9


def test_what_many_show_is_loaded_once_and_kept_for_the_next(tmp_path: Path) -> None:
    shot = draw(tmp_path / "shot.png")
    given: list[Item] = []
    more = threading.Semaphore(2)

    def items() -> Iterator[Item]:
        for number in range(6):
            more.acquire()
            yield Item(str(number), (shot, draw(tmp_path / f"{number}.png")))

    with Prefetcher(items(), compose, Limits(), size=64) as prefetcher:
        for _ in range(3):
            entries = prefetcher.next_batch(2, never)
            while len(entries) < 2:
                entries += prefetcher.next_batch(2, never)
            given += [entry.item for entry in entries]
            Path(shot).unlink(missing_ok=True)
            assert all(isinstance(load.outcome, Image) for entry in entries for load in entry.loads.values())
            prefetcher.release(entries)
            assert set(prefetcher._loads) <= {shot}
            more.release(2)
    assert len(given) == 6


def test_errors_of_the_list_come_after_what_was_listed_before() -> None:
    def items() -> Iterator[Item]:
        yield Item("a")
        raise UsageError("the list is broken")

    with Prefetcher(items(), compose, Limits(), size=64) as prefetcher:
        assert [entry.item.id for entry in prefetcher.next_batch(8, never)] == ["a"]
        with pytest.raises(UsageError, match="the list is broken"):
            prefetcher.next_batch(8, never)


def test_waiting_ends_when_it_is_time_to_stop() -> None:
    hold = threading.Event()

    def items() -> Iterator[Item]:
        hold.wait(20)
        yield Item("a")

    began = time.monotonic()
    with Prefetcher(items(), compose, Limits(), size=64) as prefetcher:
        assert prefetcher.next_batch(1, lambda: time.monotonic() - began > 0.2) == []
    assert time.monotonic() - began < 5
    hold.set()


@dataclass(frozen=True)
class Made:
    held_bytes: int
    thread: str
    sizes: tuple[tuple[int, int], ...]


def make(request: Request, images: Mapping[str, Image]) -> Made:
    sizes = tuple(images[source].pixels.size for source in list_sources(request.prompt))
    return Made(100, threading.current_thread().name, sizes)


def test_entries_are_prepared_in_other_threads_and_their_pixels_let_go(tmp_path: Path) -> None:
    shot = draw(tmp_path / "shot.png")
    items = [Item(str(number), (shot, draw(tmp_path / f"{number}.png"))) for number in range(12)]
    given: list[PreparedItem] = []
    with Prefetcher(items, compose, Limits(), size=64, prepare=make) as prefetcher:
        while entries := prefetcher.next_batch(4, never):
            for entry in entries:
                assert isinstance(entry.prepared, Made)
                assert entry.prepared.thread != threading.current_thread().name
                assert all(min(size) > 1 for size in entry.prepared.sizes)
                assert {image.pixels.size for image in entry.images.values()} == {(1, 1)}
                assert [image.source for image in entry.images.values()] == list(entry.item.images)
            given += entries
        kept = prefetcher._held_bytes
        prefetcher.release(given)
        assert prefetcher._held_bytes == kept - 12 * 100
        assert set(prefetcher._loads) == {shot}
    assert [entry.item.id for entry in given] == [item.id for item in items]


def test_what_cannot_be_prepared_fails_alone_and_what_cannot_be_read_is_not_prepared(tmp_path: Path) -> None:
    items = [Item("a", (draw(tmp_path / "a.png"),)), Item("b", (str(tmp_path / "missing.png"),))]

    def fail(request: Request, images: Mapping[str, Image]) -> Made:
        raise ValueError("no tensor of this")

    with Prefetcher(items, compose, Limits(), size=64, prepare=fail) as prefetcher:
        first, second = prefetcher.next_batch(2, never)
    assert isinstance(first.prepared, ItemError)
    assert first.failure is None
    assert second.prepared is None
    assert isinstance(second.failure, ItemError)


def test_without_waiting_there_is_what_is_ready(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png")
    with Prefetcher([Item("a", (path,))], compose, Limits(), size=64, prepare=make) as prefetcher:
        taken: list[PreparedItem] = []
        while not taken:
            taken = prefetcher.next_batch(8, never, wait=False)
        assert prefetcher.next_batch(8, never, wait=False) == []
