"""The checkpoint's tokenizer: byte-level BPE over what the lessons say, so every word of its world is one token."""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import IdeficsImageProcessorPil, IdeficsProcessor, PreTrainedTokenizerFast

from .pictures import IMAGE_SIZE

# The ids that IdeficsConfig expects, then the three tokens IDEFICS adds at the end of the vocabulary.
SPECIAL = ("<unk>", "<s>", "</s>")
ADDED = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
LARGEST = 1200


def train_processor(texts: Iterable[str]) -> IdeficsProcessor:
    """A processor whose tokenizer was trained on texts without markers."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST,
        min_frequency=4,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        padding_side="left",
        model_max_length=1024,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(ADDED)})
    return IdeficsProcessor(IdeficsImageProcessorPil(image_size=IMAGE_SIZE), tokenizer)
