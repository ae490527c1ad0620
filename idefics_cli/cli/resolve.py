"""From options to settings: sizes, durations, colours and parts are read here, once; invalid values are errors."""

from __future__ import annotations

import math
import os
import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UsageError
from ..images import Limits
from ..results.sidecars import Sidecars
from ..values import Decoding
from .declare import Panel
from .options import (
    DecodingOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
    PromptOptions,
    TableOptions,
    WorkerOptions,
)
from .output import Talk
from .settings import Settings
from .shards import name_shard, read_shard

if TYPE_CHECKING:
    from ..eval.temperature import Calibration

Given = TypeVar("Given", bound=Panel)


def resolve(*given: Panel) -> Settings:
    """The settings of a command that takes these panels. Raises UsageError for invalid values."""
    model = _find(ModelOptions, given)
    decoding, input, output = (
        _find(DecodingOptions, given),
        _find(InputOptions, given),
        _find(OutputOptions, given),
    )
    shard = read_shard(input.shard, os.environ)
    if output.output is not None:
        output = replace(output, output=output.output.replace("{shard}", name_shard(*shard)))
    return Settings(
        model=model,
        workers=_find(WorkerOptions, given),
        prompt=_find(PromptOptions, given),
        decoding=decoding,
        input=input,
        table=_find(TableOptions, given),
        output=output,
        quantization=_read_quantization(model),
        changes=_read_changes(decoding),
        max_memory=_read_max_memory(model),
        cache_bytes=_read_cache_bytes(decoding),
        keep_alive_seconds=_read_keep_alive(model),
        limits=_read_limits(input),
        shard=shard,
        sidecars=_read_sidecars(output),
        calibration=_read_calibration(output),
        talk=Talk(output.quiet, output.verbose),
    )


def _find(panel: type[Given], given: tuple[Panel, ...]) -> Given:
    return next((one for one in given if isinstance(one, panel)), None) or panel()


def _read_quantization(options: ModelOptions) -> str | None:
    if options.four_bit and options.quantization not in (None, "4bit"):
        raise UsageError(f"--4bit and --quantize {options.quantization} contradict each other", hint="give one of them")
    return "4bit" if options.four_bit else options.quantization


def _read_limits(options: InputOptions) -> Limits:
    limits = Limits()
    if options.max_pixels is not None:
        limits = replace(limits, max_pixels=options.max_pixels)
    if options.dpi is not None:
        limits = replace(limits, dpi=options.dpi)
    if options.decode_timeout is not None:
        limits = replace(limits, decode_seconds=options.decode_timeout)
    if options.timeout is not None:
        limits = replace(limits, total_timeout_seconds=options.timeout)
    if options.no_private_addresses:
        limits = replace(limits, allow_private_addresses=False)
    if options.background is not None:
        match = re.fullmatch(r"#?([0-9a-fA-F]{6})", options.background)
        if match is None:
            raise UsageError(f"--background {options.background} is not a colour", hint="write #rrggbb, as #ffffff")
        red, green, blue = bytes.fromhex(match[1])
        limits = replace(limits, background=(red, green, blue))
    return limits


def _read_cache_bytes(options: DecodingOptions) -> int | None:
    """The bytes of --cache-memory, None if it was not given."""
    if options.cache_memory is None:
        return None
    return read_size("--cache-memory", options.cache_memory)


def read_size(option: str, text: str) -> int:
    """The bytes of an option that is a size."""
    size = _read_size(text)
    if size is None:
        raise UsageError(f"{option} {text} is not a size", hint="write it as 512MB or 2GB")
    return size


def _read_max_memory(options: ModelOptions) -> tuple[tuple[str, int], ...]:
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
        raise UsageError(f"--max-memory and --device {options.device} cannot be combined", hint="give one of them")
    return tuple(budgets.items())


def _read_size(text: str) -> int | None:
    """The bytes of a size such as `2GB`, None if it is invalid."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    written = re.sub("i$", "iB", text.strip(), flags=re.IGNORECASE)  # as Kubernetes writes it: 2Gi
    try:
        return int(TypeAdapter(ByteSize).validate_python(written))
    except ValidationError:
        return None


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def _read_keep_alive(options: ModelOptions) -> float | None:
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


def _read_changes(options: DecodingOptions) -> dict[str, Any]:
    """The decoding options that were given; the others are the template's."""
    given = {field.name: getattr(options, field.name) for field in fields(Decoding)}
    given = {name: value for name, value in given.items() if value not in (None, [])}
    if "stop" in given:
        given["stop"] = tuple(given["stop"])
    return given


def _read_calibration(options: OutputOptions) -> Calibration | None:
    if options.calibration is None:
        return None
    from ..eval.temperature import load_calibration  # which measures with numpy

    return load_calibration(options.calibration)


def _read_sidecars(options: OutputOptions) -> Sidecars | None:
    if options.write_metadata:
        from ..results.image_metadata import EmbeddedMetadata

        if options.sidecar is not None:
            raise UsageError("--sidecar and --write-metadata cannot be combined", hint="choose one")
        return EmbeddedMetadata(".xmp")
    if options.sidecar is None:
        if options.sidecar_name is not None:
            raise UsageError("--sidecar-name needs --sidecar", hint="write --sidecar .txt")
        if options.overwrite_foreign:
            raise UsageError("--overwrite-foreign needs --sidecar", hint="write --sidecar .txt")
        return None
    kind = Sidecars
    if options.sidecar.lower().removeprefix(".") == "xmp":
        from ..results.image_metadata import XmpSidecars

        kind = XmpSidecars
    return kind(options.sidecar, options.sidecar_name or "stem")
