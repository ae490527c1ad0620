"""Small random checkpoints of other architectures, in the files that the hub's have: no saved processor, settings only.

Each has the special tokens, the shape of the settings and the kind of chat template that its family is published with.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.models.tiny import byte_level_tokenizer

VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ 'IMAGE' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '[IMG]' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '[/INST]' }}{% else %}"
    "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}"
    "{{ '</s>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' }}"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}{{ '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
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


def _llava(model_type: str, **more: Any) -> Callable[[Callable[[str], int], int], Mapping[str, Any]]:
    return lambda find, size: {
        "model_type": model_type,
        "text_config": {"model_type": "llama", **TEXT, "vocab_size": size},
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": 32, **VISION},
        "image_token_index": find("<image>"),
        **more,
    }


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


QWEN_TEMPLATE = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
LLAVA_PROCESSOR = {
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
PINPOINTS: Any = [[28, 56], [56, 28], [56, 56]]
QWEN_SIZE: Any = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}
KINDS: Mapping[str, Kind] = {
    "llava": Kind(
        "LlavaProcessor",
        ("<image>",),
        VICUNA,
        _llava("llava"),
        lambda: transformers.CLIPImageProcessorPil(**CLIP),
        LLAVA_PROCESSOR,
    ),
    "llava_next": Kind(
        "LlavaNextProcessor",
        ("<image>",),
        VICUNA,
        _llava("llava_next", image_grid_pinpoints=PINPOINTS),
        lambda: transformers.LlavaNextImageProcessorPil(**CLIP, image_grid_pinpoints=PINPOINTS),
        LLAVA_PROCESSOR,
    ),
    "llava_onevision": Kind(
        "LlavaOnevisionProcessor",
        ("<image>", "<video>", "<|im_start|>", "<|im_end|>"),
        CHATML.replace("IMAGE", "<image>\n"),
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
    ),
    "internvl": Kind(
        "InternVLProcessor",
        ("<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<|im_start|>", "<|im_end|>"),
        CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
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
    ),
    "mistral3": Kind(
        "PixtralProcessor",
        ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        INST,
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
    "qwen2_vl": Kind(
        "Qwen2VLProcessor",
        QWEN_TOKENS,
        QWEN_TEMPLATE,
        _qwen("qwen2_vl", "qwen2_vl_text", {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}),
        lambda: transformers.Qwen2VLImageProcessorPil(size=QWEN_SIZE),
    ),
    "qwen2_5_vl": Kind(
        "Qwen2_5_VLProcessor",
        QWEN_TOKENS,
        QWEN_TEMPLATE,
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
    ),
    "qwen3_vl": Kind(
        "Qwen3VLProcessor",
        QWEN_TOKENS,
        QWEN_TEMPLATE,
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
    ),
    "gemma3": Kind(
        "Gemma3Processor",
        ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        GEMMA,
        lambda find, size: {
            "model_type": "gemma3",
            "text_config": {"model_type": "gemma3_text", **TEXT, "vocab_size": size, "sliding_window": 16},
            "vision_config": {
                "model_type": "siglip_vision_model",
                **VISION,
                "image_size": 28,
                "vision_use_head": False,
            },
            "image_token_index": find("<image_soft_token>"),
            "boi_token_index": find("<start_of_image>"),
            "eoi_token_index": find("<end_of_image>"),
            "mm_tokens_per_image": 1,
        },
        lambda: transformers.Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        {"image_seq_length": 1},
        {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
            "eos_token": "</s>",
        },
    ),
}


@functools.cache
def other(name: str) -> Path:
    """The folder of a checkpoint, made once in a run of the tests."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(7)
    kind = KINDS[name]
    tokenizer = byte_level_tokenizer("<s>", kind.tokens)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    ends = {"eos_token": "<|im_end|>"} if "<|im_end|>" in kind.tokens else {}
    path.write_text(json.dumps(json.loads(path.read_text()) | kind.tokenizer | ends))
    kind.images().save_pretrained(folder)
    settings = {"processor_class": kind.processor_class, **kind.processor}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(kind.template)
    wanted = kind.config(tokenizer.convert_tokens_to_ids, len(tokenizer))
    config = transformers.AutoConfig.for_model(**wanted)
    model: Any = transformers.AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    return folder
