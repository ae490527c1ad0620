"""The tokenizer that `tokenizer.json` describes: transformers rebuilds some from their vocabulary, with differences.

A rebuilt LLaMA tokenizer loses the space before a word after a marker, a rebuilt GPT-2 tokenizer the splitting of
digits. Without such a file, a LLaMA tokenizer is built as it was when the models were trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from ..errors import ModelError
from ..values import ModelSpec
from .families.layout import FAKE_TOKEN
from .hub.download import source_of

FILE = "tokenizer.json"
_WORD = "\N{LOWER ONE EIGHTH BLOCK}"


def restore_tokenizer(tokenizer: Any, spec: ModelSpec) -> Any:
    """The tokenizer of a checkpoint with the ids of its file."""
    file = find_tokenizer_file(spec)
    if file is None or not hasattr(tokenizer, "backend_tokenizer"):
        return tokenizer
    said = Tokenizer.from_file(str(file))
    core = tokenizer.backend_tokenizer
    core.model = said.model
    core.normalizer, core.pre_tokenizer, core.decoder = said.normalizer, said.pre_tokenizer, said.decoder
    for token in said.get_added_tokens_decoder().values():
        (core.add_special_tokens if token.special else core.add_tokens)([token])
    return tokenizer


def _mark_words(tokenizer: Any) -> Any:
    """A LLaMA tokenizer that was built from `tokenizer.model` alone, with a word mark before every text.

    transformers builds it without one before a text that begins with a space, whatever its settings.
    """
    if type(tokenizer).__name__.startswith("Llama"):
        core = tokenizer.backend_tokenizer
        core.normalizer = normalizers.Sequence([normalizers.Prepend(_WORD), normalizers.Replace(" ", _WORD)])
        core.pre_tokenizer = None
    return tokenizer


def find_tokenizer_file(spec: ModelSpec) -> Path | None:
    found = cached_file(spec.checkpoint, FILE, **source_of(spec), _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def keep_word_boundaries(tokenizer: Any, spec: ModelSpec) -> Any:
    """Keep the space of a word after an image, as IDEFICS and Idefics2 were trained; newer LLaMA code drops it."""
    if find_tokenizer_file(spec) is None:
        tokenizer = _mark_words(tokenizer)
    if begins_words(tokenizer):
        return tokenizer
    built = AutoTokenizer.from_pretrained(spec.checkpoint, legacy=True, **source_of(spec))
    missing = [token for token in tokenizer.get_added_vocab() if token not in built.get_added_vocab()]
    built.add_special_tokens({"additional_special_tokens": missing})
    if not begins_words(built) or built.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"the tokenizer of {spec.checkpoint} loses the space before a word that follows an image",
            hint="set legacy to true in its tokenizer_config.json, or use another revision",
        )
    return built


def begins_words(tokenizer: Any) -> bool:
    """Whether a word after an image begins with the word mark; tokenizers without such a mark lose nothing."""
    if not any(token.startswith(_WORD) for token in tokenizer.get_vocab()):
        return True
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(f"{FAKE_TOKEN}Describe", add_special_tokens=False)["input_ids"])
    after = pieces[pieces.index(FAKE_TOKEN) + 1 :] if FAKE_TOKEN in pieces else []
    return bool(after) and str(after[0]).startswith(_WORD)
