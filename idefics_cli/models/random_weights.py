"""Checkpoints without a download: the real shapes of each architecture, random weights, a tokenizer made on the spot.

Good for measuring and for nothing else. A folder holds config, processor and a marker; the weights are drawn on the
device each time they are loaded and never written. They never choose to stop, so that all answers are equally long, and
say only what can be read, so that different answers look different.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from ..errors import UsageError
from .families.family import Family
from .families.layout import END_OF_UTTERANCE, FAKE_TOKEN, IMAGE_TOKEN
from .random_vocabulary import build_tokenizer, list_fragments

MARKER = "random-weights"
SEED = 7
CHAT_TEMPLATE = (
    "{prefix}{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{'<image>'}}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
MARKERS = (FAKE_TOKEN, IMAGE_TOKEN, END_OF_UTTERANCE)
SPECIALS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of an architecture; `build` turns them and the corpus of a tokenizer into config and processor."""

    build: Callable[[Shape, Sequence[str]], tuple[Any, Any]]
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    resampler: Mapping[str, Any]
    image_tokens: int = 0


def write_checkpoint(name: str, folder: Path, corpus: Sequence[str]) -> None:
    """Write everything of a checkpoint but its weights. The tokenizer learns its words from the corpus."""
    if name not in SHAPES:
        raise UsageError(f"there are no random weights {name!r}", hint=f"known: {', '.join(SHAPES)}")
    shape = SHAPES[name]
    config, processor = shape.build(shape, corpus)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / MARKER).write_text(f"{name}\n", encoding="utf-8")


def is_random(checkpoint: str) -> bool:
    """Whether the weights of a checkpoint are to be drawn rather than read."""
    return (Path(checkpoint).expanduser() / MARKER).is_file()


def draw_weights(family: Family, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    """A model on its device, the same on every call. Every weight is made where and as it will be used."""
    loader: Any = transformers.AutoModelForImageTextToText
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        with device:
            model = loader.from_config(family.config, dtype=dtype, attn_implementation=attention)
    _silence(model, (*family.stop_ids, *list_fragments(family.tokenizer)))
    return model


@torch.no_grad()
def _silence(model: Any, ids: Sequence[int]) -> None:
    """Tokens never said: a row of zeros gives a logit of zero, never the highest of many random ones."""
    head = model.get_output_embeddings()
    extra = getattr(head, "additional_fc", None)
    for index in ids:
        if index < head.weight.shape[0]:
            head.weight[index] = 0
        elif extra is not None:
            extra.weight[index - head.weight.shape[0]] = 0


def _build_idefics(shape: Shape, corpus: Sequence[str]) -> tuple[Any, Any]:
    words = int(shape.text["vocab_size"])
    markers = MARKERS[: shape.text["additional_vocab_size"]]
    tokenizer = build_tokenizer(words + len(markers), corpus, bos="<s>", added=markers)
    images = transformers.IdeficsImageProcessorPil(image_size=shape.vision["image_size"])
    config = transformers.IdeficsConfig(
        **SPECIALS,
        **shape.text,
        # Gates of zero, as training begins with, would shut the images out.
        alpha_initializer="ones",
        qk_layer_norms=True,
        use_resampler=True,
        vision_config=dict(shape.vision),
        perceiver_config={"use_resampler": True, **shape.resampler},
    )
    return config, transformers.IdeficsProcessor(images, tokenizer)


def _build_idefics2(shape: Shape, corpus: Sequence[str]) -> tuple[Any, Any]:
    tokenizer = build_tokenizer(shape.text["vocab_size"], corpus, bos="<s>", added=MARKERS)
    edge = shape.vision["image_size"]
    images = transformers.Idefics2ImageProcessorPil(
        size={"shortest_edge": 378, "longest_edge": edge}, do_image_splitting=False
    )
    template = CHAT_TEMPLATE.replace("{prefix}", "")
    processor = transformers.Idefics2Processor(
        images, tokenizer, image_seq_len=shape.image_tokens, chat_template=template
    )
    config = transformers.Idefics2Config(
        text_config={"model_type": "mistral", **SPECIALS, **shape.text},
        vision_config=dict(shape.vision),
        perceiver_config={**shape.resampler, "hidden_size": shape.text["hidden_size"]},
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    return config, processor


def _build_idefics3(shape: Shape, corpus: Sequence[str]) -> tuple[Any, Any]:
    bos = "<|begin_of_text|>"
    tiles = tuple(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))
    added = (*MARKERS, "<global-img>", *tiles)
    tokenizer = build_tokenizer(shape.text["vocab_size"], corpus, bos=bos, added=added)
    edge = shape.vision["image_size"]
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 4 * edge}, max_image_size={"longest_edge": edge}
    )
    processor = transformers.Idefics3Processor(
        images,
        tokenizer,
        image_seq_len=shape.image_tokens,
        chat_template=CHAT_TEMPLATE.replace("{prefix}", bos),
    )
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **SPECIALS, **shape.text},
        vision_config=dict(shape.vision),
        scale_factor=shape.resampler["scale_factor"],
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tie_word_embeddings=shape.text.get("tie_word_embeddings", False),
    )
    return config, processor


