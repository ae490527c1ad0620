"""The ids that the models were trained on: real vocabularies, published ids, and whatever a tokenizer.json says."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import generate_merges

from idefics_cli.models.families.family import Family
from idefics_cli.models.families.layout import lay_out, spell
from idefics_cli.models.families.placeholder_family import PlaceholderFamily
from idefics_cli.models.loading import open_family
from idefics_cli.prompts.compose import compose
from idefics_cli.prompts.templates import load_template, template_names
from idefics_cli.values import Choice, Item, ModelSpec, Prompt, Style
from tests.models.tiny import EOU, FAKE, IMAGE, assistant, checkpoint, document, picture, user

A, B = picture(1), picture(2)
LEGACY = (None, False, True)
STYLES: tuple[Style, Style] = ("completion", "chat")
Pieces = Mapping[str, int]


def as_the_hub_has_it(vocabulary: Pieces, merges: list[tuple[str, str]], added: Iterable[str]) -> Tokenizer:
    """A LLaMA tokenizer.json of the time: every section of text between special tokens begins with the word mark."""
    core = Tokenizer(models.BPE(dict(vocabulary), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(
        [AddedToken(one, special=True, normalized=False) for one in ("<unk>", "<s>", "</s>", *added)]
    )
    return core


def open_with(kind: str, core: Tokenizer, folder: Path, **changes: Any) -> Family:
    """A tiny checkpoint with another tokenizer.json and other settings of its tokenizer."""
    copied = Path(shutil.copytree(checkpoint(kind), folder / "copy"))
    core.save(str(copied / "tokenizer.json"))
    path = copied / "tokenizer_config.json"
    kept = json.loads(path.read_text())
    for name in ("legacy", "added_tokens_decoder"):
        kept.pop(name, None)
    path.write_text(json.dumps(kept | {name: value for name, value in changes.items() if value is not None}))
    return open_family(ModelSpec(str(copied)))


def find_mistral() -> Path:
    found = importlib.util.find_spec("mistral_common")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / "tokenizer.model.v1"


@functools.cache
def mistral() -> tuple[Pieces, list[tuple[str, str]]]:
    """The vocabulary of Mistral 7B, which Idefics2 took over."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(find_mistral()))
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    return vocabulary, generate_merges(vocabulary, {one: pieces.get_score(i) for one, i in vocabulary.items()})


@functools.cache
def mistral_file() -> Tokenizer:
    return as_the_hub_has_it(*mistral(), (FAKE, IMAGE, EOU))


def open_slow(folder: Path, legacy: bool | None) -> Family:
    """A checkpoint of Idefics2 from before there were fast tokenizers: `tokenizer.model` and no `tokenizer.json`."""
    copied = Path(shutil.copytree(checkpoint("idefics2"), folder / "copy"))
    (copied / "tokenizer.json").unlink()
    shutil.copy(find_mistral(), copied / "tokenizer.model")
    path = copied / "tokenizer_config.json"
    added = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    kept = json.loads(path.read_text()) | {
        "added_tokens_decoder": {
            str(index): {"content": one, **added} for index, one in enumerate((FAKE, IMAGE, EOU), 32000)
        },
        "legacy": legacy,
    }
    path.write_text(json.dumps({name: value for name, value in kept.items() if value is not None}))
    return open_family(ModelSpec(str(copied)))


@pytest.fixture(
    scope="module",
    params=[(is_slow, legacy) for is_slow in (False, True) for legacy in LEGACY],
    ids=[f"{kind}, legacy {legacy}" for kind in ("fast", "slow") for legacy in ("missing", "false", "true")],
)
def idefics2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    is_slow, legacy = request.param
    folder = tmp_path_factory.mktemp("mistral")
    return open_slow(folder, legacy) if is_slow else open_with("idefics2", mistral_file(), folder, legacy=legacy)


def test_idefics2_ends_a_turn_as_it_was_trained_to(idefics2: Family) -> None:
    """The ids that a public fine-tuning script masks up to."""
    ids = idefics2.encode((user(A, "What is in this image?"),), [A]).ids
    assert ids[-6:] == (32002, 28705, 13, 7226, 11143, 28747)
    assert ids[:4] == (1, 1247, 28747, 32000)  # <s> ▁User :
    words = [FAKE, "▁What", "▁is", "▁in", "▁this", "▁image", "?"]
    assert idefics2.tokenizer.convert_ids_to_tokens(list(ids[-13:-6])) == words


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_idefics2_takes_any_text_between_markers_as_its_file(idefics2: Family, texts: list[str]) -> None:
    for text in ("".join(texts), FAKE.join(texts), EOU.join(texts)):
        expected = mistral_file().encode(text, add_special_tokens=False).ids
        assert idefics2.tokenizer(text, add_special_tokens=False)["input_ids"] == expected


FIELDS = {"question": "What is it?", "labels": "a cat, a dog", "prompt": "A photo of", "message": "And now?"}


