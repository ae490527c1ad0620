"""From a spec to a processor, a family and weights.

The one place that calls `from_pretrained`, and the one that puts its exceptions into a line a user can act on.
Never remote code, never pickles, always the PIL image processors, whatever else is installed.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from ..errors import ModelError
from ..values import ModelSpec
from .chatter import hush_libraries
from .devices import choose_attention, choose_device, choose_dtype, is_out_of_memory
from .families import find_family
from .families.family import Family
from .families.layout import FAKE_TOKEN
from .placement import place, remove_with, tell_placement
from .quantization import build_config, check_device, check_quantized, leave_narrow_unpacked
from .quantized_cache import Entry, discard, find_entry, keep, widen
from .random_weights import draw_weights, is_random

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load_processor(spec: ModelSpec) -> Any:
    """The processor of a checkpoint: PIL images, left padding, the tokenizer as the model was trained with it."""
    config = load_config(spec)
    with _translated(spec):
        if config.model_type == "smolvlm":
            processor = _assemble_smolvlm(spec, config)
        else:
            processor = transformers.AutoProcessor.from_pretrained(
                spec.checkpoint, backend="pil", **_source(spec)
            )
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise ModelError(
                f"{spec.checkpoint} takes no images: it has no image processor",
                hint="choose a vision-language --model",
            )
        if config.model_type == "idefics":
            _keep_word_boundaries(processor, spec)
    processor.tokenizer.padding_side = "left"
    return processor


def load_config(spec: ModelSpec) -> Any:
    """The config of a checkpoint, its folder or repository checked first."""
    _check_folder(spec.checkpoint)
    hush_libraries()
    with _translated(spec):
        return transformers.AutoConfig.from_pretrained(spec.checkpoint, **_source(spec))


def open_family(spec: ModelSpec) -> Family:
    """Everything about a checkpoint but its weights: prompts can be rendered, encoded and counted."""
    config = load_config(spec)
    processor = load_processor(spec)
    family = find_family(config.model_type, processor)
    opened = family(processor, config, generation=_load_generation_config(spec), detail=spec.detail)
    if spec.style is not None:
        opened.check_style(spec.style)
    return opened


def load_model(spec: ModelSpec, family: Family) -> Any:
    """The weights, ready to answer. Every one of them must be in the checkpoint."""
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
        with _translated(spec):
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
    return model


def _read_kept(entry: Entry, family: Family, options: dict[str, Any]) -> Any:
    """The quantized weights of an earlier load, None if there are none that can be read."""
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
    origin: tuple[str | None, dict[str, Any]] = (spec.checkpoint, _source(spec))
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


def _source(spec: ModelSpec) -> dict[str, Any]:
    return {"revision": spec.revision or "main", "trust_remote_code": False}


def _check_folder(checkpoint: str) -> None:
    folder = Path(checkpoint).expanduser()
    looks_local = folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1
    if not folder.exists() and looks_local:
        raise ModelError(f"there is no folder {checkpoint}", hint="check the path given to --model")
    if folder.is_file():
        raise ModelError(f"{checkpoint} is a file", hint="give --model the folder that holds config.json")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{checkpoint} has no config.json", hint="give --model the folder of a checkpoint")
    if (
        folder.is_dir()
        and not any(folder.glob("*.safetensors"))
        and any(any(folder.glob(one)) for one in PICKLES)
    ):
        raise _refuse_pickles(checkpoint)


def _refuse_pickles(checkpoint: str) -> ModelError:
    return ModelError(
        f"{checkpoint} has its weights only as pickles, which can run any code",
        hint="use a revision with .safetensors files, or convert it",
    )


def _assemble_smolvlm(spec: ModelSpec, config: Any) -> Any:
    """SmolVLM2's own processor wants num2words and torchvision for videos; for images it works as that of Idefics3."""
    vision = config.vision_config
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec.checkpoint, **_source(spec))
    return transformers.Idefics3Processor(
        transformers.AutoImageProcessor.from_pretrained(spec.checkpoint, backend="pil", **_source(spec)),
        tokenizer,
        image_seq_len=(vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2,
        chat_template=tokenizer.chat_template,
    )


def _keep_word_boundaries(processor: Any, spec: ModelSpec) -> None:
    """IDEFICS was trained with the old LLaMA tokenizer, which begins a word after an image; the new one glues it on."""
    if _begins_words(processor.tokenizer):
        return
    processor.tokenizer = transformers.AutoTokenizer.from_pretrained(
        spec.checkpoint, legacy=True, **_source(spec)
    )
    if not _begins_words(processor.tokenizer):
        raise ModelError(
            f"the tokenizer of {spec.checkpoint} loses the space before a word that follows an image",
            hint="set legacy to true in its tokenizer_config.json, or use another revision",
        )


def _begins_words(tokenizer: Any) -> bool:
    """Whether a word after an image begins with the word mark; tokenizers without such a mark have nothing to lose."""
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    if not any(token.startswith(space) for token in tokenizer.get_vocab()):
        return True
    pieces = tokenizer.convert_ids_to_tokens(
        tokenizer(f"{FAKE_TOKEN}Describe", add_special_tokens=False)["input_ids"]
    )
    after = pieces[pieces.index(FAKE_TOKEN) + 1 :] if FAKE_TOKEN in pieces else []
    return bool(after) and str(after[0]).startswith(space)


def _load_generation_config(spec: ModelSpec) -> Any:
    try:
        return transformers.GenerationConfig.from_pretrained(
            spec.checkpoint, revision=spec.revision or "main"
        )
    except OSError:
        return None


@contextmanager
def _translated(spec: ModelSpec) -> Iterator[None]:
    """Exceptions of the hub and of transformers as one line saying what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, AttributeError, SafetensorError) as error:
        raise _explain(spec, error) from error
    except RuntimeError as error:
        if is_out_of_memory(error) or isinstance(error, NotImplementedError | RecursionError):
            raise
        raise _explain(spec, error) from error


def _explain(spec: ModelSpec, error: Exception) -> ModelError:
    name = spec.checkpoint
    causes: list[BaseException] = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has(GatedRepoError):
        hint = f"ask for access at https://huggingface.co/{name}, then run `hf auth login`"
        return ModelError(f"{name} is gated", hint=hint)
    if has(RepositoryNotFoundError, HFValidationError):
        return ModelError(
            f"there is no checkpoint {name} on the hub", hint="check the name, or `hf auth login` if private"
        )
    if has(RevisionNotFoundError):
        return ModelError(f"{name} has no revision {spec.revision}", hint="check --revision")
    if has(LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        return ModelError(
            f"{name} is not downloaded and the hub cannot be reached",
            hint="connect and run without --offline, or give --model a folder",
        )
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, OSError) and "safetensors" in str(error):
        if Path(name).is_dir():
            return ModelError(f"{name} has no weights (*.safetensors)", hint="finish its download")
        return _refuse_pickles(name)
    if "remote code" in str(error) or "trust_remote_code" in str(error):
        return ModelError(f"{name} needs code of its own, which is never run", hint="choose another --model")
    if isinstance(error, SafetensorError | RuntimeError):
        return ModelError(
            f"the weights of {name} are damaged or of another shape ({first_line})", hint="download it again"
        )
    return ModelError(
        f"{name} cannot be loaded ({first_line})", hint="check its files or choose another --model"
    )
