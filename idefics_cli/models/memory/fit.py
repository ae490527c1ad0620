"""What fits: the best precision of a checkpoint in the free memory, and the best of several checkpoints.

Pure decisions over dimensions and free bytes; nothing is read, downloaded or loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..dimensions import Dimensions
from ..quantization.table import QUANTIZATIONS
from .available import Pool
from .estimate import Demand, Precision, estimate
from .speed import Rates, estimate_seconds

PATIENCE_SECONDS = 10
"""What an image may take before another model is the better choice."""
USABLE = 0.9
"""The part of free memory to count on: the device's own library and fragments take the rest."""
_CHOSEN = sorted(
    (name for name, row in QUANTIZATIONS.items() if row.is_chosen),
    key=lambda name: -QUANTIZATIONS[name].bytes_per_weight,
)
ON_GPU = (Precision("bfloat16"), *(Precision("bfloat16", name) for name in _CHOSEN))
ON_CPU = (Precision("float32"), *ON_GPU)


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the user has chosen already; None is free to choose."""

    dtype: str | None = None
    quantization: str | None = None
    demand: Demand = field(default_factory=Demand)

    def list_precisions(self, kind: str) -> list[Precision]:
        """The precisions to try in a kind of memory, best first."""
        offered = ON_GPU if kind == "gpu" else ON_CPU
        found = [Precision(self.dtype or one.dtype, self.quantization or one.quantization) for one in offered]
        if self.quantization is not None and self.dtype is None:
            found = [one for one in found if one.dtype == "bfloat16"]
        return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Fit:
    """A checkpoint in a memory: its precision there, and its bytes."""

    precision: Precision
    pools: tuple[Pool, ...]
    """Several are cards that hold it together."""
    need_bytes: int
    seconds: float | None = None
    """About how long an image takes, where that was asked."""
    detail: str | None = None
    """The `--detail` at which it does."""

    @property
    def place(self) -> str:
        """Where it runs, in words: the name of a card, several cards, RAM."""
        return self.pools[0].name if len(self.pools) == 1 else f"{len(self.pools)} cards together"

    @property
    def free_bytes(self) -> int:
        return sum(pool.free_bytes for pool in self.pools)


def find_fit(dimensions: Dimensions, pools: Sequence[Pool], constraints: Constraints) -> Fit | None:
    """Where it fits best: on one card, on all of them, in RAM; at the first precision that does."""
    for place in list_places(pools):
        for precision in constraints.list_precisions(place[0].kind):
            if (fit := fit_in(place, dimensions, precision, constraints.demand)) is not None:
                return fit
    return None


def list_places(pools: Sequence[Pool]) -> list[tuple[Pool, ...]]:
    """The memories that may hold a model: the card with the most room, all cards together, RAM."""
    cards = [pool for pool in pools if pool.kind == "gpu"]
    places: list[tuple[Pool, ...]] = [(max(cards, key=lambda card: card.free_bytes),)] if cards else []
    if len(cards) > 1:
        places.append(tuple(cards))
    return [*places, *((pool,) for pool in pools if pool.kind == "ram")]


def fit_in(place: tuple[Pool, ...], dimensions: Dimensions, precision: Precision, demand: Demand) -> Fit | None:
    """A checkpoint at a given precision in a place, if there is room."""
    need = estimate(dimensions, precision, demand).total
    room = USABLE * sum(pool.free_bytes for pool in place)
    return Fit(precision, place, need) if need <= room else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A named checkpoint that could be chosen."""

    name: str
    dimensions: Dimensions
    is_downloaded: bool


def choose(
    candidates: Iterable[Candidate],
    pools: Sequence[Pool],
    constraints: Constraints,
    rates: Callable[[str], Rates] | None = None,
) -> tuple[Candidate, Fit] | None:
    """The first candidate that fits on a card, else in RAM; downloaded ones before others.

    Where the `rates` of a memory's device are known, candidates that answer in reasonable time come first; if none
    does, the fastest.
    """
    fitting = [
        (candidate, fit)
        for candidate in candidates
        if (fit := _find_timed_fit(candidate, pools, constraints, rates)) is not None
    ]

    def rank(pair: tuple[Candidate, Fit]) -> tuple[bool, bool, bool, float]:
        candidate, fit = pair
        is_slow = fit.seconds is not None and fit.seconds > PATIENCE_SECONDS
        is_in_ram = fit.pools[0].kind == "ram"
        return is_slow, not candidate.is_downloaded, is_in_ram, (fit.seconds or 0) if is_slow else 0

    return min(fitting, key=rank, default=None)


def _find_timed_fit(
    candidate: Candidate,
    pools: Sequence[Pool],
    constraints: Constraints,
    rates: Callable[[str], Rates] | None,
) -> Fit | None:
    """Where it fits best, and its seconds an image: on a CPU with the fewest tiles, unless the user chose."""
    known, demand = candidate.dimensions, constraints.demand
    fit = find_fit(known, pools, constraints)
    if fit is None or rates is None:
        return fit
    kind = fit.pools[0].kind
    if kind == "ram" and demand.detail is None and "low" in known.tiles:
        demand = replace(demand, detail="low")
        fit = find_fit(known, pools, replace(constraints, demand=demand)) or fit
    seconds = estimate_seconds(known, fit.precision, rates(kind), demand.detail)
    return replace(fit, seconds=seconds, detail=demand.detail)
