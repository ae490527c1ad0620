"""Small shapes of every architecture: the image processor as it is published, little behind it.

What an image costs before the model and in tokens is real; towers and text models are small, so that all of them can be
measured on a CPU. A value that is one of the tokens stands for its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .later_shapes import LATER
from .small import TEXT, VISION, size_of

_SIGLIP = {"model_type": "siglip_vision_model", **VISION, "patch_size": 14}
_CLIP_336 = {
    "model_type": "clip_vision_model",
    **VISION,
    "projection_dim": 128,
    "patch_size": 14,
    "image_size": 336,
}
_CLIP_IMAGES = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
_LLAVA = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
_NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_TILES = [[384 * high, 384 * wide] for high in range(1, 7) for wide in range(1, 7)]
_GRANITE = [pair for pair in _TILES if pair[0] * pair[1] <= 10 * 384 * 384]


_INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_GEMMA3 = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
_AYA = (
    "<image>",
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_PATCH|>",
    "<|IMG_LINE_BREAK|>",
    "TILE",
    "TILE_GLOBAL",
)
_PIXTRAL: Mapping[str, Any] = {"model_type": "pixtral", **VISION, "head_dim": 64}


def _pixtral(edge: int, patch: int, merge: int) -> Mapping[str, Any]:
    return {
        "class": "PixtralProcessor",
        "image": "[IMG]",
        "tokens": ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        "images": (
            "PixtralImageProcessorPil",
            {"size": {"longest_edge": edge}, "patch_size": {"height": patch, "width": patch}},
        ),
        "settings": {"patch_size": patch, "spatial_merge_size": merge},
    }


ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "idefics2": {
        "model_type": "idefics2",
        "tie_word_embeddings": False,
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {**VISION, "patch_size": 14, "image_size": 980},
        "perceiver_config": {
            "resampler_n_latents": 64,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 64,
            "num_key_value_heads": 2,
            "hidden_size": 256,
        },
    },
    "idefics3": {
        "model_type": "idefics3",
        "scale_factor": 2,
        "tie_word_embeddings": False,
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {**VISION, "patch_size": 14, "image_size": 364},
    },
    "smolvlm": {
        "model_type": "smolvlm",
        "scale_factor": 4,
        "tie_word_embeddings": False,
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {**VISION, "patch_size": 16, "image_size": 512},
    },
    "llava": {
        "model_type": "llava",
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": _CLIP_336,
        "image_token_index": "<image>",
        "processor": {
            "class": "LlavaProcessor",
            "tokens": ("<image>",),
            "images": ("CLIPImageProcessorPil", _CLIP_IMAGES),
            "settings": _LLAVA,
        },
    },
    "pixtral": {
        "model_type": "llava",
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {**_PIXTRAL, "patch_size": 16, "image_size": 1024},
        "image_token_index": "[IMG]",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "processor": _pixtral(1024, 16, 1),
    },
    "llava_next": {
        "model_type": "llava_next",
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": _CLIP_336,
        "image_token_index": "<image>",
        "image_grid_pinpoints": _NEXT,
        "processor": {
            "class": "LlavaNextProcessor",
            "tokens": ("<image>",),
            "images": ("LlavaNextImageProcessorPil", {**_CLIP_IMAGES, "image_grid_pinpoints": _NEXT}),
            "settings": _LLAVA,
        },
    },
    "granite_vision": {
        "model_type": "llava_next",
        "text_config": {"model_type": "granite", **TEXT},
        "vision_config": {**_SIGLIP, "image_size": 384, "vision_use_head": False},
        "image_token_index": "<image>",
        "image_grid_pinpoints": _GRANITE,
        "vision_feature_layer": [-2, -1],
        "vision_feature_select_strategy": "full",
        "processor": {
            "class": "LlavaNextProcessor",
            "tokens": ("<image>",),
            "images": (
                "LlavaNextImageProcessorPil",
                {
                    "size": {"shortest_edge": 384},
                    "crop_size": {"height": 384, "width": 384},
                    "image_grid_pinpoints": _GRANITE,
                },
            ),
            "settings": {"patch_size": 14, "vision_feature_select_strategy": "full"},
        },
    },
    "llava_onevision": {
        "model_type": "llava_onevision",
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {**_SIGLIP, "image_size": 384},
        "image_token_index": "<image>",
        "video_token_index": "<video>",
        "image_grid_pinpoints": _TILES,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "processor": {
            "class": "LlavaOnevisionProcessor",
            "tokens": ("<image>", "<video>"),
            "images": ("LlavaOnevisionImageProcessorPil", {**size_of(384), "image_grid_pinpoints": _TILES}),
            "settings": {"num_image_tokens": 729, "vision_feature_select_strategy": "full"},
        },
    },
    "internvl": {
        "model_type": "internvl",
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {
            "model_type": "internvl_vision",
            **VISION,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
        "image_token_id": "<IMG_CONTEXT>",
        "image_seq_length": 256,
        "downsample_ratio": 0.5,
        "processor": {
            "class": "InternVLProcessor",
            "image": "<IMG_CONTEXT>\n",
            "tokens": tuple(_INTERNVL.values()),
            "images": (
                "GotOcr2ImageProcessorPil",
                {**size_of(448), "crop_to_patches": True, "min_patches": 1, "max_patches": 12},
            ),
            "settings": {"image_seq_length": 256},
            "tokenizer": _INTERNVL,
        },
    },
    "mistral3": {
        "model_type": "mistral3",
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {**_PIXTRAL, "patch_size": 14, "image_size": 1540},
        "image_token_index": "[IMG]",
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "processor": _pixtral(1540, 14, 2),
    },
    "aya_vision": {
        "model_type": "aya_vision",
        "text_config": {"model_type": "cohere2", **TEXT, "logit_scale": 1.0},
        "vision_config": {**_SIGLIP, "image_size": 364, "vision_use_head": False},
        "image_token_index": "<|IMG_PATCH|>",
        "downsample_factor": 2,
        "vision_feature_layer": -1,
        "processor": {
            "class": "AyaVisionProcessor",
            "tokens": _AYA,
            "images": (
                "GotOcr2ImageProcessorPil",
                {**size_of(364), "crop_to_patches": True, "min_patches": 1, "max_patches": 12},
            ),
            "settings": {"patch_size": 14, "img_size": 364, "downsample_factor": 2},
        },
    },
    "gemma3": {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", **TEXT},
        "vision_config": {**_SIGLIP, "image_size": 896, "vision_use_head": False},
        "image_token_index": "<image_soft_token>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
        "mm_tokens_per_image": 256,
        "processor": {
            "class": "Gemma3Processor",
            "image": "<start_of_image>",
            "tokens": tuple(_GEMMA3.values()),
            "images": ("Gemma3ImageProcessorPil", size_of(896)),
            "settings": {"image_seq_length": 256},
            "tokenizer": _GEMMA3,
        },
    },
    **LATER,
}
"""By architecture, each of them small. What has no `processor` is built by its own family."""
