"""Other architectures, tiny and in the hub's files, answer as plain transformers does: alone, in batches, few-shot."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from idefics_cli.backends.local import LocalBackend
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation
from idefics_cli.engine.label_scoring import split_labels
from idefics_cli.models.families.chat_template import ChatTemplateFamily
from idefics_cli.models.families.family import Encoded, Family
from idefics_cli.models.families.image_processors import explain_missing
from idefics_cli.models.families.mrope import MropeFamily
from idefics_cli.models.families.templated import SpelledImage, TemplatedFamily
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.models.quantization.kinds import list_quantized
from idefics_cli.values import (
    Answer,
    Choice,
    Decoding,
    Image,
    ImagePart,
    Message,
    ModelSpec,
    Prompt,
    Request,
    TextPart,
)
from tests.models.mrope_kinds import MROPE_KINDS
from tests.models.others import ALL, TEMPLATED, other
from tests.models.tiny import assistant, picture, user
from tests.program import run_program

A, B, C = picture(1), picture(2, (30, 60)), picture(3, (80, 40))
IMAGES = {image.source: image for image in (A, B, C)}
OPEN = list(ALL)
PLAIN = ("qwen3_5", "gemma4", "mllama")
WANTS_TEXT = ("glm4v", "mllama")
"""Those whose templates print some turns as they are."""
SYSTEM = Message("system", (TextPart("Be brief."),))
FORMS: dict[str, Prompt] = {
    "one image": (user(A, "What is this?"),),
    "among words": (user("And this", B, "or", C, "this?"),),
    "turns": (user(A, "What?"), assistant("A dog."), user(B, "And this?")),
    "text alone": (user("No image at all?"),),
    "system": (SYSTEM, user(A, "Which colour?")),
    "begun reply": (user(B, "What is in this image?"), assistant("This picture depicts")),
    "shots": (
        *(user(A, "Which colour?"), assistant("red")),
        *(user(B, "Which colour?"), assistant("blue")),
        user(C, "Which colour?"),
    ),
    "shots of text": (user("Which?"), assistant("red"), user("Which?"), assistant("blue"), user(A, "Which?")),
    "words first": (user("Question: what is this?", A),),
    "side by side": (user(A, B, C, "Compare."),),
    "the same twice": (user(A, "and", A, "are the same?"),),
}
BRIEF = ("one image", "among words", "turns", "text alone")
FORM = [pytest.param(form, marks=() if form in BRIEF else pytest.mark.slow) for form in FORMS]
PROMPTS = tuple(FORMS[form] for form in BRIEF)
GREEDY = Decoding(max_new_tokens=6)


@functools.cache
def opened(name: str) -> tuple[Family, Any]:
    spec = ModelSpec(str(other(name)))
    family = open_family(spec)
    return family, load_model(spec, family)


def pictures_of(prompt: Prompt) -> list[Image]:
    return [IMAGES[part.source] for message in prompt for part in message.parts if isinstance(part, ImagePart)]


def plain_inputs(name: str, prompt: Prompt, ending: str | None = None) -> dict[str, Any]:
    """What the processor itself makes of a conversation."""
    processor = opened(name)[0].processor
    messages = [{"role": message.role, "content": write_content(name, message)} for message in prompt]
    is_begun = ending is None and prompt[-1].role == "assistant"
    thinks = {"enable_thinking": False} if "enable_thinking" in processor.chat_template else {}
    text = processor.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=ending is None and not is_begun,
        continue_final_message=is_begun,
        **thinks,
    )
    if ending is not None:
        (label,) = (part.text for part in prompt[-1].parts if isinstance(part, TextPart))
        text = text[: text.rindex(label) + len(label)] + ending
    bos = processor.tokenizer.bos_token
    pictures = [image.pixels for image in pictures_of(prompt)]
    options = {"add_special_tokens": False} if text.startswith(bos) else {}
    made = processor(text=[text], images=[pictures] if pictures else None, **options)
    return dict(made.convert_to_tensors("pt"))


def write_content(name: str, message: Message) -> Any:
    if name in WANTS_TEXT and len(message.parts) == 1 and isinstance(message.parts[0], TextPart):
        return message.parts[0].text
    return [
        {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in message.parts
    ]


@torch.inference_mode()
def plain_answer(name: str, prompt: Prompt, decoding: Decoding = GREEDY) -> list[int]:
    family, model = opened(name)
    inputs = plain_inputs(name, prompt)
    config = transformers.GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.num_beams,
        do_sample=False,
        eos_token_id=list(family.stop_ids),
        pad_token_id=family.pad_id,
        bad_words_ids=[[index] for index in family.banned_ids] or None,
    )
    whole = model.generate(**inputs, generation_config=config)[0, inputs["input_ids"].shape[1] :].tolist()
    return [index for index in whole if index not in family.stop_ids]


def answers_of(name: str, requests: Sequence[Request], batch_size: int) -> list[Answer]:
    answers = LocalBackend(ModelSpec(str(other(name))), batch_size=batch_size).answer(requests, IMAGES)
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Answer)]


@pytest.mark.parametrize("form", FORM)
@pytest.mark.parametrize("name", OPEN)
def test_prompts_make_the_ids_of_the_processor(name: str, form: str) -> None:
    family, _ = opened(name)
    found = family.encode(FORMS[form], pictures_of(FORMS[form]))
    assert list(found.ids) == plain_inputs(name, FORMS[form])["input_ids"][0].tolist()


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("forms", [BRIEF, pytest.param(tuple(FORMS), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OPEN)
def test_answers_are_those_of_plain_transformers(name: str, forms: tuple[str, ...], batch_size: int) -> None:
    family, _ = opened(name)
    requests = [Request(form, "vqa", FORMS[form], GREEDY) for form in forms]
    for form, answer in zip(forms, answers_of(name, requests, batch_size), strict=True):
        assert answer.text.strip() == family.decode(plain_answer(name, FORMS[form])).strip(), form


@pytest.mark.parametrize("name", TEMPLATED)
def test_shots_are_shared_and_change_no_answer(name: str) -> None:
    shots = (user(A, "Which colour?"), assistant("red"), user(B, "Which colour?"), assistant("blue"))
    prompts = [(*shots, user(C, f"Which colour is number {n}?")) for n in range(4)]
    requests = [Request(str(n), "vqa", prompt, GREEDY) for n, prompt in enumerate(prompts)]
    family, _ = opened(name)
    answers = answers_of(name, requests, 4)
    assert isinstance(family, TemplatedFamily)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.text.strip() == family.decode(plain_answer(name, prompt)).strip()
    assert max(answer.usage.shared_tokens for answer in answers) > 0


@pytest.mark.parametrize("name", MROPE_KINDS)
def test_tokens_of_images_are_placed_as_the_model_places_them(name: str) -> None:
    family, model = opened(name)
    for prompt in PROMPTS[:3]:
        encoded = family.encode(prompt, pictures_of(prompt))
        inputs = plain_inputs(name, prompt)
        expected, skipped = model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
        )
        assert isinstance(family, MropeFamily)
        assert (family.place_tokens(encoded) == expected[:, 0]).all()
        assert family.count_skipped(encoded) == skipped


@pytest.mark.parametrize("name", OPEN)
def test_beams_are_those_of_plain_transformers(name: str) -> None:
    beams = replace(GREEDY, num_beams=2)
    prompts = PROMPTS[:3]
    requests = [Request(str(n), "write", prompt, beams) for n, prompt in enumerate(prompts)]
    family, _ = opened(name)
    for prompt, answer in zip(prompts, answers_of(name, requests, 4), strict=True):
        assert answer.text.strip() == family.decode(plain_answer(name, prompt, beams)).strip()


@pytest.mark.parametrize("name", OPEN)
def test_labels_are_scored_as_the_template_writes_them(name: str) -> None:
    prompt = (user(A, "Which?"),)
    labels = ("red", "blue", "a red dog")
    choices = tuple(Choice(label, f" {label}\n") for label in labels)
    (answer,) = answers_of(name, [Request("0", "classify", prompt, choices=choices)], 4)
    end = {"gemma3": "<end_of_turn>", "aya_vision": "<|END_RESPONSE|>"}.get(name, ALL[name].end)
    scores = {score.label: score.logprob for score in answer.scores}
    _, model = opened(name)
    asked = plain_inputs(name, prompt)["input_ids"].shape[1]
    for label in labels:
        inputs = plain_inputs(name, (*prompt, assistant(label)), end)
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(**inputs, use_cache=False).logits[0].float(), dim=-1)
        ids = inputs["input_ids"][0].tolist()
        assert ids[:asked] == plain_inputs(name, prompt)["input_ids"][0].tolist()
        expected = math.fsum(float(logprobs[n - 1, ids[n]]) for n in range(asked, len(ids)))
        # What all labels begin with is a part of the prompt, and of each score alike.
        scores[label] -= expected
    assert max(scores.values()) - min(scores.values()) < 1e-4


def count_held(rows: Sequence[Encoded]) -> int:
    """The bytes of all tensors of rows, what they share counted once."""
    tensors = [tensor for row in rows for tensor in (row.inputs or {}).values()]
    tensors += [
        tensor for row in rows for one in row.pixels if isinstance(one, SpelledImage) for tensor in one.tensors.values()
    ]
    held = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(held.values())


@pytest.mark.parametrize("name", OPEN)
def test_a_hundred_labels_cost_one_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, _ = opened(name)
    large = picture(9, (560, 560))
    choices = [Choice(f"label {n}", f"label {n}") for n in range(100)]
    looked: list[Any] = []
    kind = type(family.processor.image_processor)
    plain = kind.__call__

    def look(self: Any, *given: Any, **options: Any) -> Any:
        looked.append(given)
        return plain(self, *given, **options)

    monkeypatch.setattr(kind, "__call__", look)
    one = family.encode_choices((user(large, "Which?"),), [large], choices[:1])
    once = len(looked)
    rows = family.encode_choices((user(large, "Which?"),), [large], choices)
    assert len(looked) <= 2 * once, "the image is prepared once more at most"
    ids = sum(8 * len(row.ids) for row in rows)
    assert count_held(rows) < 1.1 * count_held(one) + 8 * ids
    assert rows[7].ids == family.encode_choice((user(large, "Which?"),), [large], choices[7]).ids


QUANTIZED = dict.fromkeys(TEMPLATED, 14) | {"aya_vision": 21, "glm4v": 12, "qwen3_5": 15}
QUANTIZED |= {"gemma4": 26, "mllama": 21}
"""The matrices of their text models: seven a layer, of GLM six."""


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in PLAIN else pytest.mark.slow) for name in OPEN])
def test_four_bits_load_and_answer(name: str) -> None:
    spec = ModelSpec(str(other(name)), quantization="4bit", device="cpu", keeps_quantized=False)
    family = open_family(spec)
    model = load_model(spec, family)
    packed = list_quantized(model)
    assert len(packed) == QUANTIZED[name]
    assert not [one for one in packed if "vision" in one or "visual" in one or "lm_head" in one]
    (outcome,) = Engine(model, family).run([Continuation(family.encode((user(A, "What?"),), [A]), GREEDY)])
    assert outcome.generation is not None
    assert outcome.is_finite
    assert outcome.generation.new_tokens > 0


@pytest.mark.parametrize(("name", "end"), [("gemma3", "<end_of_turn>"), ("llava", "</s>"), ("qwen2_vl", "<|im_end|>")])
def test_answers_stop_where_the_template_ends_a_turn(name: str, end: str) -> None:
    family, _ = opened(name)
    assert end in family.tokenizer.convert_ids_to_tokens(list(family.stop_ids))


PRINTS_PARTS = (
    "{% for message in messages %}[{{ message['role'] }}]{% if message['role'] == 'system' %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}{% endfor %}"
)


def test_a_template_that_wants_a_text_is_given_one() -> None:
    family = open_family(ModelSpec(str(other("llava"))))
    family.processor.chat_template = PRINTS_PARTS
    prompt = (Message("system", (TextPart("Be brief."),)), user(A, "What?"))
    assert family.render(prompt) == "[system]Be brief.[user]<image>What?"


def plan_of(family: Family, model: Any) -> list[int]:
    works = [Continuation(family.encode(prompt, pictures_of(prompt)), GREEDY) for prompt in PROMPTS]
    return sorted(len(batch.rows) for batch in Engine(model, family).plan(works, rows=4))


@pytest.mark.parametrize("name", PLAIN)
def test_what_cannot_be_cut_is_batched_whole(name: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = [1, 1, 2] if name == "mllama" else [1, 3]
    assert plan_of(*opened(name)) == expected, "prompts with as many images together, the one without alone"
    assert not [one for one in caplog.records if one.name.startswith("idefics_cli")]


QUESTIONS = ("What?", "How many dogs are there?", "Which colour is it, then?", "And what is behind it?")


def ask_both(name: str, family: Family, model: Any) -> tuple[list[int], list[str], list[str]]:
    """Four questions about each of two images: what was shared, what was answered, and what plain transformers says."""
    prompts = [(user(image, question),) for question in QUESTIONS for image in (A, B)]
    works = [Continuation(family.encode(prompt, pictures_of(prompt)), GREEDY) for prompt in prompts]
    engine = Engine(model, family)
    outcomes = {
        index: outcome
        for batch in engine.plan(works, rows=3)
        for index, outcome in zip(batch.rows, engine.run([works[n] for n in batch.rows]), strict=True)
    }
    answers = [one.generation.text if (one := outcomes[n]).generation else "" for n in range(len(works))]
    expected = [family.decode(plain_answer(name, prompt)) for prompt in prompts]
    return [outcomes[n].shared_tokens for n in range(len(works))], answers, expected


@pytest.mark.parametrize("name", PLAIN)
def test_questions_about_one_image_go_on_from_one_cache(name: str) -> None:
    shared, answers, expected = ask_both(name, *opened(name))
    assert [one.strip() for one in answers] == [one.strip() for one in expected]
    assert sum(count > 0 for count in shared) == len(shared) - 2, "each image is run once"


def test_what_goes_on_differently_from_its_cache_is_run_whole() -> None:
    class Forgetful(ChatTemplateFamily):
        """One whose prompts begin with other words than they have."""

        def begin(self, encoded: Encoded, length: int) -> Encoded:
            made = super().begin(encoded, length)
            assert made.inputs is not None
            inputs = {**made.inputs, "input_ids": made.inputs["input_ids"].clone()}
            inputs["input_ids"][0, 0] += 7
            return replace(made, inputs=inputs)

    family, model = opened("qwen3_5")
    shared, answers, expected = ask_both("qwen3_5", Forgetful(family.processor, family.config), model)
    assert [one.strip() for one in answers] == [one.strip() for one in expected]
    assert not any(shared)


@pytest.mark.parametrize("name", PLAIN)
def test_the_prompt_of_many_labels_is_run_once(name: str) -> None:
    family, model = opened(name)
    prompt, choices = (user(A, "Which?"),), [Choice(f"{n} dogs", f"{n} dogs") for n in range(20)]
    rows = family.encode_choices(prompt, [A], choices)
    ranking = split_labels(family.encode(prompt, [A]), rows)
    engine = Engine(model, family)
    engine.run([ranking])  # looks whether it may
    run: list[int] = []
    hook = model.register_forward_hook(
        lambda module, args, kwargs, output: run.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        (outcome,) = engine.run([ranking])
    finally:
        hook.remove()
    assert sum(run) < 3 * len(rows[0].ids) + 20 * 10
    assert len(outcome.scores) == 20


def test_an_architecture_that_batches_wrongly_is_run_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    class Careless(ChatTemplateFamily):
        """One that lets the padding be seen."""

        def collate(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
            inputs = super().collate(rows)
            return inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}

    family, model = opened("qwen2_5_vl")
    assert plan_of(Careless(family.processor, family.config), model) == [1, 1, 1, 1]
    (said,) = caplog.messages
    assert said == "qwen2_5_vl answers differently in a batch, so its requests are run one by one"


def test_only_tokens_of_the_model_are_refused() -> None:
    family, _ = opened("qwen2_vl")
    family.encode((user(A, "What does <image> mean, and <end_of_utterance>?"),), [A])
    message = Message("user", user(A, "<|image_pad|>").parts)
    with pytest.raises(Exception, match=r"<\|image_pad\|>"):
        family.encode((message,), [A])


def test_what_needs_torchvision_says_so() -> None:
    said = explain_missing(opened("llava")[0].config, ImportError("Thing requires the Torchvision library"))
    assert said is not None
    assert str(said) == "the processor of llava needs torchvision; pip install torchvision"
    assert explain_missing(opened("llava")[0].config, ImportError("num2words")) is None


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("mistral3", {(3000, 10): "one of its sides would have no pixels left"}),
        ("qwen2_5_vl", {(3000, 10): "aspect ratio must be smaller than 200, got 300.0"}),
    ],
)
def test_an_odd_image_fails_alone_and_says_why(name: str, bad: dict[tuple[int, int], str], tmp_path: Path) -> None:
    sizes = [(40, 30), (1, 1), (3000, 10), (50, 60)]
    for number, size in enumerate(sizes):
        picture(number, size).pixels.save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(len(sizes))]
    words = ("--format", "jsonl", "--model", other(name), "--max-new-tokens", "3")
    run = run_program("caption", *paths, *words)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.code == 1, run.stderr
    assert [size for size, row in zip(sizes, rows, strict=True) if row["error"]] == list(bad)
    for row in rows:
        if row["error"]:
            assert row["error"]["code"] == "unusable_image"
            assert next(iter(bad.values())) in row["error"]["message"]
        else:
            alone = run_program("caption", row["id"], *words)
            assert json.loads(alone.stdout)["text"] == row["text"]
