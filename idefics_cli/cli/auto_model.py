"""`--model auto`: the best checkpoint that fits this machine, and why; downloaded if no fitting one is here."""

from __future__ import annotations

from dataclasses import replace

from ..config import NAMING_HINT, Model, list_models
from ..errors import ModelError
from ..figures import describe_seconds, format_bytes
from ..models.hub.catalog import Listing, describe
from ..models.memory.available import Pool, describe_pools, find_pools
from ..models.memory.estimate import DTYPE_BYTES, Demand
from ..models.memory.fit import Candidate, Constraints, Fit, choose
from ..models.memory.speed import find_rates
from .pull import is_offline, pull
from .settings import Settings

_DTYPES = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}


def choose_fitting(settings: Settings) -> Model:
    """The best model for the free memory. Raises ModelError if none fits, or none without a download."""
    options, talk = settings.model, settings.talk
    listings = {
        name: describe(model, options.revision)
        for name, model in list_models().items()
        if model.entry is None or not model.entry.is_built_in
    }
    if is_offline():
        listings = {name: listing for name, listing in listings.items() if listing.is_downloaded}
        if not listings:
            raise ModelError("no model is chosen and none is downloaded", hint=NAMING_HINT)
    pools = find_pools(options.device or "auto")
    constraints = make_constraints(settings)
    candidates = [
        Candidate(name, listing.dimensions, listing.is_downloaded)
        for name, listing in listings.items()
        if listing.dimensions is not None
    ]
    found = choose(candidates, pools, constraints, find_rates)
    if found is None:
        raise ModelError(
            f"no model fits ({describe_pools(pools)})",
            hint="free some memory, or name one with --model (`idefics models list` shows what they need)",
        )
    candidate, fit = found
    listing = listings[candidate.name]
    if not candidate.is_downloaded and not settings.output.dry_run:
        talk.note(f"no downloaded model fits; downloading {candidate.name}, {_describe_fit(fit)}")
        pull(listing.model, options.revision or listing.revision, talk, is_agreed=options.yes)
    else:
        here = "that is downloaded and" if candidate.is_downloaded else "that"
        talk.note(f"using {candidate.name}, {_describe_fit(fit)}: the best {here} fits (--model names another)")
    return _settle(listing, fit, pools, constraints, options.device)


def make_constraints(settings: Settings) -> Constraints:
    """The constraints that the options put on the choice."""
    dtype = (settings.model.dtype or "auto").removesuffix("!")
    dtype = _DTYPES.get(dtype, dtype)
    return Constraints(
        dtype=dtype if dtype in DTYPE_BYTES else None,
        quantization=settings.quantization,
        demand=Demand(detail=settings.model.detail),
    )


def _settle(listing: Listing, fit: Fit, pools: list[Pool], constraints: Constraints, device: str | None) -> Model:
    """The model with the settings that make it fit. Default settings are chosen at loading."""
    first = constraints.list_precisions(fit.pools[0].kind)[0]
    is_first = fit.precision == first and first.quantization is None
    has_cards = any(pool.kind == "gpu" for pool in pools)
    is_passed_over = fit.pools[0].kind == "ram" and has_cards
    is_one_of_cards = len(fit.pools) == 1 and len([pool for pool in pools if pool.kind == "gpu"]) > 1
    return replace(
        listing.model,
        dtype=None if is_first else fit.precision.dtype,
        quantization=fit.precision.quantization,
        device=fit.pools[0].device if device is None and (is_passed_over or is_one_of_cards) else None,
        detail=fit.detail if constraints.demand.detail is None else None,
    )


def _describe_fit(fit: Fit) -> str:
    need, free = format_bytes(fit.need_bytes), format_bytes(fit.free_bytes)
    tiles = f", --detail {fit.detail}" if fit.detail is not None else ""
    pace = f", about {describe_seconds(fit.seconds)} an image" if fit.seconds is not None else ""
    return f"{fit.precision.label} in {fit.place}{tiles} (needs {need} of {free} free{pace})"
