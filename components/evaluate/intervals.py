"""Confidence interval of a mean difference per word, from sums over independent sources.

Pieces of one source are not independent. Two intervals are computed, and the wider end on each side
is used (measurements: docs/decisions/0024):

- cluster-robust: the delete-one jackknife of the ratio, times a quantile of Student's t with
  Kish's effective number of sources (1965) minus one degrees of freedom;
- a bootstrap over sources (Efron 1979) with widened percentiles (Hesterberg 2015), which follows
  skewed differences.

All functions take any number of leading axes, so that many trials are computed at once.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 4_000
_ANGLES = 4_001
_MANY = 30.0
"""Degrees of freedom above which the expansion of Student's t is accurate enough."""

Floats = npt.NDArray[np.float64]
_NORMAL = NormalDist()


class Interval(NamedTuple):
    """Means per word and their confidence intervals, `[...]` each."""

    mean: Floats
    low: Floats
    high: Floats


def estimate(differences: Floats, words: Floats, *, tail: float) -> Interval:
    """Returns the mean difference per word and its confidence interval.

    The draws depend only on the number of sources: the same report gives the same verdict. Negated
    differences give the negated interval.

    Args:
      differences: `[..., S]` sums over the words of each source.
      words: `[..., S]` words of each source; those without words are ignored. The effective
        number of sources must be at least 2.
      tail: probability that the true mean is below the interval; likewise above it.
    """
    total, weight = differences.sum(-1), words.sum(-1)
    mean = total / weight
    effective = effective_sources(words)
    quantile = _vectorised(effective, tail)
    half = quantile * _jackknife(differences, words)
    drawn = _draws(words.shape[-1])
    weights = words @ drawn.T
    means = np.divide(
        differences @ drawn.T,
        weights,
        out=np.broadcast_to(mean[..., None], weights.shape).copy(),
        where=weights > 0,
    )
    means.sort(-1)
    percentile = _percentiles(effective, quantile)
    low = np.minimum(mean - half, _pick(means, percentile))
    high = np.maximum(mean + half, -_pick(-means[..., ::-1], percentile))
    return Interval(mean, low, high)


def effective_sources(words: Floats) -> Floats:
    """Returns the effective number of sources, (sum w)^2 / sum w^2 (Kish 1965)."""
    squares = np.square(words).sum(-1)
    whole = np.square(words.sum(-1))
    effective: Floats = np.divide(whole, squares, out=np.zeros_like(squares), where=squares > 0)
    return effective


@functools.lru_cache(maxsize=4_096)
def student(tail: float, freedom: float) -> float:
    """Returns the value that Student's t exceeds with probability `tail`.

    Uses the expansion of Abramowitz and Stegun 26.7.5, or, with few degrees of freedom, integrates
    the density over the angle whose tangent is t / sqrt(freedom).
    """
    if freedom >= _MANY:
        z = -_NORMAL.inv_cdf(tail)
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
    rest = np.linspace(0.0, math.pi / 2, _ANGLES)  # complement of the angle
    density = np.sin(rest) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    at = float(np.interp(tail, area / area[-1] / 2, rest))
    return math.sqrt(freedom) / math.tan(at)


def _vectorised(effective: Floats, tail: float) -> Floats:
    freedom = np.round(np.maximum(effective - 1.0, 1.0), 3)
    found = [student(tail, one) for one in freedom.ravel().tolist()]
    return np.asarray(found).reshape(freedom.shape)


def _jackknife(differences: Floats, words: Floats) -> Floats:
    """Returns the jackknife standard error of the mean per word."""
    total, weight = differences.sum(-1, keepdims=True), words.sum(-1, keepdims=True)
    rest = weight - words
    mean = total / weight
    without = np.divide(total - differences, rest, out=mean + 0.0 * rest, where=rest > 0)
    count = (words > 0).sum(-1)
    squares: Floats = (np.square(without - mean) * (words > 0)).sum(-1)
    error: Floats = np.sqrt(squares * (count - 1) / count)
    return error


@functools.lru_cache(maxsize=4)
def _draws(sources: int) -> Floats:
    """Returns `[RESAMPLES, sources]` how often each draw contains each source."""
    random = np.random.default_rng(sources)
    counts = random.multinomial(sources, np.full(sources, 1.0 / sources), size=RESAMPLES)
    return counts.astype(np.float64)


def _percentiles(effective: Floats, quantile: Floats) -> Floats:
    """Returns the share of draws below the interval, smaller than the tail."""
    freedom = np.maximum(effective - 1.0, 1.0)
    stretched = np.sqrt((freedom + 1.0) / freedom) * quantile
    found = [_NORMAL.cdf(-one) for one in stretched.ravel().tolist()]
    return np.asarray(found).reshape(freedom.shape)


def _pick(ordered: Floats, share: Floats) -> Floats:
    """Interpolates a quantile of `[..., R]` ordered values."""
    place = share * (ordered.shape[-1] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, ordered.shape[-1] - 1)
    one, two = (np.take_along_axis(ordered, at[..., None], -1)[..., 0] for at in (below, above))
    picked: Floats = one + (two - one) * (place - below)
    return picked
