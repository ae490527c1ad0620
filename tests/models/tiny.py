"""Small random checkpoints of each architecture, saved as folders so that tests take the real loading path.

Random weights answer nonsense, but always the same nonsense for the same input: enough to compare two ways to ask.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import atexit
import functools
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

from idefics_cli.values import Image, ImagePart, Message, Part, Prompt, TextPart

FAKE, IMAGE, EOU = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
CORPUS = (
    "User: What is in this image? Assistant: This picture depicts a dog. Describe this image. "
    "Question: What colour is the circle? Answer: red. Category: Vegetables cars office animals city landscape "
    "Instruction: Provide an answer to the question. Use the image to answer. And who is that? yes no "
    "An image of the Eiffel Tower at night. Fun fact: it is as high as an 81-storey building. blue green"
)
CHAT_TEMPLATE = (
    "{prefix}{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{'<image>'}}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
KINDS = ("idefics", "idefics-resampler", "idefics2", "idefics3")


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image:
    """Noise: any difference in which image is seen shows."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    image = PIL.Image.fromarray(pixels.numpy())
    return Image(f"{seed}.png", image, hashlib.sha256(image.tobytes()).hexdigest()[:32])


def parts(*items: str | Image) -> tuple[Part, ...]:
    return tuple(TextPart(item) if isinstance(item, str) else ImagePart(item.source) for item in items)


def document(*items: str | Image) -> Prompt:
    return (Message("document", parts(*items)),)


def user(*items: str | Image) -> Message:
    return Message("user", parts(*items))


def assistant(*items: str | Image) -> Message:
    return Message("assistant", parts(*items))


@functools.cache
def checkpoint(kind: str) -> Path:
    """The folder of a checkpoint, made once in a run of the tests."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(7)
    builders: dict[str, Callable[[], tuple[Any, Any]]] = {
        "idefics": functools.partial(_build_idefics, use_resampler=False),
        "idefics-resampler": functools.partial(_build_idefics, use_resampler=True),
        "idefics2": _build_idefics2,
        "idefics3": _build_idefics3,
        "smolvlm": _build_smolvlm,
    }
    processor, model = builders[kind]()
    processor.save_pretrained(folder)
    model.generation_config = transformers.GenerationConfig(temperature=0.3, do_sample=True, eos_token_id=2)
    model.save_pretrained(folder)
    return folder


@functools.cache
def sentencepiece_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces and merges of a small sentencepiece model with byte fallback, as LLaMA's."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CORPUS] * 4),
        model_writer=written,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    scores = {piece: pieces.get_score(index) for piece, index in vocabulary.items()}
    return vocabulary, generate_merges(vocabulary, scores)


def llama_tokenizer(*, legacy: bool, added: tuple[str, ...]) -> Any:
    vocabulary, merges = sentencepiece_vocabulary()
    tokenizer = transformers.LlamaTokenizer(
        vocab=vocabulary,
        merges=merges,
        legacy=legacy,
        pad_token="<unk>",
        padding_side="left",
        add_bos_token=True,
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(one, normalized=False, special=True) for one in added]}
    )
    return tokenizer


def byte_level_tokenizer(bos: str, added: tuple[str, ...]) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<pad>", bos, "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([CORPUS] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token="</s>", pad_token="<pad>", padding_side="right"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    return tokenizer


def _text_config(vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _build_idefics(*, use_resampler: bool) -> tuple[Any, Any]:
    tokenizer = llama_tokenizer(legacy=True, added=(FAKE, IMAGE, EOU))
    processor = transformers.IdeficsProcessor(transformers.IdeficsImageProcessorPil(image_size=28), tokenizer)
    text = _text_config(len(tokenizer) - 3)
    del text["num_key_value_heads"]
    config = transformers.IdeficsConfig(
        **text,
        additional_vocab_size=3,
        cross_layer_interval=1,
        alpha_initializer="ones",
        qk_layer_norms=True,
        use_resampler=use_resampler,
        vision_config={
            "embed_dim": 64,
            "image_size": 28,
            "patch_size": 14,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 48,
        },
        perceiver_config={
            "use_resampler": use_resampler,
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
        },
    )
    return processor, transformers.IdeficsForVisionText2Text(config)


def _build_idefics2() -> tuple[Any, Any]:
    tokenizer = llama_tokenizer(legacy=True, added=(FAKE, IMAGE, EOU))
    images = transformers.Idefics2ImageProcessorPil(
        size={"shortest_edge": 28, "longest_edge": 56}, do_image_splitting=True
    )
    template = CHAT_TEMPLATE.replace("{prefix}", "")
    processor = transformers.Idefics2Processor(images, tokenizer, image_seq_len=3, chat_template=template)
    config = transformers.Idefics2Config(
        text_config={"model_type": "mistral", **_text_config(len(tokenizer))},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "initializer_range": 0.3,
        },
        perceiver_config={
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
            "hidden_size": 64,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    return processor, transformers.Idefics2ForConditionalGeneration(config)


def _build_idefics3() -> tuple[Any, Any]:
    rows = tuple(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))
    tokenizer = byte_level_tokenizer("<|begin_of_text|>", (FAKE, IMAGE, EOU, "<global-img>", *rows))
    images = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    template = CHAT_TEMPLATE.replace("{prefix}", "<|begin_of_text|>")
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **_text_config(len(tokenizer))},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "initializer_range": 0.3,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    return processor, transformers.Idefics3ForConditionalGeneration(config)


def _build_smolvlm() -> tuple[Any, Any]:
    """Idefics3 by another name, with a processor that the loader puts together itself."""
    processor, model = _build_idefics3()
    settings = model.config.to_dict() | {"model_type": "smolvlm"}
    settings["vision_config"]["model_type"] = "smolvlm_vision"
    config = transformers.SmolVLMConfig.from_dict(settings)
    return processor, transformers.SmolVLMForConditionalGeneration(config)
