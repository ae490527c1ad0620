"""Generation: what ends or shapes a text does so exactly, and is seen in no other text."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from idefics_cli.engine.detokenizer import AnswerText
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation, Generation
from idefics_cli.engine.listener import Listener
from idefics_cli.engine.oom_retry import Done
from idefics_cli.models.families.family import Encoded, Family
from idefics_cli.values import Decoding, Image, Prompt
from tests.engine.oracle import opened, run_all
from tests.models.tiny import KINDS, assistant, document, picture, user

A, B, C = picture(1), picture(2, (30, 60)), picture(3, (80, 20))
PROMPTS: tuple[tuple[Prompt, tuple[Image, ...]], ...] = (
    (document(A), (A,)),
    (document(A, "This is an image of"), (A,)),
    (document("one", A, "two", B, C, "Question: What colour is the circle? Answer:"), (A, B, C)),
    ((user(B, "Describe this image."), assistant("A dog."), user("And ", C, "who is that?")), (B, C)),
    ((user("No image at all?"),), ()),
)
GREEDY = Decoding(max_new_tokens=12)


def rows_of(family: Family) -> list[Encoded]:
    return [family.encode(prompt, images) for prompt, images in PROMPTS]


def ask(kind: str, row: Encoded, decoding: Decoding, listener: Listener | None = None) -> Generation:
    family, model = opened(kind)
    (outcome,) = Engine(model, family).run([Continuation(row, decoding, listener)])
    assert outcome.generation is not None
    return outcome.generation


def ask_all(kind: str, rows: list[Encoded], decoding: Decoding) -> list[Generation]:
    family, model = opened(kind)
    works = [Continuation(row, decoding) for row in rows]
    done = run_all(Engine(model, family), works, rows=8)
    return [one.outcome.generation for one in done if isinstance(one, Done) and one.outcome.generation]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_plain_argmax_without_a_cache(kind: str) -> None:
    """The naive loop: whole forward, best token that is not banned, again."""
    family, model = opened(kind)
    row = rows_of(family)[2]
    ids, end = list(row.ids), len(row.ids)
    for _ in range(8):
        with torch.inference_mode():
            inputs = family.collate([Encoded(tuple(ids), row.spans, row.pixels)])
            logits = model(**inputs, use_cache=False).logits[0, -1].clone()
            logits[list(family.banned_ids)] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] in family.stop_ids:
            break
    words = [index for index in ids[end:] if index not in family.stop_ids]
    answer = ask(kind, row, Decoding(max_new_tokens=8))
    assert answer.text == AnswerText(family, row.ids, ()).read(words)
    assert answer.new_tokens == len(ids) - end


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_are_seen(kind: str) -> None:
    family, model = opened(kind)
    logits = []
    for image in (A, picture(9, A.pixels.size)):
        row = family.encode(document(image, "Describe this image."), [image])
        with torch.inference_mode():
            logits.append(model(**family.collate([row])).logits[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_ends_the_text_before_itself(kind: str) -> None:
    rows = rows_of(opened(kind)[0])
    plain = [ask(kind, row, GREEDY) for row in rows]
    stop = plain[2].text[4:6]
    stopped = ask_all(kind, rows, replace(GREEDY, stop=(stop,)))
    for before, after in zip(plain, stopped, strict=True):
        cut = before.text.partition(stop)[0]
        assert after.text == cut
        if stop in before.text:
            assert after.finish_reason == "stop"
            assert after.new_tokens <= before.new_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_and_the_end_are_told_apart(kind: str) -> None:
    family, model = opened(kind)
    row = rows_of(family)[1]
    assert ask(kind, row, Decoding(max_new_tokens=0)) == Generation("", 0, "length")
    first = model.generate(**family.collate([row]), max_new_tokens=1)[0, -1].item()
    own_stops = family.stop_ids
    try:
        family.stop_ids = ()
        short = ask(kind, row, Decoding(max_new_tokens=2))
        assert (short.finish_reason, short.new_tokens) == ("length", 2)
        family.stop_ids = (first,)
        assert ask(kind, row, GREEDY) == Generation("", 1, "stop")
    finally:
        family.stop_ids = own_stops


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [(), ("e",)], ids=["whole", "stopped"])
def test_streamed_pieces_add_up_to_the_answer(kind: str, stop: tuple[str, ...]) -> None:
    family, _ = opened(kind)
    for row in rows_of(family):
        for decoding in (replace(GREEDY, stop=stop), replace(GREEDY, stop=stop, num_beams=2)):
            pieces: list[str] = []
            streamed = ask(kind, row, decoding, Listener(pieces.append))
            assert "".join(pieces) == streamed.text
            assert streamed == ask(kind, row, decoding)


@pytest.mark.parametrize("kind", KINDS)
def test_several_are_streamed_at_once_and_each_hears_its_own(kind: str) -> None:
    family, model = opened(kind)
    rows = rows_of(family)[:2]
    heard: list[list[str]] = [[], []]
    works = [Continuation(row, GREEDY, Listener(pieces.append)) for row, pieces in zip(rows, heard, strict=True)]
    outcomes = Engine(model, family).run(works)
    for row, pieces, outcome in zip(rows, heard, outcomes, strict=True):
        assert outcome.generation == ask(kind, row, GREEDY)
        assert "".join(pieces) == outcome.generation.text


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_ends_when_its_listener_goes_and_the_others_do_not(beams: int) -> None:
    family, model = opened("idefics")
    rows = rows_of(family)[:2]
    decoding = replace(GREEDY, num_beams=beams)
    asked: list[int] = []

    def is_cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    works = [
        Continuation(rows[0], decoding, Listener(is_cancelled=is_cancelled)),
        Continuation(rows[1], decoding),
    ]
    gone, other = Engine(model, family).run(works)
    assert gone.generation is not None
    if beams == 1:
        whole = ask("idefics", rows[0], decoding).text
        assert whole.startswith(gone.generation.text)
        assert len(gone.generation.text) < len(whole)
    assert other.generation == ask("idefics", rows[1], decoding)
    asked.clear()
    Engine(model, family).run(works[:1])
    if beams == 1:
        assert len(asked) == 4  # nobody is left, so the other tokens were not even asked for


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampled_answer_depends_on_its_seed_alone(kind: str) -> None:
    family, _ = opened(kind)
    row = rows_of(family)[1]
    hot = Decoding(max_new_tokens=12, temperature=2.0, seed=3)
    first = ask(kind, row, hot)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert ask(kind, row, hot) == first
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers were drawn from"
    assert len({ask(kind, row, replace(hot, seed=seed)).text for seed in range(4)}) > 1


def test_what_a_checkpoint_prefers_does_not_leak_in() -> None:
    """The tiny checkpoints ship a generation config that samples at temperature 0.3."""
    _, model = opened("idefics")
    assert model.generation_config.do_sample is not True
    row = rows_of(opened("idefics")[0])[1]
    assert len({ask("idefics", row, GREEDY).text for _ in range(3)}) == 1


def test_no_marker_is_ever_generated() -> None:
    family, _ = opened("idefics3")
    for seed in range(5):
        answer = ask("idefics3", rows_of(family)[2], Decoding(max_new_tokens=40, temperature=5.0, seed=seed))
        assert "<" not in answer.text.replace("<0x", "") or "image" not in answer.text


def new_ids(family: Family, text: str) -> list[int]:
    ids: list[int] = family.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("kind", ["idefics", "idefics3"])
def test_text_is_decoded_as_it_follows_its_prompt(kind: str) -> None:
    family, _ = opened(kind)
    row = family.encode(document(A, "This is an image of"), [A])
    whole = family.encode(document(A, "This is an image of a red dog"), [A])
    assert AnswerText(family, row.ids, ()).read(whole.ids[len(row.ids) :]) == " a red dog"


@pytest.mark.parametrize("kind", ["idefics", "idefics3"])
def test_half_a_character_and_half_a_stop_string_wait(kind: str) -> None:
    family, _ = opened(kind)
    row = family.encode(document(A, "Answer:"), [A])
    answer = AnswerText(family, row.ids, ("\nUser:",))
    ids = list(family.encode(document(A, "Answer: ☃ yes\nUser: no"), [A]).ids[len(row.ids) :])
    settled = [answer.read_settled(ids[:count]) for count in range(len(ids) + 1)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(settled))
    assert all("\N{REPLACEMENT CHARACTER}" not in text and "\nU" not in text for text in settled)
    assert settled[-1] == answer.read(ids) == " ☃ yes"
    assert answer.is_stopped(ids)


@pytest.mark.parametrize("kind", ["idefics", "idefics3"])
@pytest.mark.parametrize(
    ("said", "text"), [("\n", None), ("\n\n red\nblue", "\n\n red"), ("\n\nUser: no", "\n"), (" a\n", " a")]
)
def test_line_breaks_ahead_of_any_word_stop_nothing(kind: str, said: str, text: str | None) -> None:
    family, _ = opened(kind)
    row = family.encode(document(A, "Answer:"), [A])
    answer = AnswerText(family, row.ids, ("\n", "\nUser:"))
    ids = family.encode(document(A, f"Answer:{said}x"), [A]).ids[len(row.ids) : -1]
    assert answer.is_stopped(ids) == (text is not None)
    assert answer.read(ids) == (said if text is None else text)
