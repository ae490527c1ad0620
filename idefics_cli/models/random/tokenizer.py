"""A byte-level tokenizer of any size, built for the purpose: tokens that it learnt, and fillers that it can only
decode.

A model of random weights generates any of its tokens, so each needs a text of its own. In prompts, frequent words are
one token and others a few.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LEARNT_TOKENS = 790
PAD, EOS = "<pad>", "</s>"


def build_tokenizer(size: int, corpus: Sequence[str], *, bos: str, added: Sequence[str]) -> Any:
    """A tokenizer of exactly `size` tokens: pad, bos and eos first, the added ones last."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNT_TOKENS,
        special_tokens=[PAD, bos, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learnt.train_from_iterator(corpus, trainer)
    content = json.loads(learnt.to_str())
    vocabulary: dict[str, int] = content["model"]["vocab"]
    # "Ġ" is a space in this alphabet. No merge leads to these words, so no text is ever tokenised into them.
    for index in range(len(vocabulary), size - len(added)):
        vocabulary[f"Ġ#{index}"] = index
    content["decoder"] = json.loads(decoders.ByteLevel().__getstate__())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token=bos,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    assert len(tokenizer) == size, f"{len(tokenizer)} tokens instead of {size}"
    return tokenizer


def list_fragments(tokenizer: Any) -> list[int]:
    """The tokens that are a part of a character: two of them may look the same."""
    vocabulary = tokenizer.get_vocab()
    ids = (vocabulary[character] for character in pre_tokenizers.ByteLevel.alphabet())
    return sorted(index for index in ids if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([index]))
