"""The settings of architectures that are batched whole: their states are no cache, or images lie beside the text."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping

import transformers

from tests.models import other_templates as templates
from tests.models.mrope_kinds import QWEN_SIZE, QWEN_TOKENS, QWEN_VISION
from tests.models.other_kinds import TEXT, VISION, Kind

_GEMMA_TOKENS = {
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "audio_token": "<|audio|>",
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
PLAIN_KINDS: Mapping[str, Kind] = {
    "qwen3_5": Kind(
        "Qwen3VLProcessor",
        (*QWEN_TOKENS, "<think>", "</think>"),
        templates.QWEN_THINKS,
        lambda find, size: {
            "model_type": "qwen3_5",
            "text_config": {
                "model_type": "qwen3_5_text",
                **TEXT,
                "vocab_size": size,
                "head_dim": 16,
                "layer_types": ["linear_attention", "full_attention"],
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "rope_parameters": {
                    **_ROPE,
                    "mrope_section": [1, 1, 2],
                    "mrope_interleaved": True,
                    "partial_rotary_factor": 0.5,
                },
            },
            "vision_config": {
                **QWEN_VISION,
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "num_position_embeddings": 64,
            },
            "image_token_id": find("<|image_pad|>"),
            "video_token_id": find("<|video_pad|>"),
            "vision_start_token_id": find("<|vision_start|>"),
            "vision_end_token_id": find("<|vision_end|>"),
        },
        lambda: transformers.Qwen2VLImageProcessorPil(size=QWEN_SIZE),
        end="<|im_end|>",
    ),
    "gemma4": Kind(
        "Gemma4Processor",
        ("<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>", "<|video|>", *_GEMMA_TOKENS.values()),
        templates.GEMMA4,
        lambda find, size: {
            "model_type": "gemma4",
            "text_config": {
                "model_type": "gemma4_text",
                **TEXT,
                "vocab_size": size,
                "vocab_size_per_layer_input": size,
                "hidden_size_per_layer_input": 8,
                "num_hidden_layers": 3,
                "global_head_dim": 16,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention", "full_attention"],
                "num_kv_shared_layers": 1,
                "use_bidirectional_attention": "vision",
            },
            "vision_config": {
                **VISION,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "patch_size": 2,
                "pooling_kernel_size": 3,
                "position_embedding_size": 128,
            },
            "boi_token_id": find("<|image>"),
            "eoi_token_id": find("<image|>"),
            "image_token_id": find("<|image|>"),
            "video_token_id": find("<|video|>"),
            "boa_token_id": find("<|audio>"),
            "eoa_token_index": find("<audio|>"),
            "audio_token_id": find("<|audio|>"),
        },
        lambda: transformers.Gemma4ImageProcessorPil(patch_size=2, max_soft_tokens=70),
        {"image_seq_length": 70},
        _GEMMA_TOKENS,
        is_sentencepiece=True,
        end="<turn|>",
    ),
    "mllama": Kind(
        "MllamaProcessor",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"),
        templates.MLLAMA,
        lambda find, size: {
            "model_type": "mllama",
            # The image token has no row in the output head.
            "text_config": {
                "model_type": "mllama_text_model",
                **TEXT,
                "vocab_size": size - 1,
                "num_hidden_layers": 3,
                "cross_attention_layers": [1],
                "rope_parameters": _ROPE,
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "vision_output_dim": 64,
                "intermediate_layers_indices": [0],
                "initializer_range": 0.3,
            },
            "image_token_index": find("<|image|>"),
        },
        lambda: transformers.MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4),
        end="<|eot_id|>",
    ),
}
