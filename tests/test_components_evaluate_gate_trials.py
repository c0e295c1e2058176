"""How often the gate is wrong, on simulated pairs of models: the rules of the gate on arrays.

`bench.gate` simulates; that the gate applies these rules to a report is tested elsewhere.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from bench.gate import CHAINS, CORRELATIONS, SOURCES, chain, rates, simulate, worst_of_chains
from components.evaluate.judging import JUDGED, lost_slices
from model.config import GateConfig

BETTER_AT_MOST, SLICES_AT_MOST, FOUND_AT_LEAST = 0.035, 0.03, 0.95
LIMITS = GateConfig()
ROOT = Path(__file__).resolve().parent.parent
EXTRA = pytest.mark.extra


def test_few_alike_sources_are_rarely_found_better() -> None:
    """5 files of 20 pieces with correlation 0.3, of which 26.5 % were "better" by pieces."""
    found = rates(5, correlation=0.3, trials=300)
    assert found.decided == 1.0
    assert 0.0 < found.better <= BETTER_AT_MOST
    assert found.lost_slice <= SLICES_AT_MOST


def test_two_sources_decide_nothing() -> None:
    found = rates(2, correlation=0.3, trials=100)
    assert found == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("sources", "correlation"),
    [
        (5, 0.3),
        *(
            pytest.param(*one, marks=EXTRA)
            for one in itertools.product(SOURCES[1:], CORRELATIONS)
            if one != (5, 0.3)
        ),
    ],
)
def test_the_documentation_has_the_figures_of_the_simulation(
    sources: int, correlation: float
) -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {sources} | ")]
    cell = row.strip("| ").split(" | ")[1 + CORRELATIONS.index(correlation)]
    found = rates(sources, correlation=correlation).better
    assert cell == f"{100 * found:.1f} %"


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.extra
def test_equal_models(sources: int, correlation: float, even: bool) -> None:
    found = rates(sources, correlation=correlation, even=even)
    assert found.better <= BETTER_AT_MOST
    assert found.lost_slice <= SLICES_AT_MOST


@pytest.mark.extra
def test_equal_models_in_all_settings_together() -> None:
    """The level is kept on average, not only within what chance allows a setting."""
    found = [
        rates(sources, correlation=correlation, trials=4_000, seed=1).better
        for sources in SOURCES[1:]
        for correlation in CORRELATIONS
    ]
    assert 0.015 < np.mean(found) < 0.027


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.extra
def test_three_per_cent_are_found_with_300_sources(correlation: float) -> None:
    found = rates(300, correlation=correlation, better_by=0.03)
    assert found.better >= FOUND_AT_LEAST
    assert found.passed >= FOUND_AT_LEAST


def test_a_slice_that_lost_much_is_found() -> None:
    drawn = simulate(np.random.default_rng(0), 100, 300, correlation=0.3)
    at = JUDGED.index("1-5")
    drawn.differences[:, at] -= math.log1p(0.15) * drawn.words[:, at]
    _, lost = lost_slices(drawn.differences, drawn.words, LIMITS)
    assert lost[:, at].mean() >= FOUND_AT_LEAST
    assert np.delete(lost, at, axis=1).mean() <= SLICES_AT_MOST
    _, lost = lost_slices(-drawn.differences, drawn.words, LIMITS)
    assert not lost[:, at].any()


def test_a_hundred_nights_of_small_losses_stay_within_the_margin() -> None:
    """0.35 % worse each night; without a reference the end is over 20 % worse than the first."""
    drift, spread = CHAINS["0.35 % worse"]
    fallen = worst_of_chains(drift=drift, spread=spread, chains=3)
    assert 0.003 < fallen["below_best"] <= LIMITS.max_drift
    free = GateConfig(max_drift=1.0)
    *_, last = chain(0, nights=60, drift=drift, sources=300, limits=free)
    assert math.expm1(last.best - last.champion) > 0.2


@pytest.mark.parametrize("sources", [10, 30, 300])
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.extra
def test_no_chain_falls_below_the_margin(name: str, sources: int) -> None:
    drift, spread = CHAINS[name]
    fallen = worst_of_chains(drift=drift, spread=spread, sources=sources)
    assert fallen["below_reference"] <= LIMITS.max_drift
    assert fallen["below_best"] <= LIMITS.max_drift


@pytest.mark.parametrize("noise", ["heavy", "skewed up", "skewed down"])
@pytest.mark.parametrize("sources", SOURCES[1:])
@pytest.mark.extra
def test_other_noise(sources: int, noise: str) -> None:
    found = rates(sources, correlation=0.3, noise=noise)
    # Rare large losses that a few sources don't show: a limit of any interval, documented.
    assert found.better <= (BETTER_AT_MOST if sources == 300 else 0.08)
    assert found.lost_slice <= SLICES_AT_MOST
