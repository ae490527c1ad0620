"""What the user set, in the terms of the layers below: a model, a spec, limits, decoding. Resolved once, here."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..config import AUTO, Model, resolve_model
from ..errors import UsageError
from ..images import Limits
from ..models.hub.cache import find_revision
from ..values import Decoding, ModelSpec
from .options import Options
from .output import Talk
from .pull import pull_missing

_LOCAL = (
    "revision",
    "device",
    "dtype",
    "quantize",
    "four_bit",
    "attention",
    "detail",
    "max_memory",
    "no_quantized_cache",
    "offline",
    "cache_memory",
)
"""What only a model of this machine can be told."""


def choose_model(options: Options, talk: Talk) -> Model:
    """The model named, or the best that fits this machine, downloaded if it must be."""
    if options.server is not None:
        return _choose_remote_model(options, talk)
    if options.server_timeout is not None:
        raise UsageError("--server-timeout needs --server", hint="--timeout is for fetching images")
    if options.model is None or options.model == AUTO:
        from .auto_model import choose_fitting

        return choose_fitting(options, choose_quantization(options), talk)
    model = resolve_model(options.model)
    pull_missing(model, choose_revision(model, options), options, talk)
    return model


def _choose_remote_model(options: Options, talk: Talk) -> Model:
    from ..backends.openai.client import parse_server

    server = parse_server(options.server or "")
    if idle := [name for name in _LOCAL if getattr(options, name) not in (None, False)]:
        flags = ", ".join("--4bit" if name == "four_bit" else f"--{name.replace('_', '-')}" for name in idle)
        raise UsageError(f"{flags} cannot be told to a server", hint="leave it out with --server")
    if options.style == "completion":
        raise UsageError("a server is asked in chat only", hint="leave --style completion out with --server")
    if options.model is not None:
        return Model(options.model, options.model)
    from ..backends.openai.backend import find_model

    name = find_model(server)
    talk.note(f"using {name}, the first model of the server (--model names another)")
    return Model(name, name)


def choose_revision(model: Model, options: Options) -> str | None:
    return options.revision or find_revision(model)


def choose_quantization(options: Options) -> str | None:
    if options.four_bit and options.quantize not in (None, "4bit"):
        raise UsageError(
            f"--4bit and --quantize {options.quantize} contradict each other", hint="give one of them"
        )
    return "4bit" if options.four_bit else options.quantize


def choose_spec(model: Model, options: Options) -> ModelSpec:
    if options.server is not None:
        from ..backends.openai.client import parse_server

        return ModelSpec(model.checkpoint, style="chat", server=parse_server(options.server))
    if options.revision is not None and Path(model.checkpoint).is_dir():
        raise UsageError("--revision is for checkpoints on the hub", hint=f"{model.name} is a folder")
    entry = model.entry
    return ModelSpec(
        checkpoint=model.checkpoint,
        revision=choose_revision(model, options),
        style=options.style or (entry.style if entry else None),
        dtype=options.dtype or model.dtype or "auto",
        quantization=choose_quantization(options) or model.quantization,
        device=options.device or model.device or "auto",
        attention=options.attention,
        detail=options.detail,
        max_memory=choose_max_memory(options),
        keeps_quantized=not options.no_quantized_cache,
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
    size = _read_size(options.cache_memory)
    if size is None:
        raise UsageError(
            f"--cache-memory {options.cache_memory} is not a size", hint="write it as 512MB or 2GB"
        )
    return size


def choose_max_memory(options: Options) -> tuple[tuple[str, int], ...]:
    """The bytes of each device named in --max-memory; nothing if it was not given."""
    if options.max_memory is None:
        return ()
    budgets: dict[str, int] = {}
    for part in options.max_memory.split(","):
        name, _, written = (word.strip() for word in part.partition("="))
        size = _read_size(written)
        if size is None or not re.fullmatch(r"cpu|\d{1,3}", name, re.ASCII) or name in budgets:
            raise UsageError(
                f"--max-memory {options.max_memory} cannot be read at {part.strip()!r}",
                hint="write it as 0=20GiB,1=20GiB,cpu=60GiB",
            )
        budgets[name] = size
    if options.device not in (None, "auto") and set(budgets) != {options.device}:
        raise UsageError(
            f"--max-memory spreads a model and --device {options.device} does not", hint="give one of them"
        )
    return tuple(budgets.items())


def _read_size(text: str) -> int | None:
    """The bytes of a size as people write it, None for what is none."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d+)?) *([kmg]i?)?b?", text.strip(), re.IGNORECASE | re.ASCII)
    return None if match is None else int(float(match[1]) * _UNITS[(match[2] or "").upper()])


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


def choose_decoding(options: Options) -> dict[str, Any]:
    """What replaces a template's decoding: what was given, and a single beam where a server decodes: none has more."""
    beams = {} if options.server is None else {"num_beams": 1}
    return beams | given_decoding(options)


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
