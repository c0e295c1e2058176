"""Judges differences between two models: pure functions of arrays of sums.

All functions take any number of leading axes, so that the simulation in `bench.gate` judges many
trials at once by the gate's own rules.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.evaluate.intervals import Floats, Interval, effective_sources, estimate
from model.config import GateConfig
from model.evaluation.slices import CHALLENGER_ONLY, CHAMPION_ONLY, NEITHER, SLICES

BETTER, NOT_WORSE, WORSE, UNCLEAR = "better", "not worse", "worse", "unclear"
NIGHTS = 100
"""Assumed number of comparisons with one reference; the level of its interval is corrected for all
of them."""
MIN_SLICE_WORDS = 200
"""Slices with fewer words are not judged."""
ONE = "known to one"
JUDGED = (NEITHER, ONE, "1-5", "6-100", ">100")
"""Slices that can reject. A model must not choose which words only it knows, so words known to only
one of the two form one slice."""

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
    """Classifies the interval of a single comparison in one word."""
    if is_better(interval):
        return BETTER
    if is_not_worse(interval, margin):
        return NOT_WORSE
    return WORSE if interval.high < 0 else UNCLEAR


def merge_slices(values: Floats) -> Floats:
    """Converts `[..., len(SLICES), G]` sums to `[..., len(JUDGED), G]`."""
    parts = {name: values[..., at, :] for at, name in enumerate(SLICES)}
    parts[ONE] = parts[CHALLENGER_ONLY] + parts[CHAMPION_ONLY]
    return np.stack([parts[name] for name in JUDGED], axis=-2)


def can_decide(words: Floats, limits: GateConfig) -> Bools:
    """Returns whether `[..., G]` words come from enough sources for an interval."""
    return np.asarray(effective_sources(words) >= limits.min_units)


def lost_slices(differences: Floats, words: Floats, limits: GateConfig) -> tuple[Interval, Bools]:
    """Judges the slices of a comparison.

    Args:
      differences: `[..., K, G]` by slice and group of sources, K as in `JUDGED`.
      words: `[..., K, G]`.
      limits: limits of the gate.

    Returns:
      The intervals, and `[..., K]` whether a slice has significantly lost more than
      `limits.max_slice_loss`. With too few words or sources the interval is NaN.
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
