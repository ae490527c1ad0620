"""The local backend: every request gets its answer or its error, in its place, whatever came with it."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from idefics_cli.backends import close_backends, local, open_backend
from idefics_cli.backends.local import LocalBackend
from idefics_cli.errors import AnswerError, InternalError, ItemError, ModelError, PromptError, SourceError
from idefics_cli.models.families.family import Pixels
from idefics_cli.models.families.placeholder_family import PlaceholderFamily
from idefics_cli.models.loading import load_model
from idefics_cli.values import Answer, Choice, Decoding, Image, ModelSpec, Prompt, Request
from tests.models.tiny import KINDS, checkpoint, document, picture, user

A, B = picture(1), picture(2, (30, 60))
IMAGES = {image.source: image for image in (A, B)}
SHORT = Decoding(max_new_tokens=6)


def spec_of(kind: str) -> ModelSpec:
    return ModelSpec(str(checkpoint(kind)))


def request(id: str, prompt: Prompt, decoding: Decoding = SHORT, labels: tuple[str, ...] = ()) -> Request:
    choices = tuple(Choice(label, f" {label}\n") for label in labels)
    return Request(id, "test", prompt, decoding, choices)


REQUESTS = [
    request("0", document(A)),
    request("1", document(A, "This is an image of"), replace(SHORT, num_beams=2)),
    request("2", document(A, "a </s> b")),
    request("3", document(A, B, "Category:"), labels=("red", "blue", "dog")),
    request("4", document("Instruction: Use the image.\n", B, "Question: What? Answer:")),
    request("5", (user(A, "And who is that?"),), replace(SHORT, temperature=1.5, seed=5)),
    request("6", document(A, "dog " * 600)),
    request("7", document(B, "An image of"), replace(SHORT, repetition_penalty=1.3)),
    request("8", document(A, "An"), replace(SHORT, repetition_penalty=1.3)),
]


def words_of(answers: list[Answer | ItemError]) -> list[Any]:
    """What must not depend on company: all but the time, and what was shared with whom."""
    return [
        replace(answer, seconds=0.0, scores=(), usage=replace(answer.usage, shared_tokens=0))
        if isinstance(answer, Answer)
        else (type(answer), str(answer))
        for answer in answers
    ]


def scores_of(answer: Answer | ItemError) -> dict[str, float]:
    assert isinstance(answer, Answer)
    return {score.label: score.logprob for score in answer.scores}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_come_in_order_and_do_not_depend_on_company(kind: str) -> None:
    backend = LocalBackend(spec_of(kind))
    together = backend.answer(REQUESTS, IMAGES)
    alone = [backend.answer([one], IMAGES)[0] for one in REQUESTS]
    assert words_of(together) == words_of(alone)
    assert scores_of(together[3]) == pytest.approx(scores_of(alone[3]), abs=1e-4)
    assert isinstance(together[2], PromptError)
    assert isinstance(together[6], PromptError)
    ranked, captioned = together[3], together[1]
    assert isinstance(ranked, Answer)
    assert {score.label for score in ranked.scores} == {"red", "blue", "dog"}
    assert ranked.text == ranked.scores[0].label
    assert isinstance(captioned, Answer)
    assert captioned.full_text == f"This is an image of{captioned.text}"
    assert captioned.usage.prompt_tokens > 5
    assert 0 < captioned.usage.new_tokens <= 6


def fail_above(limit: int) -> Any:
    """A hook that runs out of memory for batches larger than the limit, as a small GPU does."""

    def check(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].shape[0] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return check


@pytest.mark.parametrize("limit", [1, 2, 0])
def test_out_of_memory_halves_the_batch(limit: int) -> None:
    backend = LocalBackend(spec_of("idefics"))
    requests = [REQUESTS[index] for index in (0, 3, 4)] + [request(f"x{n}", document(A, "dog " * n)) for n in range(4)]
    expected = backend.answer(requests, IMAGES)
    hook = backend._model.register_forward_pre_hook(fail_above(limit), with_kwargs=True)
    answers = backend.answer(requests, IMAGES)
    hook.remove()
    if limit:
        texts = [answer.text for answer in answers if isinstance(answer, Answer)]
        assert texts == [answer.text for answer in expected if isinstance(answer, Answer)]
        return
    for answer in answers:
        assert isinstance(answer, AnswerError)
        assert answer.code == "out_of_memory"
    after = backend.answer(requests, IMAGES)
    assert words_of(after) == words_of(expected), "the run goes on"


@pytest.mark.parametrize("kind", ["idefics", "idefics2"])
def test_one_that_the_model_fails_for_harms_no_neighbour(kind: str) -> None:
    backend = LocalBackend(spec_of(kind))
    texts = ("a car", "a cat", "a dog", "yes", "no", "night")
    requests = [request(text, document(A, text)) for text in texts]
    requests += [request(f"rank {text}", document(A, text), labels=("red", "blue")) for text in texts]
    requests += [replace(one, id=f"pmi {one.id}", normalize="pmi") for one in requests[6:]]
    expected = backend.answer(requests, IMAGES)
    (dog,) = backend._family.tokenizer(" dog", add_special_tokens=False)["input_ids"][-1:]

    def fail(module: Any, given: Any) -> None:
        if (given[0] == dog).any():
            raise IndexError("no such place")

    hook = backend._model.get_input_embeddings().register_forward_pre_hook(fail)
    assert backend._engine is not None
    backend._engine.free()
    answers = backend.answer(requests, IMAGES)
    hook.remove()
    for one, before, after in zip(requests, expected, answers, strict=True):
        if "dog" in one.id:
            assert isinstance(after, InternalError)
            assert "IndexError" in str(after)
        else:
            assert words_of([after]) == words_of([before])
    assert words_of(backend.answer(requests, IMAGES)) == words_of(expected), "the model is as it was"


@pytest.mark.parametrize("size", [(1, 1), (2, 1)])
def test_an_image_that_the_processor_cannot_take_fails_alone(size: tuple[int, int]) -> None:
    """Idefics2 divides by a side that it has rounded to nothing."""
    backend = LocalBackend(spec_of("idefics2"))
    tiny = picture(5, size)
    answers = backend.answer([REQUESTS[0], request("x", document(tiny))], {**IMAGES, tiny.source: tiny})
    assert isinstance(answers[0], Answer)
    assert isinstance(answers[1], SourceError)
    assert answers[1].code == "unusable_image"
    assert f"5.png ({size[0]} x {size[1]})" in str(answers[1])


@pytest.mark.parametrize("kind", ["idefics-resampler", "idefics2"])
def test_rankings_run_out_of_memory_in_shorter_rows(kind: str) -> None:
    """When even one prompt is too much with all its labels, they are tried in parts."""
    backend = LocalBackend(spec_of(kind))
    colours, things = ("red", "blue", "green"), ("circle", "dog", "car", "city landscape", "office animals")
    labels = tuple(f"{colour} {thing}" for colour in colours for thing in things)
    one = request("0", document(A, "Category:"), labels=labels)
    expected = scores_of(backend.answer([one], IMAGES)[0])
    prompt_tokens = backend.preview(one, IMAGES).prompt_tokens or 0
    too_long: list[int] = []

    def check(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].shape[1] > prompt_tokens + 31:
            too_long.append(inputs["input_ids"].shape[1])
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9999 bytes")

    hook = backend._model.register_forward_pre_hook(check, with_kwargs=True)
    found = scores_of(backend.answer([one], IMAGES)[0])
    hook.remove()
    assert too_long
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["idefics", "idefics2"])
def test_normalizations_take_away_what_the_labels_have_without_the_image(kind: str) -> None:
    backend = LocalBackend(spec_of(kind))
    labels = ("red", "a red circle", "dog")
    requests = [
        replace(request(name, document("Use the image.\n", image, "Category:"), labels=labels), normalize=name)
        for image in (A, B)
        for name in ("none", "tokens", "pmi")
    ]
    blind = request("blind", document("Use the image.\n", "Category:"), labels=labels)
    answers = [scores_of(answer) for answer in backend.answer([*requests, blind], IMAGES)]
    prior = answers.pop()
    family = backend._family
    counts = {
        label: len(family.encode_choice(blind.prompt, [], Choice(label, f" {label}\n")).ids)
        - len(family.encode(blind.prompt, []).ids)
        for label in labels
    }
    for plain, by_token, informed in (answers[:3], answers[3:]):
        for label in labels:
            assert by_token[label] == pytest.approx(plain[label] / counts[label], abs=1e-4)
            assert informed[label] == pytest.approx(plain[label] - prior[label], abs=1e-4)
    assert len(backend._record.priors.list_keys()) == 1, "the same for every image"
    nothing_to_take_away = replace(blind, normalize="pmi")
    (error,) = backend.answer([nothing_to_take_away], IMAGES)
    assert isinstance(error, PromptError)
    assert error.code == "no_image"


def test_what_is_shared_is_counted() -> None:
    backend = LocalBackend(spec_of("idefics2"))
    requests = [
        request(str(n), document("one two three " * 5, image, "Question:")) for n, image in enumerate((A, B, A))
    ]
    answers = backend.answer(requests, IMAGES)
    usages = [answer.usage for answer in answers if isinstance(answer, Answer)]
    assert [usage.prompt_tokens for usage in usages] == [backend.preview(one, IMAGES).prompt_tokens for one in requests]
    assert sorted(usage.shared_tokens > 0 for usage in usages) == [False, True, True]


def test_streaming_gives_the_answer_in_pieces() -> None:
    backend = LocalBackend(spec_of("idefics2"))
    pieces: list[str] = []
    (answer,) = backend.answer([REQUESTS[4]], IMAGES, pieces.append)
    assert isinstance(answer, Answer)
    assert "".join(pieces) == answer.text


def test_a_request_never_runs_without_its_image() -> None:
    lost = replace(request("0", document("Describe the image.")), images=(A.source,))
    (error,) = LocalBackend(spec_of("idefics")).answer([lost], IMAGES)
    assert isinstance(error, InternalError)
    assert "never runs without its image" in str(error)


@pytest.mark.parametrize(("kind", "style"), [("idefics", "chat"), ("idefics2", "chat")])
def test_style_is_the_checkpoints_unless_said(kind: str, style: str) -> None:
    assert LocalBackend(spec_of(kind)).style == style
    assert LocalBackend(replace(spec_of(kind), style="chat")).style == "chat"


def test_a_folder_has_no_revision() -> None:
    assert LocalBackend(spec_of("idefics")).revision is None


@pytest.mark.parametrize("cache_bytes", [0, 30_000, 10**9])
def test_what_is_kept_stays_within_the_memory_given_pixels_included(cache_bytes: int) -> None:
    backend = LocalBackend(spec_of("idefics2"), cache_bytes=cache_bytes)
    assert isinstance(backend.family, PlaceholderFamily)
    backend.answer(REQUESTS, IMAGES)
    kept = backend.measure()["cache_bytes"]
    assert kept <= cache_bytes
    assert (backend.family.pixel_bytes > 0) == (cache_bytes == 10**9)


def test_an_image_is_made_ready_once_ahead_of_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalBackend(spec_of("idefics3"))
    assert isinstance(backend.family, PlaceholderFamily)
    made: list[str] = []
    own = backend.family.prepare

    def prepare(image: Image) -> Pixels:
        made.append(image.source)
        return own(image)

    monkeypatch.setattr(backend.family, "prepare", prepare)
    backend.prepare(REQUESTS[0], IMAGES)
    backend.answer([REQUESTS[0], REQUESTS[0]], IMAGES)
    assert made.count(A.source) == 1


def test_one_backend_is_open_at_a_time() -> None:
    try:
        first = open_backend(spec_of("idefics"))
        assert open_backend(spec_of("idefics"), batch_size=2, cache_bytes=12345) is first
        assert isinstance(first, LocalBackend)
        assert first.batch_size == 2
        first.answer([REQUESTS[0]], IMAGES)
        assert first._engine is not None
        assert isinstance(first.family, PlaceholderFamily)
        assert first._engine._store.limit_bytes + first.family._pixels.limit_bytes == 12345
        second = open_backend(spec_of("idefics3"))
        assert first._model is None
        assert first._engine is None
        assert open_backend(spec_of("idefics3")) is second
        assert open_backend(spec_of("idefics")) is not first
    finally:
        close_backends()


def test_another_model_is_opened_only_after_the_memory_of_the_first_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = open_backend(spec_of("idefics"))
    first.answer([REQUESTS[0]], IMAGES)
    assert isinstance(first, LocalBackend)
    model = weakref.ref(first._model)
    alive = []

    def load(*given: Any) -> Any:
        alive.append(model())
        return load_model(*given)

    monkeypatch.setattr(local, "load_model", load)
    try:
        open_backend(spec_of("idefics2")).answer([REQUESTS[0]], IMAGES)
        assert alive == [None]
    finally:
        close_backends()


def test_a_checkpoint_that_cannot_be_opened_is_a_model_error(tmp_path: Any) -> None:
    with pytest.raises(ModelError):
        open_backend(ModelSpec(str(tmp_path / "nowhere")))


def test_images_are_found_by_their_source() -> None:
    """The same source twice in a prompt is the same image twice."""
    backend = LocalBackend(spec_of("idefics"))
    twice: dict[str, Image] = {"x": A}
    prompt = document(replace_source(A), replace_source(A), "Category:")
    assert backend.preview(request("0", prompt), twice).image_tokens == (3, 2)


def replace_source(image: Image) -> Image:
    return Image("x", image.pixels, image.digest)
