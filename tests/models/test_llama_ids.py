"""Idefics3's ids are of Llama 3's vocabulary: by the tokenizer that its makers publish, and their file."""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_models.llama3 import tokenizer as llama3
from tokenizers import Tokenizer
from transformers import Idefics3Config
from transformers.convert_slow_tokenizer import TikTokenConverter

from idefics_cli.models.families.family import Family
from tests.models.test_ids import TEXTS, list_template_ids, open_with
from tests.models.tiny import EOU, FAKE, IMAGE

ADDED = (FAKE, IMAGE, EOU)
BOS = "<|begin_of_text|>"
MODEL = Path(llama3.__file__).with_name("tokenizer.model")


@functools.cache
def makers() -> llama3.Tokenizer:
    return llama3.Tokenizer(MODEL)


@functools.cache
def llama_file() -> Tokenizer:
    """A tokenizer.json as transformers converts it, with what Idefics3 adds."""
    specials = sorted(makers().special_tokens, key=makers().special_tokens.__getitem__)
    file: Tokenizer = TikTokenConverter(str(MODEL), extra_special_tokens=[*specials, *ADDED]).converted()
    return file


def encode_as_makers(text: str) -> list[int]:
    """The makers' ids of what stands between special tokens, and theirs."""
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, (*ADDED, BOS))) + ")", text):
        if part in (*ADDED, BOS):
            ids += llama_file().encode(part).ids
        else:
            ids += makers().encode(part, bos=False, eos=False, allowed_special=set(), disallowed_special=())
    return ids


@pytest.fixture(scope="module")
def idefics3(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("llama")
    return open_with("idefics3", llama_file(), folder, extra_special_tokens=list(ADDED))


def test_images_have_the_id_of_the_published_configuration() -> None:
    assert llama_file().token_to_id(IMAGE) == Idefics3Config().image_token_id == 128257


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_any_text_between_markers_has_the_makers_ids(idefics3: Family, texts: list[str]) -> None:
    for text in ("".join(texts), FAKE.join(texts), EOU.join(texts)):
        assert idefics3.tokenizer(text, add_special_tokens=False)["input_ids"] == encode_as_makers(text)


def test_every_template_has_its_ids_of_llama(idefics3: Family, golden: Callable[[str, str], None]) -> None:
    """By the makers' encoding of the text between markers, and as they were: a change is a change of behaviour."""
    golden("ids/idefics3.txt", list_template_ids(idefics3, encode_as_makers))
