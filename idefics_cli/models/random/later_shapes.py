"""Small shapes of Qwen-VL and its kin, and of architectures that are not to be taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .small import TEXT, VISION, size_of

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MROPE = {**_ROPE, "mrope_section": [8, 12, 12]}
_GLM = (
    *("<|image|>", "<|begin_of_image|>", "<|end_of_image|>"),
    *("<|video|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
_GEMMA4 = {
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "audio_token": "<|audio|>",
}


def _qwen(model_type: str, text: str, patch: int, vision: Mapping[str, Any], **words: Any) -> Mapping[str, Any]:
    token = (2 * patch) ** 2
    name = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}.get(model_type, "Qwen3VLProcessor")
    rope = {"mrope_interleaved": True} if model_type in ("qwen3_vl", "qwen3_5") else {}
    return {
        "model_type": model_type,
        "text_config": {"model_type": text, **TEXT, "rope_parameters": _MROPE | rope, **words},
        "vision_config": {
            "depth": 2,
            "num_heads": 2,
            "patch_size": patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            **vision,
        },
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "processor": {
            "class": name,
            "image": "<|vision_start|><|image_pad|><|vision_end|>",
            "tokens": ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
            "images": (
                "Qwen2VLImageProcessorPil",
                {"patch_size": patch, "size": {"shortest_edge": 4 * token, "longest_edge": 16384 * token}},
            ),
        },
    }


_DEEP = {"hidden_size": 128, "intermediate_size": 256, "out_hidden_size": 256}


LATER: Mapping[str, Mapping[str, Any]] = {
    "qwen2_vl": _qwen("qwen2_vl", "qwen2_vl_text", 14, {"embed_dim": 128, "hidden_size": 256, "mlp_ratio": 2}),
    "qwen2_5_vl": _qwen("qwen2_5_vl", "qwen2_5_vl_text", 14, {**_DEEP, "fullatt_block_indexes": [1]}),
    "qwen3_vl": _qwen("qwen3_vl", "qwen3_vl_text", 16, {**_DEEP, "deepstack_visual_indexes": [0, 1]}),
    "glm4v": {
        "model_type": "glm4v",
        "text_config": {"model_type": "glm4v_text", **TEXT, "rope_parameters": _MROPE},
        "vision_config": {
            "depth": 2,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "image_size": 336,
            **_DEEP,
        },
        "image_token_id": "<|image|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_token_id": "<|video|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
        "processor": {
            "class": "Glm4vProcessor",
            "image": "<|begin_of_image|><|image|><|end_of_image|>",
            "tokens": _GLM,
            "images": ("Glm4vImageProcessorPil", {}),
        },
    },
    "qwen3_5": _qwen(
        *("qwen3_5", "qwen3_5_text", 16, _DEEP),
        layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "gemma4": {
        "model_type": "gemma4",
        "text_config": {
            "model_type": "gemma4_text",
            **TEXT,
            "vocab_size_per_layer_input": 4096,
            "hidden_size_per_layer_input": 32,
            "global_head_dim": 64,
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {
            **VISION,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "patch_size": 16,
            "pooling_kernel_size": 3,
        },
        "boi_token_id": "<|image>",
        "eoi_token_id": "<image|>",
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "boa_token_id": "<|audio>",
        "eoa_token_index": "<audio|>",
        "audio_token_id": "<|audio|>",
        "processor": {
            "class": "Gemma4Processor",
            "image": "<|image|>",
            "tokens": (*_GEMMA4.values(), "<|video|>"),
            "images": ("Gemma4ImageProcessorPil", {}),
            "settings": {"image_seq_length": 280},
            "tokenizer": _GEMMA4,
        },
    },
    "mllama": {
        "model_type": "mllama",
        "text_config": {
            "model_type": "mllama_text_model",
            **TEXT,
            "cross_attention_layers": [1, 3],
            "rope_parameters": _ROPE,
        },
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 560,
            "patch_size": 14,
            "max_num_tiles": 4,
            "vision_output_dim": 256,
            "intermediate_layers_indices": [0],
            "initializer_range": 0.1,
        },
        "image_token_index": "<|image|>",
        "processor": {
            "class": "MllamaProcessor",
            "image": "<|image|>",
            "tokens": ("<|image|>", "<|python_tag|>"),
            "images": ("MllamaImageProcessorPil", {**size_of(560), "max_image_tiles": 4}),
            "headless": 1,
        },
    },
}
