"""The embedded checkpoint's architecture: a small IDEFICS with gated cross-attention at every layer, and its tokenizer.

No perceiver resampler: at 65 vision tokens an image there is nothing to compress. Byte-level BPE over what the lessons
say, so every word of its world is one token.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    IdeficsConfig,
    IdeficsForVisionText2Text,
    IdeficsImageProcessorPil,
    IdeficsProcessor,
    PreTrainedTokenizerFast,
)

from .pictures import IMAGE_SIZE

# The ids that IdeficsConfig expects, then the three tokens IDEFICS adds at the end of the vocabulary.
SPECIAL = ("<unk>", "<s>", "</s>")
ADDED = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
LARGEST = 1200
PATCH_SIZE = 10
GRID = IMAGE_SIZE // PATCH_SIZE
WIDTH = 192


def new_config(vocab_size: int, eos_token_id: int) -> IdeficsConfig:
    """`vocab_size` is the id of the first of the three added tokens (fake, image, end of utterance)."""
    return IdeficsConfig(
        vocab_size=vocab_size,
        additional_vocab_size=3,
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        cross_layer_interval=1,
        alpha_initializer="ones",
        alpha_type="float",
        qk_layer_norms=True,
        freeze_text_layers=False,
        freeze_vision_layers=False,
        freeze_lm_head=False,
        tie_word_embeddings=False,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=eos_token_id,
        vision_config={
            "embed_dim": WIDTH,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "intermediate_size": 512,
        },
    )


def new_model(config: IdeficsConfig) -> IdeficsForVisionText2Text:
    """Random weights at the scales that let a vision tower this small learn silhouettes.

    transformers leaves out the initialisation of m4's own training code; its default standard deviation of 0.02 is far
    too small for position embeddings here, which therefore start as 2-D sines and cosines.
    """
    model: IdeficsForVisionText2Text = IdeficsForVisionText2Text._from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    model.requires_grad_(True)
    vision = model.model.vision_model
    with torch.no_grad():
        for name, weight in vision.named_parameters():
            if weight.dim() == 2 and "embedding" not in name:
                weight.normal_(0, 0.06)
        patches = vision.embeddings.patch_embedding.weight
        patches.normal_(0, 1 / math.sqrt(patches[0].numel()))
        vision.embeddings.position_embedding.weight.copy_(0.6 * grid_sines(GRID, WIDTH))
    return model


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


def grid_sines(side: int, width: int) -> torch.Tensor:
    """`[1 + side², width]`: a zero row for CLS, then sines and cosines of each patch's row and column."""
    frequencies = torch.exp(torch.linspace(0, math.log(10), width // 4))
    position = torch.linspace(-1, 1, side)
    angles = position[:, None] * frequencies[None, :] * math.pi / 2
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None, :].expand(side, side, -1)
    columns = waves[None, :, :].expand(side, side, -1)
    grid = torch.cat([rows, columns], dim=2).reshape(side * side, width)
    return torch.cat([torch.zeros(1, width), grid])
