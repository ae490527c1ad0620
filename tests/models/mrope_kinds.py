"""The settings of Qwen-VL and GLM-4V, whose images lie in three dimensions."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from tests.models import other_templates as templates
from tests.models.other_kinds import TEXT, Kind

QWEN_VISION = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_SIZE: Any = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}


def _qwen(model_type: str, text: str, vision: Mapping[str, Any]) -> Any:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    return lambda find, size: {
        "model_type": model_type,
        "text_config": {"model_type": text, **TEXT, "vocab_size": size, "rope_parameters": rope},
        "vision_config": {**QWEN_VISION, **vision},
        "image_token_id": find("<|image_pad|>"),
        "video_token_id": find("<|video_pad|>"),
        "vision_start_token_id": find("<|vision_start|>"),
        "vision_end_token_id": find("<|vision_end|>"),
    }


MROPE_KINDS: Mapping[str, Kind] = {
    "qwen2_vl": Kind(
        "Qwen2VLProcessor",
        QWEN_TOKENS,
        templates.QWEN2,
        _qwen("qwen2_vl", "qwen2_vl_text", {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}),
        lambda: transformers.Qwen2VLImageProcessorPil(size=QWEN_SIZE),
        end="<|im_end|>",
    ),
    "qwen2_5_vl": Kind(
        "Qwen2_5_VLProcessor",
        QWEN_TOKENS,
        templates.QWEN2,
        _qwen(
            "qwen2_5_vl",
            "qwen2_5_vl_text",
            {
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "fullatt_block_indexes": [1],
                "window_size": 56,
            },
        ),
        lambda: transformers.Qwen2VLImageProcessorPil(size=QWEN_SIZE),
        end="<|im_end|>",
    ),
    "qwen3_vl": Kind(
        "Qwen3VLProcessor",
        QWEN_TOKENS,
        templates.QWEN3,
        _qwen(
            "qwen3_vl",
            "qwen3_vl_text",
            {
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0, 1],
            },
        ),
        lambda: transformers.Qwen2VLImageProcessorPil(size=QWEN_SIZE),
        end="<|im_end|>",
    ),
    "glm4v": Kind(
        "Glm4vProcessor",
        (
            *("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|image|>"),
            *(
                "<|begin_of_image|>",
                "<|end_of_image|>",
                "<|begin_of_video|>",
                "<|end_of_video|>",
                "<|video|>",
            ),
            *("<think>", "</think>"),
        ),
        templates.GLM,
        lambda find, size: {
            "model_type": "glm4v",
            "text_config": {
                "model_type": "glm4v_text",
                **TEXT,
                "vocab_size": size,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [1, 1, 2],
                },
            },
            "vision_config": {
                **QWEN_VISION,
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "image_size": 112,
            },
            "image_token_id": find("<|image|>"),
            "video_token_id": find("<|video|>"),
            "image_start_token_id": find("<|begin_of_image|>"),
            "image_end_token_id": find("<|end_of_image|>"),
            "video_start_token_id": find("<|begin_of_video|>"),
            "video_end_token_id": find("<|end_of_video|>"),
        },
        lambda: transformers.Glm4vImageProcessorPil(size={"shortest_edge": 112 * 112, "longest_edge": 112 * 112}),
        generation={"eos_token_id": ["</s>", "<|user|>", "<|observation|>"]},
        end="<|user|>",
    ),
}
