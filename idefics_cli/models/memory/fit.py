"""What fits: the best precision of a checkpoint in the memory there is, and the best checkpoint of several.

Pure decisions over dimensions and free bytes; nothing is read, downloaded or loaded here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..dimensions import Dimensions
from .available import Pool
from .estimate import Demand, Precision, estimate

USABLE = 0.9
"""The part of free memory to count on: the device's own library and fragments take the rest."""
ON_GPU = (
    Precision("bfloat16"),
    Precision("bfloat16", "8bit"),
    Precision("bfloat16", "4bit"),
)
ON_CPU = (
    Precision("float32"),
    Precision("bfloat16"),
    Precision("bfloat16", "8bit"),
    Precision("bfloat16", "4bit"),
)


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the user has settled already; None is free to choose."""

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
    """A checkpoint in a memory: at which precision, and how many bytes it takes there."""

    precision: Precision
    pools: tuple[Pool, ...]
    """Several are cards that hold it together."""
    need_bytes: int

    @property
    def place(self) -> str:
        """Where, in words: the name of a card, several cards, RAM."""
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
    """What may hold a model: the card with the most room, all cards together, RAM."""
    cards = [pool for pool in pools if pool.kind == "gpu"]
    places: list[tuple[Pool, ...]] = [(max(cards, key=lambda card: card.free_bytes),)] if cards else []
    if len(cards) > 1:
        places.append(tuple(cards))
    return [*places, *((pool,) for pool in pools if pool.kind == "ram")]


def fit_in(
    place: tuple[Pool, ...], dimensions: Dimensions, precision: Precision, demand: Demand
) -> Fit | None:
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
    candidates: Iterable[Candidate], pools: Sequence[Pool], constraints: Constraints
) -> tuple[Candidate, Fit] | None:
    """The first candidate that fits on a card, else in RAM; what is downloaded before what is not."""
    fitting = [
        (candidate, fit)
        for candidate in candidates
        if (fit := find_fit(candidate.dimensions, pools, constraints)) is not None
    ]

    def rank(pair: tuple[Candidate, Fit]) -> tuple[bool, bool]:
        candidate, fit = pair
        return not candidate.is_downloaded, fit.pools[0].kind == "ram"

    return min(fitting, key=rank, default=None)
