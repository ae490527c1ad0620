"""Prompts as ids, spans and pixels, compared with what the real processors make of them."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.errors import ModelError, PromptError
from idefics_cli.models.families.family import Family
from idefics_cli.models.families.placeholder_family import PlaceholderFamily
from idefics_cli.models.loading import load_processor, open_family
from idefics_cli.values import Choice, Image, ModelSpec, Prompt
from tests.models.tiny import KINDS, assistant, checkpoint, document, picture, user

A, B, C = picture(1), picture(2, (30, 60)), picture(3, (28, 28))


def family_of(kind: str, **options: Any) -> Family:
    return open_family(ModelSpec(str(checkpoint(kind)), **options))


def as_processor_takes(items: tuple[str | Image, ...]) -> list[Any]:
    return [item if isinstance(item, str) else item.pixels for item in items]


BATCH: tuple[tuple[str | Image, ...], ...] = (
    (A,),
    (A, "This is an image of "),
    ("User:", A, "Describe this image.\nAssistant: A dog.\n", "User:", B, "Describe this image.\nAssistant:"),
    ("Instruction: Use the image.\n", A, B, " Question: What? Answer:"),
    ("no image at all",),
)


@pytest.mark.parametrize("items", [*((one,) for one in BATCH), BATCH], ids=[*"01234", "all"])
def test_idefics_encodes_as_its_processor_does(items: tuple[tuple[str | Image, ...], ...]) -> None:
    family = family_of("idefics")
    processor = load_processor(ModelSpec(str(checkpoint("idefics"))))
    expected = processor(text=[as_processor_takes(one) for one in items], add_end_of_utterance_token=False)
    rows = [family.encode(document(*one), [item for item in one if isinstance(item, Image)]) for one in items]
    found = family.collate(rows)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name


CONVERSATIONS: tuple[tuple[Prompt, tuple[Image, ...]], ...] = (
    ((user(A, "What do we see in this image?"),), (A,)),
    ((user("And this?", B, C), assistant("Cats."), user(A, " yes?\n")), (B, C, A)),
    ((user("No image. "),), ()),
)


@pytest.mark.parametrize("kind", ["idefics2", "idefics3"])
@pytest.mark.parametrize(("prompt", "images"), CONVERSATIONS, ids=["one", "three", "none"])
def test_chat_encodes_as_the_processor_does(kind: str, prompt: Prompt, images: tuple[Image, ...]) -> None:
    family = family_of(kind)
    processor = load_processor(ModelSpec(str(checkpoint(kind))))
    by_source = {image.source: image.pixels for image in images}
    messages = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part.text}
                if hasattr(part, "text")
                else {"type": "image", "image": by_source[part.source]}
                for part in message.parts
            ],
        }
        for message in prompt
    ]
    expected = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    found = family.collate([family.encode(prompt, images)])
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    if images:
        assert torch.equal(found["pixel_values"], expected["pixel_values"])
        assert torch.equal(found["pixel_attention_mask"], expected["pixel_attention_mask"])


@pytest.mark.parametrize("kind", KINDS)
def test_spans_are_images_from_marker_to_marker(kind: str) -> None:
    family = family_of(kind)
    encoded = family.encode(document("one", A, "two", B, C, "three"), [A, B, C])
    assert [span.digest for span in encoded.spans] == [A.digest, B.digest, C.digest]
    image_ids = [index for index, token in enumerate(encoded.ids) if token == family.image_id]
    inside = [index for span in encoded.spans for index in range(span.start, span.stop)]
    assert set(image_ids) <= set(inside)
    assert len(inside) == len(set(inside))
    assert all(encoded.ids[span.stop - 1] == family.fake_id for span in encoded.spans)
    outside = [token for index, token in enumerate(encoded.ids) if index not in inside]
    assert family.decode(outside).replace(" ", "") == "onetwothree"


@pytest.mark.parametrize("kind", KINDS)
def test_beginning_of_text_comes_once(kind: str) -> None:
    family = family_of(kind)
    for prompt in (document(A, "x"), (user(A, "x"),)):
        assert family.encode(prompt, [A]).ids.count(family.tokenizer.bos_token_id) == 1
        assert family.render(prompt).startswith(family.tokenizer.bos_token)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", ["<image>", "</s>", "<end_of_utterance>", "<fake_token_around_image>"])
def test_special_tokens_are_refused_in_texts_and_labels(kind: str, token: str) -> None:
    family = family_of(kind)
    with pytest.raises(PromptError, match=f"'{token}'") as caught:
        family.encode((user(A, f"hello {token}?"),), [A])
    assert caught.value.code == "special_token"
    with pytest.raises(PromptError, match=f"'{token}'"):
        family.encode_choice(document(A), [A], Choice("x", f" x{token}"))


def test_rows_and_columns_of_idefics3_are_refused_too() -> None:
    with pytest.raises(PromptError, match="<row_1_col_1>"):
        family_of("idefics3").encode((user(A, "<row_1_col_1>"),), [A])


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=30), kind=st.sampled_from(KINDS))
def test_no_text_makes_or_moves_an_image(text: str, kind: str) -> None:
    family = family_of_cached(kind)
    try:
        encoded = family.encode(document("a", A, text, B), [A, B])
    except PromptError:
        return
    assert [span.digest for span in encoded.spans] == [A.digest, B.digest]


_families: dict[str, Family] = {}


def family_of_cached(kind: str) -> Family:
    return _families.setdefault(kind, family_of(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("url", ["https://example.com/a.jpg", "file:///etc/passwd", "note://abc", "data:,x"])
def test_text_that_looks_like_a_url_is_text(kind: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    family = family_of(kind)
    encoded = family.encode(document(A, url), [A])
    assert len(encoded.spans) == 1
    assert url in family.decode(encoded.ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [[], [A, B]], ids=["too few", "too many"])
def test_every_place_has_its_image(kind: str, images: list[Image]) -> None:
    with pytest.raises(PromptError) as caught:
        family_of(kind).encode(document(A, "x"), images)
    assert caught.value.code == "no_image"


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_too_long_is_refused_with_both_numbers(kind: str) -> None:
    family = family_of(kind)
    with pytest.raises(PromptError, match="512") as caught:
        family.encode(document(A, "dog " * 600), [A])
    assert caught.value.code == "prompt_too_long"
    encoded = family.encode(document(A, "dog"), [A])
    with pytest.raises(PromptError, match=f"{len(encoded.ids)} tokens and 510 for the answer"):
        family.check_length(encoded, 510)


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_is_tokenised_with_its_prompt(kind: str) -> None:
    family = family_of(kind)
    completed = family.encode_choice(document(A, "Category:"), [A], Choice("red", " red\n"))
    assert family.decode(completed.ids).endswith("Category: red\n")
    talked = family.encode_choice((user(A, "Which?"),), [A], Choice("red", "red"))
    assert talked.ids[-1] == family.eou_id
    assert family.decode(talked.ids).endswith("Assistant: red")
    bos = family.tokenizer.bos_token_id
    whole = family.tokenizer("Category: red\n", add_special_tokens=False)["input_ids"]
    assert family.encode_choice(document("Category:"), [], Choice("red", " red\n")).ids == (bos, *whole)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_stop_at_every_end_and_name_no_image(kind: str) -> None:
    family = family_of(kind)
    tokens = family.tokenizer.convert_ids_to_tokens(list(family.stop_ids))
    assert set(tokens) == {"</s>", "<end_of_utterance>"}
    banned = family.tokenizer.convert_ids_to_tokens(list(family.banned_ids))
    assert set(banned) == {"<image>", "<fake_token_around_image>"}


@pytest.mark.parametrize(
    ("kind", "costs"),
    [("idefics2", {"low": 5, "medium": 21, "high": 21}), ("idefics3", {"low": 7, "medium": 34})],
)
def test_detail_sets_what_an_image_costs(kind: str, costs: dict[str, int]) -> None:
    for detail, cost in costs.items():
        (span,) = family_of(kind, detail=detail).encode(document(A), [A]).spans
        assert span.stop - span.start == cost, detail
    with pytest.raises(ModelError, match="low, medium, high"):
        family_of(kind, detail="huge")


def test_detail_has_no_meaning_for_idefics() -> None:
    with pytest.raises(ModelError, match="--detail"):
        family_of("idefics", detail="high")


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_an_image_are_prepared_once(kind: str) -> None:
    family = family_of(kind)
    first = family.encode(document(A, "one"), [A]).pixels[0]
    assert family.encode(document(B, A, "two"), [B, A]).pixels[1] is first


@pytest.mark.parametrize("kind", ["idefics2", "idefics3"])
def test_a_picture_in_one_colour_is_no_padding(kind: str) -> None:
    """The models drop all-zero tiles: no 8-bit picture may come out as zero."""
    for level in (0, 127, 128, 255):
        grey = picture(5)
        grey.pixels.paste((level, level, level), (0, 0, *grey.pixels.size))
        image = Image(f"{level}", grey.pixels, f"grey-{level}")
        family = family_of(kind)
        assert isinstance(family, PlaceholderFamily)
        (made,) = family.encode(document(image), [image]).pixels
        assert family.pixel_table.look_up(made.values).abs().amax(dim=(1, 2, 3)).min() > 0
