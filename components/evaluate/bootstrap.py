"""How sure a difference is: a bootstrap confidence interval of a mean per word.

Units of text (documents, or blocks of words) are drawn with replacement (Efron 1979), as
many as there are, and the mean is computed of each draw. The interval lies between two
percentiles of these means, which are set wider than the level says by what Student's t is
wider than the normal distribution, and by the sqrt(n / (n - 1)) that a bootstrap's spread
is too small: Hesterberg's "expanded percentile" interval (2015). Units of unequal lengths
count as fewer: Kish's effective number (1965). docs/decisions/0014 has what was measured.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 4_000
MOST_UNITS = 1_000
"""More units than this are drawn in groups of neighbours."""

Floats = npt.NDArray[np.float64]
_NORMAL = NormalDist()


class Interval(NamedTuple):
    """A mean per word and its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(differences: Floats, words: Floats, *, confidence: float) -> Interval:
    """Returns the mean difference per word with its confidence interval.

    The draws are a function of the number of units alone: the same report, the same verdict.

    Args:
      differences: `[N]` sums over the words of each unit, of at least two units.
      words: `[N]` words of each, above 0.
      confidence: level of the two-sided interval, as 0.95.
    """
    mean = float(differences.sum() / words.sum())
    sums, weights = _in_groups(differences), _in_groups(words)
    drawn = _draws(len(sums))
    means = (drawn @ sums) / (drawn @ weights)
    tail = _tail((1 - confidence) / 2, effective_units(weights))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def effective_units(words: Floats) -> float:
    """Returns how many units of equal length say as much: (sum w)^2 / sum w^2 (Kish 1965)."""
    squares = float(np.square(words).sum())
    return float(words.sum()) ** 2 / squares if squares else 0.0


def _in_groups(values: Floats) -> Floats:
    """Adds neighbours up so that at most `MOST_UNITS` are left."""
    count = len(values)
    if count <= MOST_UNITS:
        return values
    starts = np.arange(MOST_UNITS) * count // MOST_UNITS
    grouped: Floats = np.add.reduceat(values, starts)
    return grouped


@functools.lru_cache(maxsize=4)
def _draws(units: int) -> Floats:
    """Returns `[RESAMPLES, units]` how often each draw has each unit."""
    random = np.random.default_rng(units)
    counts = random.multinomial(units, np.full(units, 1.0 / units), size=RESAMPLES)
    return counts.astype(np.float64)


def _tail(tail: float, units: float) -> float:
    """Returns the percentile that stands for `tail` with so many units."""
    freedom = max(units - 1.0, 1.0)
    stretch = math.sqrt((freedom + 1.0) / freedom)
    return _NORMAL.cdf(-stretch * _student(1.0 - tail, freedom))


def _student(probability: float, freedom: float) -> float:
    """Returns the quantile of Student's t by its expansion (Abramowitz and Stegun 26.7.5)."""
    z = _NORMAL.inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
