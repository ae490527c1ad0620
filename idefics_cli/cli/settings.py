"""What the user set, in the terms of the layers below: a model, a spec, limits, decoding. Resolved once, here."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..config import NAMING_HINT, Model, find_downloaded, resolve_model
from ..errors import ModelError, UsageError
from ..images import Limits
from ..values import Decoding, ModelSpec
from .options import Options
from .output import Talk


def choose_model(options: Options, talk: Talk) -> Model:
    if options.model is not None:
        return resolve_model(options.model)
    model = find_downloaded()
    if model is None:
        raise ModelError("no model is chosen and none is downloaded", hint=NAMING_HINT)
    talk.note(f"using {model.name}, the best model already downloaded (--model names another)")
    return model


def choose_spec(model: Model, options: Options) -> ModelSpec:
    if options.four_bit and options.quantize not in (None, "4bit"):
        raise UsageError(
            f"--4bit and --quantize {options.quantize} contradict each other", hint="give one of them"
        )
    if options.revision is not None and Path(model.checkpoint).is_dir():
        raise UsageError("--revision is for checkpoints on the hub", hint=f"{model.name} is a folder")
    entry = model.entry
    return ModelSpec(
        checkpoint=model.checkpoint,
        revision=options.revision or (entry.revision if entry else None),
        style=options.style or (entry.style if entry else None),
        dtype=options.dtype or "auto",
        quantization="4bit" if options.four_bit else options.quantize,
        device=options.device or "auto",
        attention=options.attention,
        detail=options.detail,
    )


def choose_limits(options: Options) -> Limits:
    limits = Limits()
    if options.max_pixels is not None:
        limits = replace(limits, max_pixels=options.max_pixels)
    if options.timeout is not None:
        limits = replace(limits, total_timeout_seconds=options.timeout)
    if options.no_private_addresses:
        limits = replace(limits, allow_private_addresses=False)
    if options.background is not None:
        match = re.fullmatch(r"#?([0-9a-fA-F]{6})", options.background)
        if match is None:
            raise UsageError(
                f"--background {options.background} is not a colour", hint="write #rrggbb, as #ffffff"
            )
        red, green, blue = bytes.fromhex(match[1])
        limits = replace(limits, background=(red, green, blue))
    return limits


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def choose_cache_bytes(options: Options) -> int | None:
    """The bytes of --cache-memory, None if it was not given."""
    if options.cache_memory is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmg]i?)?b?", options.cache_memory.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(
            f"--cache-memory {options.cache_memory} is not a size", hint="write it as 512MB or 2GB"
        )
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def choose_keep_alive(options: Options) -> float | None:
    """The seconds of --keep-alive, infinite for `forever`, None if it was not given."""
    if options.keep_alive is None:
        return None
    if options.keep_alive.strip().lower() == "forever":
        return math.inf
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)", options.keep_alive.strip().lower(), re.ASCII)
    if match is None:
        raise UsageError(
            f"--keep-alive {options.keep_alive} is not a duration",
            hint="write 90s, 5m, 2h, 0 (not at all) or forever",
        )
    return float(match[1]) * _SECONDS[match[2]]


def choose_shard(options: Options) -> tuple[int, int]:
    """Which part of how many, from 1. The whole is 1 of 1."""
    if options.shard is None:
        return 1, 1
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", options.shard, re.ASCII)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"--shard {options.shard} is not a part", hint="write 1/4, 2/4, 3/4 and 4/4")
    return index, count


def given_decoding(options: Options) -> dict[str, Any]:
    """The decoding options that were given; the rest is the template's."""
    given = {field.name: getattr(options, field.name) for field in fields(Decoding)}
    given = {name: value for name, value in given.items() if value not in (None, [])}
    for name, value in given.items():
        is_number = isinstance(value, int | float)
        if is_number and (
            not math.isfinite(value) or (value == 0 and name in ("top_p", "repetition_penalty"))
        ):
            raise UsageError(f"--{name.replace('_', '-')} cannot be {value}", hint="1 changes nothing")
    if "stop" in given:
        given["stop"] = tuple(given["stop"])
    return given
