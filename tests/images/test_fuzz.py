"""Whatever bytes come, pixels or a foreseen error come out, in time and memory, and pixels can be prepared."""

from __future__ import annotations

import functools
import itertools
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from idefics_cli.errors import ItemError
from idefics_cli.images import Limits, decode
from idefics_cli.models.loading import open_family
from idefics_cli.values import Image, ModelSpec
from tests.images.fuzz import mutants, seeds
from tests.models.others import ALL, other
from tests.models.tiny import KINDS, checkpoint, document, user
from tests.rivals import count_rivals

LIMITS = Limits(max_pixels=1_000_000, decode_seconds=5)
GRACE_SECONDS = 2.0
GROWTH_BYTES = 400_000_000
SECONDS = 60
SOAK_SECONDS = float(os.environ.get("IDEFICS_SOAK_SECONDS", 30 * 60))


@functools.cache
def list_preparations() -> list[Callable[[Image], object]]:
    """What each family does with an image before its model sees it."""
    own = [open_family(ModelSpec(str(checkpoint(kind)))) for kind in (*KINDS, "smolvlm")]
    templated = [open_family(ModelSpec(str(other(kind)))) for kind in ALL]
    return [
        *(lambda image, family=family: family.encode(document(image), [image]) for family in own),
        *(lambda image, family=family: family.encode((user(image, "red?"),), [image]) for family in templated),
    ]


def try_all(files: Iterable[bytes], preparations: Iterable[Callable[[Image], object]]) -> Counter[str]:
    """How the files came out, each prepared by one family in turn. What is no ItemError goes through."""
    outcomes: Counter[str] = Counter()
    turns = itertools.cycle(preparations)
    for data in files:
        began = time.monotonic()
        try:
            image = decode(data, "mutant", LIMITS)
            outcomes["pixels"] += 1
            assert image.pixels.mode == "RGB"
            assert image.pixels.width * image.pixels.height <= LIMITS.max_pixels
            next(turns)(image)
        except ItemError as error:
            outcomes[error.code] += 1
        except Exception as error:
            error.add_note(data.hex())
            raise
        assert time.monotonic() - began < LIMITS.decode_seconds + GRACE_SECONDS * count_rivals(), data.hex()
    return outcomes


def measure_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_the_files_themselves_are_images() -> None:
    assert try_all(seeds(), list_preparations()) == {"pixels": len(seeds())}


def try_mutants(seed: int, seconds: float) -> Counter[str]:
    """Those of a seed, for so long."""
    preparations = list_preparations()
    try_all(seeds(), preparations)
    before, end = measure_peak(), time.monotonic() + seconds
    files = itertools.takewhile(lambda _: time.monotonic() < end, mutants(seed))
    outcomes = try_all(files, preparations)
    assert set(outcomes) <= {"pixels", "not_an_image", "too_large", "unusable_image"}
    assert measure_peak() - before < GROWTH_BYTES
    return outcomes


def test_mutants_are_pixels_or_foreseen_errors() -> None:
    outcomes = try_mutants(1, SECONDS)
    assert outcomes["pixels"] > outcomes.total() / 10 < outcomes["not_an_image"]


@pytest.mark.slow
def test_mutants_for_half_an_hour() -> None:
    seed = time.time_ns()
    print(f"\nseed {seed}")  # noqa: T201
    outcomes = try_mutants(seed, SOAK_SECONDS)
    print(f"{outcomes.total():,} mutants: {dict(outcomes)}")  # noqa: T201