def list_template_ids(family: Family, encode: Callable[[str], list[int]]) -> str:
    """The ids of every template but those of the image, which are those of the whole text in `encode`."""
    assert isinstance(family, PlaceholderFamily)
    lines = []
    for name in template_names():
        template = load_template(name)
        given = {field: FIELDS.get(field, "a word") for field in template.fields}
        item = Item("0", images=(A.source,), fields=tuple(given.items()))
        for style in STYLES:
            prompt = compose(template, style, item, task="run").prompt
            encoded = family.encode(prompt, [A])
            images = [family.spell_image(one) for one in encoded.pixels]
            laid = lay_out(prompt, strip_turns=family.strip_turns)
            assert encode(family.bos + family.mend(spell(laid, images))) == list(encoded.ids)
            seen = [index for index in encoded.ids if index != family.image_id]
            lines.append(f"{template.label} {style} {' '.join(map(str, seen))}")
    return "\n".join(lines) + "\n"


def test_every_template_has_its_ids_of_mistral(idefics2: Family, golden: Callable[[str, str], None]) -> None:
    """By the file's own encoding of the whole text, and as they were: a change is a change of behaviour."""
    made = list_template_ids(idefics2, lambda text: list(mistral_file().encode(text, add_special_tokens=False).ids))
    golden("ids/idefics2.txt", made)


def test_labels_of_idefics2_are_words_of_their_own(idefics2: Family) -> None:
    row = idefics2.encode_choice((user(A, "Which?"),), [A], Choice("dog", " dog")).ids
    assert idefics2.tokenizer.convert_ids_to_tokens(list(row[-3:])) == [":", "▁dog", EOU]


@pytest.mark.parametrize("legacy", LEGACY, ids=["missing", "false", "true"])
def test_idefics_makes_the_ids_of_the_published_snapshot(legacy: bool | None, tmp_path: Path) -> None:
    """What the inference server's own test of idefics-9b-instruct sends and gets."""
    words = {
        "▁User": 4911,
        ":": 29901,
        "▁Can": 1815,
        "▁you": 366,
        "▁tell": 2649,
        "▁me": 592,
        "▁a": 263,
        "▁very": 1407,
        "▁short": 3273,
        "▁story": 5828,
        "▁based": 2729,
        "▁on": 373,
        "▁the": 278,
        "▁image": 1967,
        "?": 29973,
        "Ass": 7900,
        "istant": 22137,
    }
    known = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 13, "▁": 29871} | words
    merges: dict[tuple[str, str], None] = {}
    begun = {word[:size] for word in words for size in range(1, len(word))}
    letters = {letter for word in words for letter in word}
    for word in words:
        merges |= {(word[:size], word[size]): None for size in range(1, len(word))}
    free = (index for index in range(3, 32000) if index not in set(known.values()))
    vocabulary = known | {one: next(free) for one in sorted((begun | letters) - set(known))}
    vocabulary |= {f"<free {index}>": index for index in free}
    core = as_the_hub_has_it(vocabulary, list(merges), (FAKE, IMAGE, EOU))
    family = open_with("idefics", core, tmp_path, legacy=legacy)
    prompt = (user(A, "Can you tell me a very short story based on the image?"),)
    story = (1815, 366, 2649, 592, 263, 1407, 3273, 5828, 2729, 373, 278, 1967, 29973)
    reply = (32002, 29871, 13, 7900, 22137, 29901)
    assert family.encode(prompt, [A]).ids == (1, 4911, 29901, 32000, 32001, 32000, *story, *reply)
    assert family.default_style == "chat"


def test_a_rebuilt_gpt2_still_splits_digits(tmp_path: Path) -> None:
    """SmolVLM's tokenizer.json splits digits; transformers builds its class anew without."""
    core = Tokenizer.from_file(str(checkpoint("idefics3") / "tokenizer.json"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    family = open_with("idefics3", core, tmp_path, tokenizer_class="GPT2Tokenizer")
    for text in ("1. one\n\n2. two", "a  42", "½"):
        assert family.tokenizer(text, add_special_tokens=False)["input_ids"] == core.encode(text).ids


@functools.cache
def family_and_file(kind: str) -> tuple[Family, Tokenizer]:
    folder = checkpoint(kind)
    return open_family(ModelSpec(str(folder))), Tokenizer.from_file(str(folder / "tokenizer.json"))


TEXTS = st.text(max_size=20) | st.sampled_from(["<", "\n", " two", "1. one\n\n2. two", "a  42", "½"])


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    kind=st.sampled_from(["idefics", "idefics2", "idefics3", "smolvlm"]),
)
def test_texts_between_markers_make_the_ids_of_the_file(texts: list[str], kind: str) -> None:
    family, file = family_and_file(kind)
    for text in ("".join(texts), FAKE.join(texts), EOU.join(texts)):
        expected = file.encode(text, add_special_tokens=False).ids
        assert family.tokenizer(text, add_special_tokens=False)["input_ids"] == expected


PROMPTS: tuple[Prompt, ...] = (
    (user(A, "\nWhat?"), assistant(" Yes. "), user("And ", B, "<here>")),
    document("Caption:", A, "<b>\n", B, " two  spaces 42"),
)


@pytest.mark.parametrize("kind", ["idefics", "idefics2", "idefics3"])
@pytest.mark.parametrize("prompt", PROMPTS, ids=["chat", "document"])
def test_a_prompt_is_one_text_to_the_file(kind: str, prompt: Prompt) -> None:
    family, file = family_and_file(kind)
    assert isinstance(family, PlaceholderFamily)
    found = family.encode(prompt, [A, B])
    images = [family.spell_image(one) for one in found.pixels]
    text = family.bos + family.mend(spell(lay_out(prompt, strip_turns=family.strip_turns), images))
    assert file.encode(text, add_special_tokens=False).ids == list(found.ids)
