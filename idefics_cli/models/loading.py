"""From a spec to a processor, a family and weights.

The only place that calls `from_pretrained`; `hub` knows where to load from, and turns exceptions into one line. Never
remote code, never pickles, always the PIL image processors.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils.hub import cached_file

from ..errors import ItemError, ModelError
from ..values import ImagePart, Message, ModelSpec, TextPart
from .chat_templates import limit_templates
from .device_map import place, remove_with, tell_placement
from .devices import choose_attention, choose_device, choose_dtype, is_out_of_memory
from .families import find_family
from .families.decoupled_embedding import embed_on_device
from .families.family import Family
from .folder_check import check_checkpoint
from .hub.cache import INDEX, find_folder
from .hub.download import source_of
from .hub.errors import check_folder, check_whole, translated
from .library_logging import hush_libraries, without_prints
from .quantization.disk_cache import discard, find_entry, keep, widen
from .quantization.entries import QuantizedEntry
from .quantization.kinds import build_config, check_device, check_quantized, leave_narrow_unpacked
from .random.checkpoint import draw_weights, is_random
from .tokenizer_file import keep_word_boundaries, restore_tokenizer

os.environ["USE_HUB_KERNELS"] = "NO"  # read when a model is first built: code from a hub is never run

PROBED, PROBE_LETTERS = "a 1\n", 200
"""What patterns that try too many ways are slow or end with."""
SETTINGS = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", INDEX),
)


def load_processor(spec: ModelSpec) -> Any:
    """The processor of a checkpoint: PIL images, left padding, the tokenizer with which the model was trained."""
    config = load_config(spec)
    limit_templates()
    with translated(spec), without_prints():
        family = find_family(config.model_type, has_template=True)
        processor = family.open_processor(spec.checkpoint, config, source_of(spec))
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise ModelError(
                f"{spec.checkpoint} takes no images: it has no image processor",
                hint="choose a vision-language --model",
            )
        processor.tokenizer = restore_tokenizer(processor.tokenizer, spec)
        if family.begins_words:
            processor.tokenizer = keep_word_boundaries(processor.tokenizer, spec)
    if not getattr(processor, "chat_template", None):
        processor.chat_template = processor.tokenizer.chat_template
    processor.tokenizer.padding_side = "left"
    return processor


def load_config(spec: ModelSpec) -> Any:
    """The config of a checkpoint, its folder or repository checked first."""
    check_folder(spec.checkpoint)
    if (snapshot := find_folder(spec.checkpoint, spec.revision)) is not None:
        check_whole(spec.checkpoint, os.listdir(snapshot))
    hush_libraries()
    with translated(spec):
        check_checkpoint(find_folder(spec.checkpoint, spec.revision) or _fetch_settings(spec))
        return transformers.AutoConfig.from_pretrained(spec.checkpoint, **source_of(spec))


def _fetch_settings(spec: ModelSpec) -> Path:
    """The settings of a repository that is not here, downloaded so that they are checked before use."""
    found = [
        cached_file(
            *(spec.checkpoint, name),
            **source_of(spec),
            _raise_exceptions_for_missing_entries=name == "config.json",
        )
        for name in SETTINGS
    ]
    return Path(str(found[0])).parent


def open_family(spec: ModelSpec) -> Family:
    """Everything of a checkpoint but its weights: prompts can be rendered, encoded and counted."""
    config = load_config(spec)
    processor = load_processor(spec)
    has_template = getattr(processor, "chat_template", None) is not None
    with translated(spec):
        family = find_family(config.model_type, has_template=has_template)
        opened = family(processor, config, generation=_load_generation_config(spec), detail=spec.detail)
        if spec.style is not None:
            opened.check_style(spec.style)
        if dict(spec.others).get("think"):
            opened.think()
        _try_out(opened)
    return opened


def _try_out(family: Family) -> None:
    """Render and tokenise a short prompt, so that what fails with every prompt fails now."""
    for text in (letter * PROBE_LETTERS + end for letter in PROBED for end in ("", "!")):
        family.tokenizer(text, add_special_tokens=False)
    with suppress(ItemError):  # a template may have other ideas of a conversation
        if family.default_style == "chat":
            family.render((Message("user", (ImagePart("image.png"), TextPart("?"))),))


def load_model(spec: ModelSpec, family: Family) -> Any:
    """The model, ready to answer. Every weight must be in the checkpoint."""
    device = choose_device(spec.device)
    dtype = choose_dtype(spec.dtype, device, family)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": choose_attention(spec.attention, family),
        "use_safetensors": True,
        "output_loading_info": True,
    }
    config = {}
    if spec.quantization is not None:
        config["quantization_config"] = build_config(spec.quantization, family)
        check_device(spec.quantization, device, family)
    entry = find_entry(spec, family, device, dtype)
    try:
        with translated(spec):
            options |= place(spec, family, device, dtype)
            model = None if entry is None else _read_kept(entry, family, options)
            if model is None:
                model = _read_weights(spec, family, device, options | config)
                if spec.quantization is not None:
                    check_quantized(model, family)
                if entry is not None:
                    keep(entry, model)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{spec.checkpoint} does not fit into the memory of {device}",
            hint="use --4bit, a smaller --model or another --device",
        ) from error
    leave_narrow_unpacked(model)
    tell_placement(model)
    remove_with(model, options.get("offload_folder"))
    # What a checkpoint would like to be decoded with is not for the answer to depend on.
    model.generation_config = transformers.GenerationConfig()
    model.eval()
    embed_on_device(model)
    return model


def _read_kept(entry: QuantizedEntry, family: Family, options: dict[str, Any]) -> Any:
    """The quantized weights that an earlier load kept; None if there are none or they cannot be read."""
    if not entry.is_there:
        return None
    loader: Any = transformers.AutoModelForImageTextToText
    try:
        model, report = loader.from_pretrained(entry.folder, trust_remote_code=False, **options)
        if report["missing_keys"]:
            raise ModelError(f"{len(report['missing_keys'])} weights are missing")
        check_quantized(model, family)
        widen(model, options["dtype"])
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, ModelError) as error:
        if is_out_of_memory(error):
            raise
        discard(entry, next(iter(str(error).splitlines()), type(error).__name__))
        return None
    return model


def _read_weights(spec: ModelSpec, family: Family, device: torch.device, options: dict[str, Any]) -> Any:
    loader: Any = transformers.AutoModelForImageTextToText
    origin: tuple[str | None, dict[str, Any]] = (spec.checkpoint, source_of(spec, with_weights=True))
    if is_random(spec.checkpoint):
        drawn = draw_weights(family, device, options["dtype"], options["attn_implementation"])
        if spec.quantization is None:
            return drawn
        # Only from a state dict can weights be quantized that are in no file.
        loader, origin = type(drawn), (None, {"config": family.config, "state_dict": drawn.state_dict()})
    checkpoint, source = origin
    model, report = loader.from_pretrained(checkpoint, **source, **options)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{spec.checkpoint} lacks {len(missing)} of its weights, {missing[0]} first",
            hint="download it again or choose another --model",
        )
    return model


def _load_generation_config(spec: ModelSpec) -> Any:
    source = source_of(spec)
    try:
        return transformers.GenerationConfig.from_pretrained(
            spec.checkpoint, revision=source["revision"], local_files_only=source["local_files_only"]
        )
    except OSError:
        return None
