"""The settings of other architectures: the special tokens and the shape of the files that each is published with."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers

from tests.models import other_templates as templates

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "initializer_range": 0.3,
}
CLIP: Any = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}


@dataclass(frozen=True)
class Kind:
    """One architecture: its settings, with the ids of its tokens by name where a function is given."""

    processor_class: str
    tokens: tuple[str, ...]
    template: str
    config: Callable[[Callable[[str], int], int], Mapping[str, Any]]
    images: Callable[[], Any]
    processor: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    is_sentencepiece: bool = False
    """Whether the vocabulary is of LLaMA's kind and not of bytes."""
    end: str = "</s>"
    """What ends a text."""


def _llava(model_type: str, **more: Any) -> Callable[[Callable[[str], int], int], Mapping[str, Any]]:
    return lambda find, size: {
        "model_type": model_type,
        "text_config": {"model_type": "llama", **TEXT, "vocab_size": size},
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": 32, **VISION},
        "image_token_index": find("<image>"),
        **more,
    }


LLAVA_PROCESSOR = {
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
PINPOINTS: Any = [[28, 56], [56, 28], [56, 56]]
KINDS: Mapping[str, Kind] = {
    "llava": Kind(
        "LlavaProcessor",
        ("<image>",),
        templates.VICUNA,
        _llava("llava"),
        lambda: transformers.CLIPImageProcessorPil(**CLIP),
        LLAVA_PROCESSOR,
        is_sentencepiece=True,
    ),
    "llava_next": Kind(
        "LlavaNextProcessor",
        ("<image>",),
        templates.VICUNA,
        _llava("llava_next", image_grid_pinpoints=PINPOINTS),
        lambda: transformers.LlavaNextImageProcessorPil(**CLIP, image_grid_pinpoints=PINPOINTS),
        LLAVA_PROCESSOR,
        is_sentencepiece=True,
    ),
    "granite": Kind(
        "LlavaNextProcessor",
        ("<image>", "<|user|>", "<|assistant|>", "<|system|>"),
        templates.GRANITE,
        lambda find, size: {
            "model_type": "llava_next",
            "text_config": {"model_type": "granite", **TEXT, "vocab_size": size, "logits_scaling": 2.0},
            "vision_config": {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
            "image_token_index": find("<image>"),
            "image_grid_pinpoints": PINPOINTS,
            "vision_feature_layer": [-2, -1],
            "vision_feature_select_strategy": "full",
        },
        lambda: transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=PINPOINTS
        ),
        {"patch_size": 14, "vision_feature_select_strategy": "full"},
    ),
    "llava_onevision": Kind(
        "LlavaOnevisionProcessor",
        ("<image>", "<video>", "<|im_start|>", "<|im_end|>"),
        templates.ONEVISION,
        lambda find, size: {
            "model_type": "llava_onevision",
            "text_config": {"model_type": "qwen2", **TEXT, "vocab_size": size},
            "vision_config": {"model_type": "siglip_vision_model", **VISION},
            "image_token_index": find("<image>"),
            "video_token_index": find("<video>"),
            "image_grid_pinpoints": PINPOINTS,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        lambda: transformers.LlavaOnevisionImageProcessorPil(
            size={"height": 28, "width": 28}, image_grid_pinpoints=PINPOINTS
        ),
        {"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
        end="<|im_end|>",
    ),
    "internvl": Kind(
        "InternVLProcessor",
        ("<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<|im_start|>", "<|im_end|>"),
        templates.INTERNVL,
        lambda find, size: {
            "model_type": "internvl",
            "text_config": {"model_type": "qwen2", **TEXT, "vocab_size": size},
            "vision_config": {
                "model_type": "internvl_vision",
                **VISION,
                "image_size": [28, 28],
                "patch_size": [14, 14],
            },
            "image_token_id": find("<IMG_CONTEXT>"),
            "image_seq_length": 1,
            "downsample_ratio": 0.5,
        },
        lambda: transformers.GotOcr2ImageProcessorPil(
            size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        {"image_seq_length": 1},
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        end="<|im_end|>",
    ),
    "pixtral": Kind(
        "PixtralProcessor",
        ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        templates.INST,
        lambda find, size: {
            "model_type": "llava",
            "text_config": {"model_type": "mistral", **TEXT, "vocab_size": size, "sliding_window": None},
            "vision_config": {"model_type": "pixtral", **VISION, "image_size": 56, "head_dim": 16},
            "image_token_index": find("[IMG]"),
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        lambda: transformers.PixtralImageProcessorPil(
            size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}
        ),
        {"patch_size": 14, "spatial_merge_size": 1},
    ),
    "mistral3": Kind(
        "PixtralProcessor",
        ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        templates.INST,
        lambda find, size: {
            "model_type": "mistral3",
            "text_config": {"model_type": "mistral", **TEXT, "vocab_size": size},
            "vision_config": {"model_type": "pixtral", **VISION, "image_size": 56, "head_dim": 16},
            "image_token_index": find("[IMG]"),
            "spatial_merge_size": 2,
            "vision_feature_layer": -1,
        },
        lambda: transformers.PixtralImageProcessorPil(
            size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}
        ),
        {"patch_size": 14, "spatial_merge_size": 2},
    ),
    "gemma3": Kind(
        "Gemma3Processor",
        ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        templates.GEMMA3,
        lambda find, size: {
            "model_type": "gemma3",
            "text_config": {"model_type": "gemma3_text", **TEXT, "vocab_size": size, "sliding_window": 16},
            "vision_config": {
                "model_type": "siglip_vision_model",
                **VISION,
                "image_size": 56,
                "vision_use_head": False,
            },
            "image_token_index": find("<image_soft_token>"),
            "boi_token_index": find("<start_of_image>"),
            "eoi_token_index": find("<end_of_image>"),
            "mm_tokens_per_image": 4,
        },
        lambda: transformers.Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        {"image_seq_length": 4},
        {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        is_sentencepiece=True,
    ),
    "aya_vision": Kind(
        "AyaVisionProcessor",
        (
            *("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE"),
            *("TILE_GLOBAL", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"),
            *("<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ),
        templates.AYA,
        lambda find, size: {
            "model_type": "aya_vision",
            "text_config": {
                "model_type": "cohere2",
                **TEXT,
                "vocab_size": size,
                "num_hidden_layers": 3,
                "sliding_window": 16,
                "sliding_window_pattern": 3,
                "logit_scale": 1.0,
            },
            "vision_config": {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
            "image_token_index": find("<|IMG_PATCH|>"),
            "downsample_factor": 2,
            "vision_feature_layer": -1,
        },
        lambda: transformers.GotOcr2ImageProcessorPil(
            size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        {"patch_size": 14, "img_size": 28, "downsample_factor": 2},
        end="<|END_OF_TURN_TOKEN|>",
    ),
}
