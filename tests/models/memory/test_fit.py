"""What fits where, decided over made-up machines; and what this one says of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from idefics_cli.config import load_packaged_models
from idefics_cli.models.families import measure
from idefics_cli.models.memory.available import Pool, describe_pools, find_pools
from idefics_cli.models.memory.estimate import Demand
from idefics_cli.models.memory.fit import Candidate, Constraints, Fit, choose, find_fit
from idefics_cli.models.memory.speed import Rates
from tests.cards import install_cards

GB = 10**9
CANDIDATES = [
    Candidate(name, measure(entry.config, name, entry.parameters), is_downloaded=False)
    for name, entry in load_packaged_models().items()
    if entry.config is not None
]


def card(free: float, number: int = 0) -> Pool:
    return Pool("gpu", f"card {number}", f"cuda:{number}", int(free * GB), "a test")


def ram(free: float) -> Pool:
    return Pool("ram", "RAM", "cpu", int(free * GB), "a test")


def choice(
    *pools: Pool, here: tuple[str, ...] = (), constraints: Constraints | None = None
) -> tuple[str, str, str] | None:
    """Name, precision and place of what is chosen."""
    known = [Candidate(one.name, one.dimensions, one.name in here) for one in CANDIDATES]
    found = choose(known, pools, constraints or Constraints())
    return found and (found[0].name, found[1].precision.label, found[1].place)


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        ((card(80), ram(64)), ("idefics3", "bf16", "card 0")),
        ((card(24), ram(64)), ("idefics3", "bf16", "card 0")),
        ((card(16), ram(64)), ("idefics3", "8bit", "card 0")),
        ((card(9), ram(64)), ("idefics3", "4bit", "card 0")),
        ((card(8.5), ram(64)), ("idefics2", "4bit", "card 0")),
        ((card(8), ram(64)), ("smolvlm", "bf16", "card 0")),
        ((card(6), ram(64)), ("smolvlm", "8bit", "card 0")),
        ((card(0.5), ram(64)), ("idefics3", "fp32", "RAM")),
        ((card(10, 0), card(14, 1)), ("idefics3", "8bit", "card 1")),
        ((ram(16),), ("idefics3", "8bit", "RAM")),
        ((ram(4),), ("smolvlm", "4bit", "RAM")),
        ((ram(2),), ("smolvlm-500m", "bf16", "RAM")),
        ((ram(0.5),), None),
        ((), None),
    ],
)
def test_the_best_that_fits_is_chosen(pools: tuple[Pool, ...], expected: tuple[str, str, str] | None) -> None:
    assert choice(*pools) == expected


def test_what_is_downloaded_comes_first_if_it_fits() -> None:
    assert choice(card(24), ram(64), here=("smolvlm-256m",)) == ("smolvlm-256m", "bf16", "card 0")
    assert choice(card(24), here=("smolvlm-256m", "idefics2")) == ("idefics2", "bf16", "card 0")
    assert choice(card(4), here=("idefics-80b", "smolvlm")) == ("smolvlm", "4bit", "card 0")
    assert choice(card(4), ram(64), here=("idefics2",)) == ("idefics2", "fp32", "RAM")
    assert choice(card(4), here=("idefics-80b",)) == ("smolvlm", "4bit", "card 0")


def test_what_the_user_settled_is_kept() -> None:
    assert choice(card(8), constraints=Constraints(demand=Demand(detail="low"))) == (
        "idefics3",
        "4bit",
        "card 0",
    )
    assert choice(card(80), constraints=Constraints(quantization="4bit")) == ("idefics3", "4bit", "card 0")
    assert choice(ram(64), constraints=Constraints(dtype="bfloat16")) == ("idefics3", "bf16", "RAM")
    assert choice(card(24), constraints=Constraints(dtype="float32")) == ("idefics3", "8bit", "card 0")


def test_several_cards_hold_together_what_one_cannot() -> None:
    large = next(one for one in CANDIDATES if one.name == "idefics-80b")
    fit = find_fit(large.dimensions, [card(80, 0), card(80, 1), card(80, 2)], Constraints())
    assert fit is not None
    assert (fit.precision.label, fit.place, fit.free_bytes) == ("4bit", "card 0", 80 * GB)
    assert find_fit(large.dimensions, [card(40, 0), card(30, 1)], Constraints()) is not None
    assert find_fit(large.dimensions, [card(30, 0), card(10, 1)], Constraints()) is None


def test_this_machine_has_memory_and_says_where_the_figure_is_from() -> None:
    pools = find_pools()
    assert pools[-1].kind == "ram"
    assert 0 < pools[-1].free_bytes < 10**14
    assert "free (" in describe_pools(pools)
    assert [pool.kind for pool in find_pools("cpu")] == ["ram"]
    assert "nothing is known" in describe_pools([])


SLOW, CARD = Rates(1e11, 1e10), Rates(2e13, 2e11)
"""Two cores, and a card."""


def pick_in_time(*pools: Pool, here: tuple[str, ...] = ()) -> tuple[Candidate, Fit]:
    known = [Candidate(one.name, one.dimensions, one.name in here) for one in CANDIDATES]
    found = choose(known, pools, Constraints(), lambda kind: CARD if kind == "gpu" else SLOW)
    assert found is not None
    return found


def test_two_cores_are_given_what_answers_in_time() -> None:
    candidate, fit = pick_in_time(ram(24))
    assert (candidate.name, fit.detail) == ("smolvlm-500m", "low")
    assert fit.seconds is not None
    assert fit.seconds <= 10
    # What is downloaded is not used if it takes minutes and another does not.
    assert pick_in_time(ram(24), here=("idefics3",))[0].name == "smolvlm-500m"
    assert pick_in_time(ram(24), here=("smolvlm-256m",))[0].name == "smolvlm-256m"


@pytest.mark.parametrize("free", [8, 24, 80])
def test_a_card_is_given_what_fits_it_as_ever(free: float) -> None:
    candidate, fit = pick_in_time(card(free), ram(64))
    assert (candidate.name, fit.precision.label, fit.place) == choice(card(free), ram(64))
    assert fit.detail is None


def test_where_nothing_is_in_time_the_fastest_is_chosen() -> None:
    known = [one for one in CANDIDATES if one.name in ("idefics2", "idefics3")]
    found = choose(known, [ram(64)], Constraints(), lambda kind: Rates(1e9, 1e9))
    assert found is not None
    assert (found[0].name, found[1].detail) == ("idefics3", "low")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [("cuda:0", "NVIDIA L4"), ("cuda:1", "NVIDIA A100")]),
        ("1", [("cuda:0", "NVIDIA A100")]),
        ("GPU-bb,0", [("cuda:0", "NVIDIA A100"), ("cuda:1", "NVIDIA L4")]),
        ("1,7,0", [("cuda:0", "NVIDIA A100")]),
        ("", []),
    ],
)
def test_cards_are_numbered_as_cuda_shows_them(
    visible: str | None, expected: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_cards(tmp_path, monkeypatch)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cards = [pool for pool in find_pools() if pool.kind == "gpu"]
    assert [(pool.device, pool.name) for pool in cards] == expected
    assert all(pool.free_bytes in (22000 * 2**20, 80000 * 2**20) for pool in cards)
    assert find_pools("cuda:0") == cards[:1]


def test_cards_that_torch_cannot_use_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_cards(tmp_path, monkeypatch, cuda=None)
    assert all(pool.kind == "ram" for pool in find_pools())
