"""The bound of a batch follows what batches took, on a device that counts the bytes of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from idefics_cli.engine.batch_room import SANE
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.flow import Flow
from idefics_cli.engine.generate import Continuation
from idefics_cli.engine.oom_retry import Done
from idefics_cli.errors import ItemError
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.models.memory.gauge import open_gauge
from idefics_cli.values import Decoding, ModelSpec
from tests.engine.live_bytes import LiveBytes
from tests.engine.oracle import opened, plain_answer, run_all
from tests.models.others import other
from tests.models.tiny import document, picture, user

NEW_TOKENS, MB = 6, 1_000_000


def works_of(count: int) -> list[Continuation]:
    family, _ = opened("idefics3")
    images = [picture(seed, (28, 28)) for seed in range(count)]
    rows = [family.encode(document(image, "dog " * (index % 5)), [image]) for index, image in enumerate(images)]
    return [Continuation(row, Decoding(max_new_tokens=NEW_TOKENS)) for row in rows]


@contextmanager
def hungry(model: Any, token_bytes: int) -> Iterator[None]:
    """A model whose passes need so many bytes a token besides: what no estimate knows of."""
    held: list[torch.Tensor] = []

    def take(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        rows, width = inputs["input_ids"].shape
        held.append(torch.empty(rows * width * token_bytes, dtype=torch.uint8))

    def give(*_: Any) -> None:
        held.clear()

    before = model.register_forward_pre_hook(take, with_kwargs=True)
    after = model.register_forward_hook(give, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


@dataclass(frozen=True)
class Run:
    failures: int
    bounds: list[int]
    highest: int
    done: list[Done | ItemError]


def run(capacity: int, works: Sequence[Continuation], token_bytes: int, *, is_told: bool = True, taken: int = 0) -> Run:
    """Rows grow from two. The engine is told what batches take, or goes by its estimate. In the middle of the run
    others have `taken` so much of the device.
    """
    family, model = opened("idefics3")
    device = LiveBytes(capacity)
    engine = Engine(model, family, cache_bytes=100_000, gauge=device)
    if not is_told:
        engine.room._gauge = None
    engine._step = None  # its passes are not those of the model, which are hungry here
    coming, bounds = list(works), [engine.room.tokens]
    done: dict[int, Done | ItemError] = {}

    def take(count: int, wait: bool) -> Sequence[Continuation] | None:
        given = coming[:count]
        del coming[:count]
        return given or None

    with device, hungry(model, token_bytes):
        for pair in Flow(engine, take, 2, grows=True).run():
            assert pair is not None
            done[id(pair[0])] = pair[1]
            bounds.append(engine.room.tokens)
            device.capacity = capacity - taken * (len(done) > len(works) // 2)
    return Run(device.failures, bounds, device.highest, [done[id(work)] for work in works])


def check(works: Sequence[Continuation], done: Sequence[Done | ItemError]) -> None:
    assert all(isinstance(one, Done) for one in done)
    for work, one in list(zip(works, done, strict=True))[:: len(works) // 8]:
        assert isinstance(one, Done)
        assert one.outcome.generation == plain_answer("idefics3", work.encoded, work.decoding)


def test_a_batch_is_smaller_where_its_tokens_need_more_than_was_thought() -> None:
    works, capacity, token_bytes = works_of(32), 12 * MB, 40_000
    told, untold = (run(capacity, works, token_bytes, is_told=is_told) for is_told in (True, False))
    check(works, told.done)
    check(works, untold.done)
    assert told.failures == 0 < untold.failures
    assert told.bounds[-1] < told.bounds[0] == untold.bounds[-1]
    assert told.bounds[-1] * token_bytes < capacity


def test_a_batch_is_larger_where_its_tokens_need_less() -> None:
    works = works_of(32)
    told, untold = (run(3 * MB, works, 0, is_told=is_told) for is_told in (True, False))
    check(works, told.done)
    assert told.failures == 0
    assert told.bounds[-1] > told.bounds[0] == untold.bounds[-1]
    assert told.highest > untold.highest


def test_a_bound_stays_within_limits_whatever_was_measured() -> None:
    """A token that needs a part of the device for itself, and the first batch, which is all overhead."""
    for token_bytes in (0, 40_000):
        bounds = run(2 * MB, works_of(12), token_bytes).bounds
        assert bounds[0] // SANE <= min(bounds) <= max(bounds) <= bounds[0] * SANE


def test_memory_that_others_take_meanwhile_is_not_counted_on() -> None:
    works = works_of(32)
    alone, beside = (run(8 * MB, works, 8_000, taken=taken) for taken in (0, 4 * MB))
    check(works, beside.done)
    assert beside.bounds[-1] < 0.7 * alone.bounds[-1]


def test_plain_batches_are_measured_too() -> None:
    spec = ModelSpec(str(other("mllama")))
    family = open_family(spec)
    model = load_model(spec, family)
    device = LiveBytes(50 * MB)
    engine = Engine(model, family, gauge=device)
    estimate = engine.room.tokens
    asked = ((picture(1), "What is this?"), (picture(2), "a dog " * 8))
    rows = [family.encode((user(image, words),), [image]) for image, words in asked]
    with device:
        done = run_all(engine, [Continuation(row, Decoding(max_new_tokens=2)) for row in rows], rows=2)
    assert all(isinstance(one, Done) for one in done)
    assert engine.room.tokens != estimate


def test_a_device_that_does_not_count_goes_by_the_estimate() -> None:
    family, model = opened("idefics3")
    assert open_gauge(model) is None
    engine = Engine(model, family)
    bound = engine.room.tokens
    run_all(engine, works_of(4), rows=2)
    assert engine.room.tokens == bound
    for driver in (torch.cuda, torch.xpu):
        for name in ("max_memory_allocated", "reset_peak_memory_stats", "memory_allocated"):
            assert callable(getattr(driver, name))
