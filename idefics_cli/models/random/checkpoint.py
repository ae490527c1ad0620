"""Checkpoints without a download: the real shapes of each architecture, random weights, a tokenizer built for the
purpose.

Only good for measuring. A folder holds config, processor and a marker; the weights are drawn on the device at each load
and never written. They never stop, so that all answers are equally long, and generate only readable tokens, so that
different answers look different.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from ...config import load_packaged_models
from ...errors import UsageError
from ..families import find_family
from ..families.family import Family
from .shapes import ARCHITECTURES
from .tokenizer import build_tokenizer, list_fragments

MARKER = "random-weights"
SEED = 7
SMALL = "small"


def list_architectures() -> dict[str, str]:
    """The small shape of each architecture, our own first."""
    return {"idefics": SMALL, **{name: f"{SMALL}-{name}" for name in ARCHITECTURES}}


def find_architecture(name: str) -> str:
    """The model type of an architecture that is listed; several may share one."""
    return str(ARCHITECTURES[name]["model_type"]) if name in ARCHITECTURES else name


def write_checkpoint(name: str, folder: Path, corpus: Sequence[str]) -> None:
    """Write everything of a checkpoint but its weights. The tokenizer learns its words from the corpus."""
    if name not in SHAPES:
        raise UsageError(f"there are no random weights {name!r}", hint=f"known: {', '.join(SHAPES)}")
    known = SHAPES[name]
    sizes = known if not isinstance(known, str) else load_packaged_models()[known].config
    assert sizes is not None, f"{known} has no config in models.yaml"
    build = partial(build_tokenizer, corpus=corpus)
    family = find_family(sizes["model_type"], has_template=True)
    config, processor = family.build_random(sizes, build)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / MARKER).write_text(f"{name}\n", encoding="utf-8")


def is_random(checkpoint: str) -> bool:
    """Whether the weights of a checkpoint are drawn instead of read."""
    return (Path(checkpoint) / MARKER).is_file()


def draw_weights(family: Family, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    """A model on its device, the same at every call. Every weight is drawn where it will be used."""
    loader: Any = transformers.AutoModelForImageTextToText
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        with device:
            model = loader.from_config(family.config, dtype=dtype, attn_implementation=attention)
    _silence(model, (*family.stop_ids, *list_fragments(family.tokenizer)))
    return model


def write_weights(family: Family, folder: Path) -> None:
    """Write the weights too, for programs that only read them; from then on they are read here as well."""
    model = draw_weights(family, torch.device("cpu"), torch.float32, "sdpa")
    _silence(model, family.banned_ids)
    model.save_pretrained(folder)
    (folder / MARKER).unlink()


@torch.no_grad()
def _silence(model: Any, ids: Sequence[int]) -> None:
    """Never generate these tokens: a row of zeros gives a logit of zero, never the highest of many random ones."""
    head = model.get_output_embeddings()
    extra = getattr(head, "additional_fc", None)
    for index in ids:
        if index < head.weight.shape[0]:
            head.weight[index] = 0
        elif extra is not None:
            extra.weight[index - head.weight.shape[0]] = 0


SHAPES: dict[str, Mapping[str, Any] | str] = {
    "tiny": {
        "model_type": "idefics",
        "vocab_size": 1024,
        "additional_vocab_size": 3,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "cross_layer_interval": 1,
        "initializer_range": 0.2,
        "qk_layer_norms": True,
        "use_resampler": True,
        "vision_config": {
            "embed_dim": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": 28,
            "initializer_range": 0.2,
        },
        "perceiver_config": {
            "use_resampler": True,
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "qk_layer_norms_perceiver": True,
        },
    },
    "small": {
        "model_type": "idefics",
        "vocab_size": 4096,
        "additional_vocab_size": 3,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "cross_layer_interval": 2,
        # Large enough that answers differ from image to image.
        "initializer_range": 0.08,
        "qk_layer_norms": True,
        "use_resampler": True,
        "vision_config": {
            "embed_dim": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "patch_size": 14,
            "image_size": 224,
            "initializer_range": 0.05,
        },
        "perceiver_config": {
            "use_resampler": True,
            "resampler_n_latents": 64,
            "resampler_depth": 2,
            "resampler_n_heads": 6,
            "resampler_head_dim": 64,
            "qk_layer_norms_perceiver": True,
        },
    },
    # The tiles of the small SmolVLMs and little behind them: what photos cost before the model.
    "tiled": {
        "model_type": "idefics3",
        "scale_factor": 4,
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama",
            "vocab_size": 4096,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 8192,
            "initializer_range": 0.1,
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 16,
            "image_size": 512,
            "initializer_range": 0.1,
        },
    },
    "smolvlm-256m": "smolvlm-256m",
    "smolvlm-500m": "smolvlm-500m",
    "smolvlm": "smolvlm",
    "idefics2-8b": "idefics2",
    "idefics3-8b": "idefics3",
    "idefics-9b": "idefics-9b",
    "idefics-80b": "idefics-80b",
    **{f"{SMALL}-{name}": sizes for name, sizes in ARCHITECTURES.items()},
}
"""Names and what they are the shape of: sizes of our own, or an entry of models.yaml."""
