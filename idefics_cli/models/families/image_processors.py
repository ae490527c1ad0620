"""Processors built for images alone, as those of many architectures also require video and audio processors; and
`--detail` as settings of each image processor that cuts images into a variable number of tiles or patches.

Video processors need torchvision, and no videos are ever given here. The processor of Pixtral imports torchvision for a
size that is computed without it too.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ...errors import ModelError

_OURS = ("image_processor", "tokenizer")
_PIXTRAL = "PixtralProcessor"
DETAILS = ("low", "medium", "high")
LOW_TOKENS = 256
"""Of one image, as the makers of Qwen-VL suggest for little detail."""
_SOFT_TOKENS = {"low": 70, "medium": 140}
"""Of one image in Gemma 4, which knows some numbers only."""


def open_image_processor(checkpoint: str, config: Any, source: Mapping[str, Any]) -> Any:
    """The processor of a checkpoint with its image processor and tokenizer, and None for the rest."""
    import transformers
    from transformers.models.auto import processing_auto
    from transformers.processing_utils import ProcessorMixin

    names: dict[str, str] = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
    name = names.get(config.model_type)
    kind: Any = getattr(transformers, name, None) if name else None
    wanted = kind.get_attributes() if isinstance(kind, type) and issubclass(kind, ProcessorMixin) else _OURS
    if set(wanted) <= set(_OURS):
        try:
            return transformers.AutoProcessor.from_pretrained(checkpoint, backend="pil", **source)
        except ImportError as error:
            if _PIXTRAL not in str(error):
                raise
            kind = _load_pixtral()

    def check(self: Any, argument_name: str, argument: Any) -> Any:
        return None if argument is None else kind.check_argument_for_proper_class(self, argument_name, argument)

    alone = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check, "__module__": kind.__module__})
    made = {
        "image_processor": transformers.AutoImageProcessor.from_pretrained(checkpoint, backend="pil", **source),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(checkpoint, **source),
    }
    settings, _ = kind.get_processor_dict(checkpoint, **source)
    settings = {key: value for key, value in settings.items() if key not in wanted}
    processor: Any = alone
    return processor.from_args_and_dict([made.get(one) for one in wanted], settings)


def _load_pixtral() -> Any:
    """The processor's own class, which gets the PIL module where it imports that of torchvision."""
    folder = "transformers.models.pixtral"
    place = f"{folder}.image_processing_pixtral"
    sys.modules[place] = import_module(f"{folder}.image_processing_pil_pixtral")
    try:
        return getattr(import_module(f"{folder}.processing_pixtral"), _PIXTRAL)
    finally:
        del sys.modules[place]


def explain_missing(config: Any, error: Exception) -> ModelError | None:
    """What to install, from the error of a processor."""
    if "torchvision" not in str(error).lower():
        return None
    return ModelError(f"the processor of {config.model_type} needs torchvision", hint="pip install torchvision")


def check_detail(detail: str) -> None:
    """Raise ModelError for a word that is no detail."""
    if detail not in DETAILS:
        raise ModelError(f"unknown detail {detail!r}", hint=f"use one of {', '.join(DETAILS)}")


def choose_detail(images: Any, detail: str) -> bool:
    """Set how finely an image processor cuts, never finer than its default. False if it has no such setting."""
    size = dict(getattr(images, "size", None) or {})
    if getattr(images, "max_patches", None):  # InternVL, Aya
        most = images.max_patches
        images.max_patches = {"low": 1, "medium": max(1, most // 3), "high": most}[detail]
    elif getattr(images, "image_grid_pinpoints", None):  # LLaVA-NeXT, Granite Vision, LLaVA-OneVision
        images.image_grid_pinpoints = _leave_small(images.image_grid_pinpoints, detail)
    elif hasattr(images, "merge_size") and "longest_edge" in size:  # Qwen-VL, GLM-4V
        token = (images.patch_size * images.merge_size) ** 2
        least, most = size.get("shortest_edge", 0), size["longest_edge"]
        tokens = {"low": LOW_TOKENS, "medium": 4 * LOW_TOKENS, "high": most // token}[detail]
        images.size = {"shortest_edge": least, "longest_edge": max(least, min(most, tokens * token))}
    elif getattr(images, "max_soft_tokens", None):  # Gemma 4
        images.max_soft_tokens = min(images.max_soft_tokens, _SOFT_TOKENS.get(detail, images.max_soft_tokens))
    elif hasattr(images, "do_pan_and_scan"):  # Gemma 3
        images.do_pan_and_scan = detail == "high"
    else:
        return False
    return True


def _leave_small(pinpoints: Any, detail: str) -> list[list[int]]:
    """The grid sizes without the larger ones: one tile long, or half of all tiles."""
    by_area = sorted(([int(one) for one in pair] for pair in pinpoints), key=lambda pair: pair[0] * pair[1])
    least, most = (pair[0] * pair[1] for pair in (by_area[0], by_area[-1]))
    limit = {"low": least, "medium": max(least, most // 2), "high": most}[detail]
    return [pair for pair in by_area if pair[0] * pair[1] <= limit]
