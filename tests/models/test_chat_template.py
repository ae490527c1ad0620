"""An architecture without an adapter, run by the chat template of its processor."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import transformers

from idefics_cli.backends.local import LocalBackend
from idefics_cli.errors import ModelError, PromptError
from idefics_cli.models.loading import open_family
from idefics_cli.values import Answer, Choice, Decoding, ModelSpec, Request
from tests.models.tiny import byte_level_tokenizer, document, picture, user

A, B = picture(1), picture(2, (30, 60))
IMAGES = {image.source: image for image in (A, B)}
TEMPLATE = (
    "<|bos|>{% for message in messages %}[{{message['role']}}]{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{part['text']}}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@functools.cache
def llava() -> ModelSpec:
    folder = Path(tempfile.mkdtemp(prefix="llava-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(3)
    tokenizer = byte_level_tokenizer("<|bos|>", ("<image>",))
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48}
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "image_size": 28}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        text_config=text | layers | {"max_position_embeddings": 256, "initializer_range": 0.3},
        vision_config=vision | layers | {"patch_size": 14, "projection_dim": 32},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor.save_pretrained(folder)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    return ModelSpec(str(folder))


def test_the_template_lays_out_the_prompt() -> None:
    family = open_family(llava())
    prompt = (user("What is ", A, "?"),)
    assert family.render(prompt) == "<|bos|>[user]What is <image>?[assistant]"
    ids = family.encode(prompt, [A]).ids
    assert ids.count(family.tokenizer.bos_token_id) == 1
    assert ids.count(family.image_id) == 4


def test_requests_of_every_kind_are_answered() -> None:
    backend = LocalBackend(llava())
    short = Decoding(max_new_tokens=4)
    labels = tuple(Choice(label, f" {label}") for label in ("red", "blue"))
    requests = [
        Request("0", "vqa", (user(A, "What is this?"),), short),
        Request("1", "vqa", (user(B, "And", A, "this?"),), short),
        Request("2", "vqa", (user("No image."),), short),
        Request("3", "classify", (user(A, "Which?"),), short, labels),
        Request("4", "vqa", (user(A, "</s>"),), short),
    ]
    answers = backend.answer(requests, IMAGES)
    assert all(isinstance(answer, Answer) for answer in answers[:4])
    ranked = answers[3]
    assert isinstance(ranked, Answer)
    assert len(ranked.scores) == 2
    assert isinstance(answers[4], PromptError)
    assert backend.style == "chat"
    assert backend.preview(requests[0], IMAGES).image_tokens == (4,)


def test_a_document_cannot_be_continued() -> None:
    with pytest.raises(ModelError, match="--style chat"):
        open_family(ModelSpec(llava().checkpoint, style="completion"))
    with pytest.raises(ModelError, match="--style chat"):
        open_family(llava()).encode(document(A), [A])
