"""The command alone, with workers that answer at once: how many rows it makes, and in how much memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from idefics_cli.images import Limits
from idefics_cli.runner.run import Report, run
from idefics_cli.values import ImagePart, Item, Message, Request, TextPart
from tests.program import Run
from tests.scale.stubs import StubPool

ROWS_A_SECOND = 2000


def list_items(count: int) -> Iterator[Item]:
    return (Item(f"{number}", (f"photos/{number:08}.jpg",), task="caption") for number in range(count))


def word(item: Item) -> Request:
    parts = (ImagePart(item.images[0]), TextPart("What is it?"))
    return Request(item.id, "caption", (Message("document", parts),), images=item.images)


def count_resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("workers", [1, 64])
def test_the_command_feeds_two_thousand_rows_a_second(workers: int) -> None:
    """Measured in its own time: others may have the cores."""
    pool = StubPool(workers)
    began = time.process_time()
    ids = [result.id for result in run(list_items(10_000), word, pool, Report("stub"), limits=Limits())]
    took = time.process_time() - began
    pool.close()
    assert ids == [str(number) for number in range(10_000)]
    assert len(ids) / took > ROWS_A_SECOND, f"{len(ids) / took:.0f} a second"
    assert all(stub.asked for stub in pool.stubs)


def test_a_run_of_the_program_feeds_two_thousand_rows_a_second(run: Callable[..., Run], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"photos/{number:08}.jpg\n" for number in range(10_000)))
    pool = StubPool(16)
    began = time.process_time()
    result = run(*("caption", "--model", "shapes", "--files-from", names, "-o", tmp_path / "rows.jsonl"), backend=pool)
    took = time.process_time() - began
    assert result.code == 0, result.stderr
    assert (tmp_path / "rows.jsonl").read_text().count("\n") == 10_000
    assert 10_000 / took > ROWS_A_SECOND, f"{10_000 / took:.0f} a second"


@pytest.mark.slow
def test_a_million_items_take_no_more_memory_than_a_hundred_thousand() -> None:
    pool = StubPool(64)
    seen = 0
    early = 0
    for result in run(list_items(1_000_000), word, pool, Report("stub"), limits=Limits()):
        assert result.id == str(seen)
        seen += 1
        if seen == 100_000:
            early = count_resident()
    pool.close()
    assert seen == 1_000_000
    assert count_resident() - early < 20_000_000


@pytest.mark.slow
def test_a_folder_of_a_million_names_is_answered_within_five_seconds(run: Callable[..., Run], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(1_000_000):
        os.close(os.open(folder / f"{number:07}.jpg", os.O_CREAT))
    pool = StubPool(16)
    began, own = time.monotonic(), time.process_time()
    result = run("caption", folder, "--model", "shapes", "-o", tmp_path / "rows.jsonl", backend=pool)
    took = time.process_time() - own
    assert result.code == 0, result.stderr
    first = min(stub.first for stub in pool.stubs) - began
    assert first < 5, f"{first:.1f} s"
    assert 1_000_000 / took > ROWS_A_SECOND, f"{1_000_000 / took:.0f} a second"
