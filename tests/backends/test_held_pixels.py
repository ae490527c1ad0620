"""How many pixels are held at a time: those that wait are counted to the byte, and a window holds few of them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from idefics_cli.backends.backend import PreparedRequest
from idefics_cli.backends.local import LocalBackend
from idefics_cli.engine.flow import WAITING_BATCHES
from idefics_cli.images import Limits
from idefics_cli.models.families.family import Encoded, Pixels
from idefics_cli.models.families.placeholder_family import PIXEL_PART, PlaceholderFamily
from idefics_cli.runner.prefetch import DECODERS, PREPARERS
from idefics_cli.runner.run import Report, run
from idefics_cli.values import Decoding, Image, ImagePart, Item, Message, ModelSpec, Request, TextPart
from tests.models.others import other
from tests.models.tiny import checkpoint, document, picture, user

SHORT = Decoding(max_new_tokens=3)
A, B = picture(1, (60, 40)), picture(2, (60, 40))


def list_tensors(encoded: Encoded) -> list[Tensor]:
    found = list((encoded.inputs or {}).values())
    for one in encoded.pixels:
        found += [
            one.values,
            *([] if one.mask is None else [one.mask]),
            *getattr(one, "tensors", {}).values(),
        ]
    return found


def count_bytes(encoded: Encoded) -> int:
    """The memory of all tensors, what they share once."""
    storages = (one.untyped_storage() for one in list_tensors(encoded))
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


@pytest.mark.parametrize("kind", ["idefics", "idefics2", "idefics3"])
def test_a_request_that_waits_counts_its_pixels_and_masks(kind: str) -> None:
    backend = LocalBackend(ModelSpec(str(checkpoint(kind))))
    prepared = backend.prepare(
        Request("0", "test", document(A, B, "What?"), SHORT, images=(A.source, B.source)),
        {A.source: A, B.source: B},
    )
    assert prepared.held_bytes == count_bytes(prepared.work.encoded) > 0


@pytest.mark.parametrize("kind", ["llava", "llava_onevision", "qwen2_vl", "mllama"])
def test_a_request_of_another_architecture_counts_all_its_tensors(kind: str) -> None:
    """LLaVA-OneVision knows an image among others by another name, Llama 3.2 Vision has one tensor for all of them."""
    backend = LocalBackend(ModelSpec(str(other(kind))))
    prepared = backend.prepare(
        Request("0", "test", (user(A, B, "What?"),), SHORT, images=(A.source, B.source)),
        {A.source: A, B.source: B},
    )
    assert prepared.held_bytes == count_bytes(prepared.work.encoded) > 0


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_an_example_counts_where_it_is_not_kept_for_others(cache_bytes: int) -> None:
    backend = LocalBackend(ModelSpec(str(checkpoint("idefics3"))), cache_bytes=cache_bytes)
    shown = {A.source: A, B.source: B}
    one = backend.prepare(Request("0", "test", document(A, B, "What?"), SHORT, images=(B.source,)), shown)
    example, own = one.work.encoded.pixels
    assert one.held_bytes == own.held_bytes + (0 if cache_bytes else example.held_bytes)


@pytest.mark.parametrize("keeps_bytes", [True, False])
def test_a_mask_that_hides_nothing_is_not_kept(keeps_bytes: bool) -> None:
    backend = LocalBackend(ModelSpec(str(checkpoint("idefics2"))))
    family = backend.family
    assert isinstance(family, PlaceholderFamily)
    family.processor.image_processor.do_normalize = keeps_bytes
    square, wide = picture(3, (28, 28)), picture(4, (97, 41))
    assert family.prepare_once(square).mask is None
    kept = family.pixel_bytes
    assert kept == family.prepare_once(square).values.nbytes
    masked = family.prepare_once(wide)
    assert masked.mask is not None
    assert not masked.mask.all()
    assert family.pixel_bytes - kept == masked.values.nbytes + masked.mask.nbytes


def test_a_window_holds_what_runs_and_the_two_batches_after_it() -> None:
    rows = 2
    backend = LocalBackend(ModelSpec(str(checkpoint("idefics3"))), batch_size=rows)
    images = {str(seed): replace(picture(seed), source=str(seed)) for seed in range(20)}
    coming = [
        backend.prepare(Request(name, "test", document(image, "a"), SHORT, images=(name,)), images)
        for name, image in images.items()
    ]
    taken = most = 0

    def take(count: int, wait: bool) -> Sequence[PreparedRequest] | None:
        nonlocal taken
        given = coming[taken : taken + count]
        taken += len(given)
        return given or None

    for ended, _ in enumerate(backend.answer_prepared(take)):
        most = max(most, taken - ended)
    assert most <= (1 + WAITING_BATCHES) * rows


def test_pixels_of_a_run_stay_within_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of 40, room for 10: whatever is prepared, waits or runs is no more, but for what is in work."""
    room, kept, count = 10, 4, 40
    items = []
    for seed in range(count):
        picture(seed, (56, 56)).pixels.save(tmp_path / f"{seed}.png")
        items.append(Item(str(seed), (str(tmp_path / f"{seed}.png"),)))

    def compose(item: Item) -> Request:
        (source,) = item.images
        prompt = (Message("document", (ImagePart(source), TextPart("a"))),)
        return Request(item.id, "test", prompt, SHORT, images=(source,))

    spec = ModelSpec(str(checkpoint("idefics3")))
    backend = LocalBackend(spec)
    assert isinstance(backend.family, PlaceholderFamily)
    own = backend.family.prepare
    each = own(picture(0, (56, 56))).held_bytes
    backend.batch_size = 2
    backend.limit_cache(PIXEL_PART * kept * each)
    alive: list[int] = []
    most = 0

    def prepare(image: Image) -> Pixels:
        nonlocal most
        made = own(image)
        alive.append(made.held_bytes)
        weakref.finalize(made.values, alive.pop)
        most = max(most, sum(alive))
        return made

    monkeypatch.setattr(backend.family, "prepare", prepare)
    report = Report("tiny")
    results = list(run(items, compose, backend, report, limits=Limits(), window=4, max_held_bytes=room * each))
    assert [result.error for result in results] == [None] * count
    assert 0 < most <= (room + kept + DECODERS + PREPARERS) * each
    assert backend.measure()["cache_bytes"] <= PIXEL_PART * kept * each
