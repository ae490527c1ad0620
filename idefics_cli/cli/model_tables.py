"""What `idefics models` shows: the list with what fits, and one checkpoint's memory with its formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import Model
from ..errors import ModelError
from ..figures import describe_seconds, format_bytes
from ..jsonl import dump_row
from ..models.dimensions import COLOURS, Dimensions
from ..models.families import find_way, measure
from ..models.hub.cache import find_folder, read_config
from ..models.hub.catalog import Listing, count_parameters, describe, list_catalog
from ..models.memory.available import describe_pools, find_pools
from ..models.memory.estimate import (
    DTYPE_BYTES,
    Demand,
    Precision,
    count_pass_tiles,
    count_quantized,
    count_quantized_bytes,
    count_text_bytes,
    count_tiles,
    count_token_bytes,
    count_tokens,
    count_vision_bytes,
    count_weight_bytes,
    estimate,
)
from ..models.memory.fit import Constraints, Fit, find_fit, fit_in, list_places
from ..models.memory.speed import estimate_seconds, find_rates
from .formats import refuse_tables
from .output import emit, emit_folded, emit_table, one_line
from .pull import is_offline
from .settings import Settings

BF16, INT8 = Precision("bfloat16"), Precision("bfloat16", "int8")
EIGHT_BITS, FOUR_BITS = Precision("bfloat16", "8bit"), Precision("bfloat16", "4bit")
SHOWN = (Precision("float32"), BF16, EIGHT_BITS, INT8, FOUR_BITS)


def print_list(settings: Settings) -> None:
    """One line for each checkpoint, the best first; on stderr what memory was found."""
    refuse_tables(settings.output.format)
    pools = find_pools(settings.model.device or "auto")
    rows = []
    for listing in list_catalog():
        fit = find_fit(listing.dimensions, pools, Constraints()) if listing.dimensions is not None else None
        seconds = _count_seconds(listing.dimensions, fit)
        if settings.output.format == "jsonl":
            emit(dump_row(_describe(listing) | {"fit": _describe_fit(fit), "seconds": seconds}))
        else:
            rows.append(_line(listing, fit, seconds))
    if rows:
        head = ("NAME", "WEIGHTS", "ON DISK", "FITS", "AN IMAGE", "RUNS", "LICENCE")
        emit_table([head, *rows], has_head=True)
    settings.talk.note(describe_pools(pools))


def print_info(model: Model, demand: Demand, settings: Settings) -> None:
    """The checkpoint, its memory at each precision, and the formula with its numbers."""
    refuse_tables(settings.output.format)
    listing = describe(model, settings.model.revision)
    dimensions = listing.dimensions or _look_up_dimensions(listing)
    pools = find_pools(settings.model.device or "auto")
    places = list_places(pools)
    precisions = [(one, estimate(dimensions, one, demand)) for one in SHOWN]
    if settings.output.format == "jsonl":
        needs = {
            one.label: {
                "weight_bytes": need.weights,
                "cache_bytes": need.cache,
                "activation_bytes": need.activations,
                "total_bytes": need.total,
            }
            for one, need in precisions
        }
        asked = {"tokens": demand.tokens, "batch_size": demand.batch_size, "images": demand.images}
        fit = find_fit(dimensions, pools, Constraints(demand=demand))
        row = _describe(listing, dimensions) | asked | {"memory": needs, "fit": _describe_fit(fit)}
        emit(dump_row(row))
        return
    for line in _introduce(listing, dimensions, demand):
        emit_folded(line)
    rows = [
        (
            one.label,
            *(format_bytes(part) for part in (need.weights, need.cache, need.activations, need.total)),
            next(
                (fit.place for place in places if (fit := fit_in(place, dimensions, one, demand)) is not None),
                "no",
            ),
        )
        for one, need in precisions
    ]
    emit("")
    head = ("PRECISION", "WEIGHTS", "CACHE", "ACTIVATIONS", "TOGETHER", "FITS IN")
    emit_table([head, *rows], has_head=True)
    emit("")
    for line in _explain(dimensions, demand):
        emit_folded(line)
    settings.talk.note(describe_pools(pools))


def _look_up_dimensions(listing: Listing) -> Dimensions:
    """The sizes of a checkpoint that is no entry: from its config.json, on the hub if it is not here."""
    name, checkpoint = listing.model.name, listing.model.checkpoint
    folder = find_folder(checkpoint, listing.revision)
    if folder is not None:
        return measure(read_config(folder), name, count_parameters(folder))
    if Path(checkpoint).is_dir():
        raise ModelError(f"{name} has no config.json", hint="name the folder of a checkpoint")
    if is_offline():
        raise ModelError(
            f"{name} is not here, and its sizes are not in models.yaml",
            hint="run without --offline, so that its config.json can be read",
        )
    from ..models.hub.download import fetch_config, fetch_parameters

    config = fetch_config(checkpoint, listing.revision)
    return measure(config, name, fetch_parameters(checkpoint, listing.revision))


def _describe(listing: Listing, dimensions: Dimensions | None = None) -> dict[str, Any]:
    entry, known = listing.entry, dimensions or listing.dimensions
    return {
        "name": listing.model.name,
        "checkpoint": listing.model.checkpoint,
        "revision": listing.revision,
        "architecture": entry.architecture if entry else known.architecture if known else None,
        "runs": find_way(known.architecture) if known else None,
        "style": entry.style if entry else None,
        "licence": entry.licence if entry else None,
        "languages": entry.languages if entry else None,
        "notes": entry.notes if entry else None,
        "parameters": known.parameters if known else None,
        "quantized_parameters": count_quantized(known) if known else None,
        "weight_bytes": {one.label: count_weight_bytes(known, one) for one in SHOWN} if known else None,
        "cache_bytes_per_token": count_token_bytes(known, BF16) if known else None,
        "downloaded": listing.is_downloaded,
        "disk_bytes": listing.disk_bytes,
    }


def _describe_fit(fit: Fit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    return {
        "precision": fit.precision.label,
        "devices": [pool.device for pool in fit.pools],
        "need_bytes": fit.need_bytes,
        "free_bytes": fit.free_bytes,
    }


def _count_seconds(dimensions: Dimensions | None, fit: Fit | None) -> float | None:
    """About how long an image takes where it fits."""
    if dimensions is None or fit is None:
        return None
    return round(estimate_seconds(dimensions, fit.precision, find_rates(fit.pools[0].kind)), 2)


def _line(listing: Listing, fit: Fit | None, seconds: float | None) -> tuple[str, ...]:
    known = listing.dimensions
    if listing.entry is not None and listing.entry.is_built_in:
        disk = "built in"
    elif listing.is_downloaded:
        disk = format_bytes(listing.disk_bytes)
    else:
        disk = f"{format_bytes(listing.disk_bytes)}, not all" if listing.disk_bytes else "-"
    return (
        one_line(listing.model.name),
        f"{_billions(known.parameters)}" if known else "?",
        disk,
        _say_fit(fit) if known else "unknown",
        "-" if seconds is None else f"about {describe_seconds(seconds)}",
        find_way(known.architecture) if known else "?",
        one_line(listing.entry.licence) if listing.entry else "see its page",
    )


def _say_fit(fit: Fit | None) -> str:
    return f"{fit.precision.label} in {fit.place}, {format_bytes(fit.need_bytes)}" if fit else "no"


def _introduce(listing: Listing, dimensions: Dimensions, demand: Demand) -> list[str]:
    entry = listing.entry
    facts = [f"{_billions(dimensions.parameters)} weights", dimensions.architecture]
    if entry is not None:
        facts += [one for one in (entry.style, entry.licence, ", ".join(entry.languages)) if one]
    here = f"downloaded ({format_bytes(listing.disk_bytes)})" if listing.is_downloaded else "not downloaded"
    if listing.entry is not None and listing.entry.is_built_in:
        here = "built in"
    tiles = count_tiles(dimensions, demand.detail)
    image = f"{demand.images} of {tiles * dimensions.tile_tokens} tokens" if demand.images else "none"
    return [
        f"{listing.model.name}  {listing.model.checkpoint}",
        f"{', '.join(facts)}; {here}",
        *([entry.notes] if entry and entry.notes else []),
        f"for {demand.batch_size} at a time, each with {demand.tokens} tokens; images: {image}",
    ]


def _explain(known: Dimensions, demand: Demand) -> list[str]:
    """The formula, with bf16 for the numbers."""
    value, batch = DTYPE_BYTES["bfloat16"], demand.batch_size
    quantized, tokens, layers = count_quantized(known), count_tokens(known, demand), known.layers
    rest = known.parameters - quantized
    modules = sum(one.count for one in known.linears)
    rows = sum(one.count * one.rows for one in known.linears)
    four, eight = count_quantized_bytes(known, FOUR_BITS), count_quantized_bytes(known, EIGHT_BITS)
    features = demand.images * count_tiles(known, demand.detail) * known.tile_features * known.feature_width
    pixels = COLOURS * known.tile_pixels * DTYPE_BYTES["float32"]
    return [
        f"weights, bf16  {known.parameters:,} x {value} = {format_bytes(known.parameters * value)}",
        f"weights, 4bit  {rest:,} x {value} + {four:,} = {format_bytes(count_weight_bytes(known, FOUR_BITS))}: "
        f"{quantized:,} of them in {modules} linear layers, half a byte each and a scale of a byte for 64",
        f"weights, 8bit  {rest:,} x {value} + {eight:,} = {format_bytes(count_weight_bytes(known, EIGHT_BITS))}: "
        f"a byte each and a scale of 4 bytes for each of {rows:,} rows (int8: of {value} bytes)",
        "               vision tower, connector or resampler and output head are not quantized",
        f"cache          {tokens:,} tokens x {batch} x 2 x {layers} layers x {known.kv_width} x {value} = "
        f"{format_bytes(tokens * batch * count_token_bytes(known, BF16))}",
        f"activations    the larger of vision, {count_pass_tiles(known, demand)} tiles x ({pixels:,} + "
        f"{known.patches} patches x 2 x ({known.vision_width} + {known.vision_inner_width}) x {value}) = "
        f"{format_bytes(count_vision_bytes(known, BF16, demand))},",
        f"               and text, {batch} x ({tokens:,} tokens x (2 x {known.width} + 3 x {known.inner_width}) x "
        f"{value} + {features:,} x {value} + {known.vocabulary:,} x 4) = "
        f"{format_bytes(count_text_bytes(known, BF16, demand))} (an estimate)",
    ]


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.1f} M"
