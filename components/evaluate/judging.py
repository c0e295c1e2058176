"""What the differences between two models say: pure functions of arrays of sums.

All take any number of leading axes, so that the simulation of `bench.gate` judges many trials
at once by the very rules of the gate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.evaluate.intervals import Floats, Interval, effective_sources, estimate
from model.config import GateConfig
from model.evaluation.slices import CHALLENGER_ONLY, CHAMPION_ONLY, NEITHER, SLICES

BETTER, NOT_WORSE, WORSE, UNCLEAR = "better", "not worse", "worse", "unclear"
NIGHTS = 100
"""A reference is compared with that often; the level of its interval allows for all of them."""
MIN_SLICE_WORDS = 200
"""A slice with fewer words says nothing."""
ONE = "known to one"
JUDGED = (NEITHER, ONE, "1-5", "6-100", ">100")
"""Slices that can reject. Which words one model alone knows is not for that model to choose, so
those of both are one slice."""

Bools = npt.NDArray[np.bool_]


def champion_tail(limits: GateConfig) -> float:
    """Returns the probability on each side of the interval against the champion."""
    return (1 - limits.confidence) / 2


def reference_tail(limits: GateConfig) -> float:
    """Returns the probability on each side of the interval against the reference."""
    return champion_tail(limits) / NIGHTS


def slice_tail(limits: GateConfig) -> float:
    """Returns the probability on each side of the interval of a slice (Bonferroni)."""
    return champion_tail(limits) / len(JUDGED)


def is_better(interval: Interval) -> Bools:
    """Returns whether the challenger is significantly better."""
    return np.asarray(interval.low > 0)


def is_not_worse(interval: Interval, margin: float) -> Bools:
    """Returns whether its perplexity is significantly not above the other's by `margin` or more."""
    return np.asarray(np.expm1(-interval.low) <= margin)


def relation(interval: Interval, margin: float) -> str:
    """Returns in one word what the interval of a single comparison says."""
    if is_better(interval):
        return BETTER
    if is_not_worse(interval, margin):
        return NOT_WORSE
    return WORSE if interval.high < 0 else UNCLEAR


def merge_slices(values: Floats) -> Floats:
    """Returns `[..., len(JUDGED), G]` of `[..., len(SLICES), G]` sums."""
    parts = {name: values[..., at, :] for at, name in enumerate(SLICES)}
    parts[ONE] = parts[CHALLENGER_ONLY] + parts[CHAMPION_ONLY]
    return np.stack([parts[name] for name in JUDGED], axis=-2)


def can_decide(words: Floats, limits: GateConfig) -> Bools:
    """Returns whether `[..., G]` words come from enough sources for an interval."""
    return np.asarray(effective_sources(words) >= limits.min_units)


def lost_slices(differences: Floats, words: Floats, limits: GateConfig) -> tuple[Interval, Bools]:
    """Judges the slices of a comparison.

    Args:
      differences: `[..., K, G]` by slice and group of sources, K of `JUDGED`.
      words: `[..., K, G]`.
      limits: those of the gate.

    Returns:
      The intervals, and `[..., K]` whether a slice has significantly lost more than
      `limits.max_slice_loss`. An interval of too few words or sources is not a number.
    """
    enough = (words.sum(-1) >= MIN_SLICE_WORDS) & can_decide(words, limits)
    found = [np.full(enough.shape, np.nan) for _ in Interval._fields]
    if enough.any():
        judged = estimate(differences[enough], words[enough], tail=slice_tail(limits))
        for values, one in zip(found, judged, strict=True):
            values[enough] = one
    interval = Interval(*found)
    with np.errstate(invalid="ignore", over="ignore"):
        lost = np.expm1(-interval.high) > limits.max_slice_loss
    return interval, np.asarray(lost)
