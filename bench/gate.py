"""How often the gate is wrong, on simulated pairs of models; prints the tables of docs/evaluation.md.

The texts and models are simulated; the rules are those of `components.evaluate.judging`. A trial
has S sources of `PIECES` pieces of `PIECE_WORDS` words. The difference between the two models per
word of a piece has the standard deviation `APART`, and any two pieces of one source have the
correlation rho. Each piece has words of all slices; the differences of a piece's slices are
correlated as well, because a model that is better on a text is better on all kinds of its words.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from components.evaluate.intervals import Floats, estimate
from components.evaluate.judging import (
    JUDGED,
    can_decide,
    champion_tail,
    is_better,
    is_not_worse,
    lost_slices,
    reference_tail,
)
from model.config import GateConfig

PIECES, PIECE_WORDS = 20, 1_000
APART = 0.05
"""Standard deviation of the difference per word between two models on one piece, in nats."""
SHARES = np.asarray([0.02, 0.03, 0.15, 0.30, 0.50])
"""Share of the words, by slice in the order of `JUDGED`."""
SOURCES = (2, 5, 10, 30, 300)
CORRELATIONS = (0.0, 0.1, 0.3, 0.5)
CHAINS = {
    "0.35 % worse": (-math.log1p(0.0035), 0.0),
    "0.05 % worse": (-math.log1p(0.0005), 0.0),
    "0.4 % better or worse": (0.0, 0.004),
    "0.4 % better or worse, 0.1 % worse on average": (-0.001, 0.004),
}
"""True gain of a challenger over the champion, in nats per word: mean and standard deviation."""
BATCH = 100
assert len(SHARES) == len(JUDGED)


class Sums(NamedTuple):
    """Sums of N trials by source, S, and slice, K."""

    words: Floats
    """`[N, K, S]`."""
    differences: Floats
    """`[N, K, S]`."""


class Rates(NamedTuple):
    """Shares of trials."""

    decided: float
    better: float
    """Significantly better than the champion."""
    passed: float
    """Not significantly worse by more than the tolerance."""
    lost_slice: float


def simulate(
    random: np.random.Generator,
    trials: int,
    sources: int,
    *,
    correlation: float,
    better_by: float = 0.0,
    even: bool = True,
    noise: str = "normal",
) -> Sums:
    """Draws trials.

    Args:
      random: the generator.
      trials: N.
      sources: S.
      correlation: between two pieces of one source.
      better_by: true relative perplexity decrease of the challenger against the champion.
      even: whether all sources have the same size; otherwise their pieces are lognormal.
      noise: how the sources differ: `normal`, `heavy` (Student's t with 3 degrees of freedom),
        `skewed up` or `skewed down` (lognormal).
    """
    size = (trials, sources)
    sizes = np.full(size, float(PIECES)) if even else PIECES * random.lognormal(0.0, 0.7, size)
    pieces = np.maximum(1.0, np.round(sizes))
    shared = math.sqrt(correlation) * _draw(random, size, noise)
    own = math.sqrt(1 - correlation) * random.standard_normal(size) / np.sqrt(pieces)
    whole = APART * (shared + own)  # mean over a source's pieces, all of equal length
    words = np.round(pieces[:, None] * PIECE_WORDS * SHARES[:, None])
    # A slice's addition has the spread of its fewer words, and is correlated in the same way.
    apart = APART / np.sqrt(SHARES[:, None] * 4)
    cell = (trials, len(SHARES), sources)
    of_slice = math.sqrt(correlation) * random.standard_normal(cell)
    of_slice += math.sqrt(1 - correlation) * random.standard_normal(cell) / np.sqrt(pieces)[:, None]
    of_slice *= apart
    of_slice -= (of_slice * words).sum(1, keepdims=True) / words.sum(1, keepdims=True)
    shift = -math.log1p(-better_by)
    return Sums(words, (whole[:, None] + of_slice + shift) * words)


def _draw(random: np.random.Generator, size: tuple[int, int], noise: str) -> Floats:
    """Returns noise with mean 0 and standard deviation 1."""
    if noise == "heavy":
        heavy: Floats = random.standard_t(3, size) / math.sqrt(3)
        return heavy
    if noise.startswith("skewed"):
        # A lognormal with sigma 0.5 has the variance (e^0.25 - 1) e^0.25.
        skewed = random.lognormal(0.0, 0.5, size) - math.exp(0.125)
        sign = 1.0 if noise == "skewed up" else -1.0
        return sign * skewed / math.sqrt(math.expm1(0.25) * math.exp(0.25))
    return random.standard_normal(size)


def judge(sums: Sums, limits: GateConfig) -> Rates:
    """Judges trials by the rules of the gate; undecidable ones count as no finding."""
    words, differences = sums.words.sum(1), sums.differences.sum(1)
    decided = can_decide(words, limits)
    counts = np.zeros(3)
    if decided.any():
        found = estimate(differences[decided], words[decided], tail=champion_tail(limits))
        _, lost = lost_slices(sums.differences[decided], sums.words[decided], limits)
        flags = is_better(found), is_not_worse(found, limits.tolerance), lost.any(-1)
        counts = np.asarray([float(flag.sum()) for flag in flags])
    better, passed, lost_slice = (counts / len(decided)).tolist()
    return Rates(float(decided.mean()), better, passed, lost_slice)


def rates(
    sources: int,
    *,
    correlation: float,
    better_by: float = 0.0,
    even: bool = True,
    noise: str = "normal",
    trials: int = 1_000,
    seed: int = 0,
    limits: GateConfig | None = None,
) -> Rates:
    """Simulates and judges, in batches that limit the memory."""
    random = np.random.default_rng(
        [seed, sources, round(100 * correlation), round(1e4 * better_by)]
    )
    found = []
    for _ in range(max(1, trials // BATCH)):
        drawn = simulate(
            random,
            BATCH,
            sources,
            correlation=correlation,
            better_by=better_by,
            even=even,
            noise=noise,
        )
        found.append(judge(drawn, limits or GateConfig()))
    return Rates(*(round(one, 5) for one in np.mean(found, axis=0).tolist()))


class Night(NamedTuple):
    """State of a chain of champions after a night: true log-perplexities below the first one's."""

    champion: float
    reference: float
    best: float
    """The best of all champions so far."""


def chain(
    seed: int,
    *,
    nights: int = 100,
    drift: float = -math.log1p(0.0035),
    spread: float = 0.0,
    sources: int = 30,
    correlation: float = 0.3,
    apart: float = 0.01,
    limits: GateConfig | None = None,
) -> Iterator[Night]:
    """Runs a chain: each night a challenger derived from the champion is judged on new text.

    Args:
      seed: seed of the generator.
      nights: number of nights.
      drift: true gain of a challenger over the champion, nats per word.
      spread: standard deviation of that gain.
      sources: files of each night's test text.
      correlation: between two pieces of one file.
      apart: standard deviation of a piece's difference between two versions.
      limits: limits of the gate.
    """
    limits = limits or GateConfig()
    random = np.random.default_rng([seed, nights])
    words = np.full(sources, float(PIECES * PIECE_WORDS))
    spread_of_source = apart * math.sqrt(correlation + (1 - correlation) / PIECES)
    now = Night(0.0, 0.0, 0.0)
    for _ in range(nights):
        true = now.champion + drift + spread * float(random.standard_normal())
        noise = spread_of_source * random.standard_normal((2, sources))
        against = (true - now.champion, true - now.reference)
        champion, reference = (
            estimate((gap + one) * words, words, tail=tail)
            for gap, one, tail in zip(
                against, noise, (champion_tail(limits), reference_tail(limits)), strict=True
            )
        )
        passed = is_better(champion) or is_not_worse(champion, limits.tolerance)
        held = is_better(reference) or is_not_worse(reference, limits.max_drift)
        if passed and held:
            moved = true if is_better(reference) else now.reference
            now = Night(true, moved, max(now.best, true))
        yield now


def worst_of_chains(
    *, drift: float, spread: float, sources: int = 30, chains: int = 20
) -> dict[str, float]:
    """Returns the largest true relative perplexity increase over the best champion."""
    nights = [
        one
        for seed in range(chains)
        for one in chain(seed, drift=drift, spread=spread, sources=sources)
    ]
    return {
        "below_best": max(math.expm1(one.best - one.champion) for one in nights),
        "below_reference": max(math.expm1(one.reference - one.champion) for one in nights),
    }


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000)
    trials = parser.parse_args().trials
    rows: list[dict[str, Any]] = []

    def add(sources: int, **setting: Any) -> None:
        found = rates(sources, trials=trials, **setting)
        row = {"sources": sources, **setting, **found._asdict()}
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        rows.append(row)

    for even in (True, False):
        for correlation in CORRELATIONS:
            for sources in SOURCES:
                add(sources, correlation=correlation, even=even)
            add(300, correlation=correlation, even=even, better_by=0.03)
    for noise in ("heavy", "skewed up", "skewed down"):
        for sources in SOURCES[1:]:
            add(sources, correlation=0.3, noise=noise)
    chains = {
        f"{name}, {sources} sources": worst_of_chains(drift=drift, spread=spread, sources=sources)
        for name, (drift, spread) in CHAINS.items()
        for sources in (10, 30, 300)
    }
    print(json.dumps({"trials": rows, "chains": chains}))


if __name__ == "__main__":
    main()
