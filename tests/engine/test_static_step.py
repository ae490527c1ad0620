"""What lets a step be recorded: tensors keep their shapes, and the host reads a value once in eight steps at most."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from idefics_cli.bench.launches import count_launches
from idefics_cli.engine.decoder import Decoder, Pace
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation
from idefics_cli.engine.inputs import to_model
from idefics_cli.engine.slot_cache import COLUMN_BUCKET
from idefics_cli.models.families.family import Encoded, Family
from idefics_cli.values import Decoding
from tests.engine.oracle import opened, plain_answer
from tests.engine.test_flow import rows_of
from tests.models.others import TEMPLATED
from tests.models.test_others import PROMPTS, pictures_of
from tests.models.test_others import opened as opened_other
from tests.models.tiny import KINDS

AHEAD = Pace(8, rounds_slots=True)
TOKENS = 112


class Shapes(TorchDispatchMode):
    """Notes every operator with the shapes of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        tensors = [one for one in (*args, result) if isinstance(one, torch.Tensor)]
        self.seen.append((name, *(tuple(one.shape) for one in tensors)))
        return result


@contextmanager
def no_end(family: Family) -> Iterator[None]:
    """Answers as long as they may be."""
    own, family.stop_ids = family.stop_ids, ()
    try:
        yield
    finally:
        family.stop_ids = own


def write(family: Family, model: Any, rows: list[Encoded], decoding: Decoding) -> list[list[int]]:
    """The answers of rows in one decoder, its steps watched."""
    engine = Engine(model, family, pace=AHEAD)
    decoder: Decoder = engine.open_decoder()
    works = [Continuation(row, decoding) for row in rows]
    running = decoder.admit(works, engine.open_prefix(works[0], ()))
    decoder.step()  # what is made at first use
    by_bucket: dict[int, list[Any]] = {}
    steps = reads = compared = 0
    while decoder.rows:
        position, left = decoder._cache.position, running[0].count_left()
        with count_launches("cpu") as counts, Shapes() as shapes:
            decoder.step()
        made = left - running[0].count_left()
        steps, reads = steps + made, reads + counts.reads
        bucket = position // COLUMN_BUCKET
        # The first step in a bucket comes there, the last one of all lets go.
        is_within = position % COLUMN_BUCKET and bucket == (position + made - 1) // COLUMN_BUCKET
        if is_within and decoder.rows:
            compared += bucket in by_bucket
            assert shapes.seen == by_bucket.setdefault(bucket, shapes.seen)
    assert steps >= 100
    assert reads <= -(-steps // AHEAD.steps)
    assert compared > 5
    return [row.ids for row in running]


GREEDY = Decoding(max_new_tokens=TOKENS)
SAMPLED = Decoding(max_new_tokens=TOKENS, temperature=0.8, top_p=0.9, top_k=20)


@pytest.mark.parametrize(
    ("kind", "decoding"),
    [
        *((kind, GREEDY) for kind in (*KINDS, "smolvlm")),
        ("idefics-resampler", SAMPLED),
        ("idefics2", SAMPLED),
    ],
)
def test_a_step_asks_the_host_nothing_and_keeps_its_shapes(kind: str, decoding: Decoding) -> None:
    family, model = opened(kind)
    rows = [rows_of(kind)[index] for index in (3, 12)]
    with no_end(family):
        expected = [list(plain_answer(kind, row, decoding).ids) for row in rows]
        assert write(family, model, rows, decoding) == expected


@pytest.mark.parametrize("name", TEMPLATED)
def test_the_same_of_architectures_that_are_worded_by_their_template(name: str) -> None:
    family, model = opened_other(name)
    rows = [family.encode(prompt, pictures_of(prompt)) for prompt in (PROMPTS[0], PROMPTS[3])]
    with no_end(family):
        expected = []
        for row in rows:
            inputs = to_model(model, family.collate([row]))
            banned = [[index] for index in family.banned_ids]
            made = model.generate(
                **inputs, max_new_tokens=TOKENS, do_sample=False, bad_words_ids=banned, eos_token_id=None
            )
            expected.append(made[0, inputs["input_ids"].shape[1] :].tolist())
        assert write(family, model, rows, GREEDY) == expected