def _sizes(hidden: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _idefics_vision(width: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    sizes = _sizes(width, inner, layers, heads)
    return {"embed_dim": sizes.pop("hidden_size"), **sizes, "image_size": 224, "patch_size": 14}


def _idefics_resampler(depth: int, heads: int, head_dim: int) -> dict[str, Any]:
    return {
        "resampler_n_latents": 64,
        "resampler_depth": depth,
        "resampler_n_heads": heads,
        "resampler_head_dim": head_dim,
        "qk_layer_norms_perceiver": True,
    }


_BILLIONS_VISION = _idefics_vision(1280, 5120, 32, 16)
_SO400M = {**_sizes(1152, 4304, 27, 16), "patch_size": 14}
_SIGLIP_BASE = {**_sizes(768, 3072, 12, 12), "patch_size": 16, "image_size": 512}
_SMOL_TEXT = {"max_position_embeddings": 8192, "vocab_size": 49280}

SHAPES = {
    "tiny": Shape(
        _build_idefics,
        {
            **_sizes(64, 64, 2, 4),
            "vocab_size": 1024,
            "additional_vocab_size": 3,
            "cross_layer_interval": 1,
            "initializer_range": 0.2,
        },
        _idefics_vision(32, 64, 1, 2) | {"initializer_range": 0.2, "image_size": 28},
        _idefics_resampler(1, 2, 16) | {"resampler_n_latents": 3},
    ),
    "small": Shape(
        _build_idefics,
        {
            **_sizes(512, 1376, 6, 8),
            "vocab_size": 4096,
            "additional_vocab_size": 3,
            "cross_layer_interval": 2,
            # Large enough that answers differ from image to image.
            "initializer_range": 0.08,
        },
        _idefics_vision(384, 1536, 6, 6) | {"initializer_range": 0.05},
        _idefics_resampler(2, 6, 64),
    ),
    "smolvlm-256m": Shape(
        _build_idefics3,
        {**_sizes(576, 1536, 30, 9), "num_key_value_heads": 3, **_SMOL_TEXT},
        _SIGLIP_BASE,
        {"scale_factor": 4},
        64,
    ),
    "smolvlm-500m": Shape(
        _build_idefics3,
        {**_sizes(960, 2560, 32, 15), "num_key_value_heads": 5, **_SMOL_TEXT},
        _SIGLIP_BASE,
        {"scale_factor": 4},
        64,
    ),
    "smolvlm": Shape(
        _build_idefics3,
        {**_sizes(2048, 8192, 24, 32), **_SMOL_TEXT, "max_position_embeddings": 16384, "vocab_size": 49155},
        _SO400M | {"image_size": 384},
        {"scale_factor": 3},
        81,
    ),
    "idefics2-8b": Shape(
        _build_idefics2,
        {
            **_sizes(4096, 14336, 32, 32),
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "vocab_size": 32003,
        },
        _SO400M | {"image_size": 980},
        {
            "resampler_n_latents": 64,
            "resampler_depth": 3,
            "resampler_n_heads": 16,
            "resampler_head_dim": 96,
            "num_key_value_heads": 4,
        },
        64,
    ),
    "idefics3-8b": Shape(
        _build_idefics3,
        {
            **_sizes(4096, 14336, 32, 32),
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "vocab_size": 128259,
        },
        _SO400M | {"image_size": 364},
        {"scale_factor": 2},
        169,
    ),
    "idefics-9b": Shape(
        _build_idefics,
        {
            **_sizes(4096, 11008, 32, 32),
            "vocab_size": 32000,
            "additional_vocab_size": 2,
            "cross_layer_interval": 4,
        },
        _BILLIONS_VISION,
        _idefics_resampler(6, 16, 96),
    ),
    "idefics-80b": Shape(
        _build_idefics,
        {
            **_sizes(8192, 22016, 80, 64),
            "vocab_size": 32000,
            "additional_vocab_size": 2,
            "cross_layer_interval": 4,
        },
        _BILLIONS_VISION,
        _idefics_resampler(6, 16, 96),
    ),
}
