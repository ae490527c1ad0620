"""The local backend: every request gets its answer or its error, in its place, whatever came with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from idefics_cli.backends import close_backends, open_backend
from idefics_cli.backends.local import LocalBackend
from idefics_cli.errors import AnswerError, ItemError, ModelError, PromptError
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


def without_time(answers: list[Answer | ItemError]) -> list[Any]:
    return [
        replace(answer, seconds=0.0) if isinstance(answer, Answer) else (type(answer), str(answer))
        for answer in answers
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_come_in_order_and_do_not_depend_on_company(kind: str) -> None:
    backend = LocalBackend(spec_of(kind))
    together = backend.answer(REQUESTS, IMAGES)
    alone = [backend.answer([one], IMAGES)[0] for one in REQUESTS]
    for index, (one, other) in enumerate(zip(without_time(together), without_time(alone), strict=True)):
        if index == 3:
            assert [s.label for s in one.scores] == [s.label for s in other.scores]
        else:
            assert one == other, index
    assert isinstance(together[2], PromptError)
    assert isinstance(together[6], PromptError)
    ranked, captioned = together[3], together[1]
    assert isinstance(ranked, Answer)
    assert {score.label for score in ranked.scores} == {"red", "blue", "dog"}
    assert ranked.text == ranked.scores[0].label
    assert isinstance(captioned, Answer)
    assert captioned.full_text == f"This is an image of{captioned.text}"
    assert captioned.usage.prompt_tokens == backend.preview(REQUESTS[1], IMAGES).prompt_tokens
    assert 0 < captioned.usage.new_tokens <= 6


@pytest.mark.parametrize(
    ("kind", "costs"), [("idefics", (3, 2)), ("idefics2", (21, 20)), ("idefics3", (34, 22))]
)
def test_preview_shows_prompt_and_costs_without_weights(kind: str, costs: tuple[int, ...]) -> None:
    preview = LocalBackend(spec_of(kind)).preview(REQUESTS[3], IMAGES)
    assert preview.image_tokens == costs
    assert preview.text.count("<image>") == 2
    assert preview.prompt_tokens is not None
    assert preview.prompt_tokens > sum(costs)


def fail_above(limit: int) -> Any:
    """A hook that runs out of memory for batches larger than the limit, as a small GPU does."""

    def check(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].shape[0] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return check


@pytest.mark.parametrize("limit", [1, 2, 0])
def test_out_of_memory_halves_the_batch(limit: int) -> None:
    backend = LocalBackend(spec_of("idefics"))
    requests = [REQUESTS[index] for index in (0, 3, 4)] + [
        request(f"x{n}", document(A, "dog " * n)) for n in range(4)
    ]
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
    assert without_time(after) == without_time(expected), "the run goes on"


def test_streaming_gives_the_answer_in_pieces() -> None:
    backend = LocalBackend(spec_of("idefics2"))
    pieces: list[str] = []
    (answer,) = backend.answer([REQUESTS[4]], IMAGES, pieces.append)
    assert isinstance(answer, Answer)
    assert "".join(pieces) == answer.text


def test_a_request_never_runs_without_its_image() -> None:
    lost = replace(request("0", document("Describe the image.")), images=(A.source,))
    with pytest.raises(AssertionError):
        LocalBackend(spec_of("idefics")).answer([lost], IMAGES)


@pytest.mark.parametrize(("kind", "style"), [("idefics", "completion"), ("idefics2", "chat")])
def test_style_is_the_checkpoints_unless_said(kind: str, style: str) -> None:
    assert LocalBackend(spec_of(kind)).style == style
    assert LocalBackend(replace(spec_of(kind), style="chat")).style == "chat"


def test_a_folder_has_no_revision() -> None:
    assert LocalBackend(spec_of("idefics")).revision is None


def test_one_backend_is_open_at_a_time() -> None:
    try:
        first = open_backend(spec_of("idefics"))
        assert open_backend(spec_of("idefics"), batch_size=2) is first
        assert isinstance(first, LocalBackend)
        assert first.batch_size == 2
        first.answer([REQUESTS[0]], IMAGES)
        second = open_backend(spec_of("idefics3"))
        assert first._model is None
        assert open_backend(spec_of("idefics3")) is second
        assert open_backend(spec_of("idefics")) is not first
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
