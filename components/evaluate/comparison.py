"""Compares the challenger with another model on the same raw text, with confidence intervals.

The report has both models' sums over the same words. If their vocabularies differ, unknown words
also pay for their spelling on both sides (docs/decisions/0015), so neither gains by knowing less.
The resampling units are sources, that is, files of the corpus (docs/decisions/0024).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from components.evaluate.intervals import Floats, Interval, effective_sources, estimate
from components.evaluate.judging import (
    JUDGED,
    ONE,
    can_decide,
    champion_tail,
    lost_slices,
    merge_slices,
    reference_tail,
    relation,
    slice_tail,
)
from components.evaluate.report import SliceSums
from components.evaluate.sums import Pair
from model.config import GateConfig
from model.evaluation.slices import CHALLENGER_ONLY, CHAMPION_ONLY, SLICES

SHOWN_SOURCES = 10


@dataclasses.dataclass(frozen=True)
class SliceChange:
    """Relative perplexity change of a slice: 0.01 is 1 % more."""

    name: str
    words: int
    sources: int
    """Sources, or groups of them, that have a word of the slice."""
    judged: bool
    """Whether the slice can reject."""
    change: float | None = None
    """None with too few words or sources for an estimate, like `low` and `high`."""
    low: float | None = None
    high: float | None = None
    lost: bool = False
    """Whether it has significantly lost more than `gate.max_slice_loss`."""


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """Result of comparing the challenger with another model."""

    unit: str
    """Resampling unit: `source`, a file of the corpus."""
    units: int
    effective_units: float
    """Effective number of sources: as if of equal size."""
    words: int
    difference: float
    """Log-likelihood per word, challenger minus other: above 0, the challenger is better."""
    low: float
    high: float
    confidence: float
    """Level of the two-sided confidence interval."""
    relation: str
    """`BETTER`, `NOT_WORSE` (by no more than the margin), `WORSE` or `UNCLEAR`."""
    slices: tuple[SliceChange, ...]
    slice_confidence: float
    """Level of each slice's two-sided confidence interval."""
    sources: dict[str, list[dict[str, Any]]]
    """Sources that gained and lost most: `better` and `worse`."""

    @property
    def perplexity_change(self) -> float:
        """Relative perplexity change; -0.02 is 2 % less."""
        return _change(self.difference)

    @property
    def perplexity_change_low(self) -> float:
        """Lower confidence limit, the better end."""
        return _change(self.high)

    @property
    def perplexity_change_high(self) -> float:
        """Upper confidence limit."""
        return _change(self.low)

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as plain JSON values."""
        return {
            **dataclasses.asdict(self),
            "slices": [dataclasses.asdict(one) for one in self.slices],
            "perplexity_change": self.perplexity_change,
            "perplexity_change_low": self.perplexity_change_low,
            "perplexity_change_high": self.perplexity_change_high,
        }


def compare_with_champion(pair: Pair, slices: SliceSums, limits: GateConfig) -> ModelComparison:
    """Compares the challenger with the champion, overall and by slice."""
    judged = _judge_slices(slices.words, slices.differences, limits)
    return _compare(
        pair, limits, margin=limits.tolerance, tail=champion_tail(limits), slices=judged
    )


def compare_with_reference(pair: Pair, limits: GateConfig) -> ModelComparison:
    """Compares the challenger with the best version so far, without slices."""
    return _compare(pair, limits, margin=limits.max_drift, tail=reference_tail(limits))


def why_undecidable(pair: Pair, other: str, limits: GateConfig) -> str:
    """Returns why the test text has too few sources for an interval; empty if it has enough.

    Args:
      pair: the two models.
      other: name of the other model, for the message.
      limits: limits of the gate.
    """
    words, _ = pair.in_groups()
    if can_decide(words, limits):
        return ""
    count = int((pair.words > 0).sum())
    return (
        f"it can't be decided whether the model is worse than the {other}: the test text comes "
        f"from {count:,} {'file' if count == 1 else 'files'}, which count as "
        f"{float(effective_sources(words)):.1f} of equal size, and {limits.min_units} are needed "
        "(gate.min_units), because pieces of one file are correlated; split the text into more files, one "
        "for each article, chapter or day, and prepare it again"
    )


def _compare(
    pair: Pair,
    limits: GateConfig,
    *,
    margin: float,
    tail: float,
    slices: tuple[SliceChange, ...] = (),
) -> ModelComparison:
    words, differences = pair.in_groups()
    interval = estimate(differences, words, tail=tail)
    return ModelComparison(
        unit="source",
        units=int((pair.words > 0).sum()),
        effective_units=float(effective_sources(words)),
        words=int(pair.words.sum()),
        difference=float(interval.mean),
        low=float(interval.low),
        high=float(interval.high),
        confidence=1 - 2 * tail,
        relation=relation(interval, margin),
        slices=slices,
        slice_confidence=1 - 2 * slice_tail(limits),
        sources=_extremes(pair),
    )


def _judge_slices(
    words: Floats, differences: Floats, limits: GateConfig
) -> tuple[SliceChange, ...]:
    """Returns the slices that can reject; after `ONE`, its two parts, which can't."""
    judged = merge_slices(words)
    interval, lost = lost_slices(merge_slices(differences), judged, limits)
    rows = []
    for at, name in enumerate(JUDGED):
        rows.append(_slice_change(name, judged[at], interval, at, lost=bool(lost[at])))
        if name == ONE:
            for one in (CHALLENGER_ONLY, CHAMPION_ONLY):
                place = SLICES.index(one)
                rows.append(_slice_part(one, words[place], differences[place]))
    return tuple(rows)


def _slice_change(
    name: str, words: Floats, interval: Interval, at: int, *, lost: bool
) -> SliceChange:
    count, sources = int(words.sum()), int((words > 0).sum())
    mean, low, high = (float(one[at]) for one in interval)
    if math.isnan(mean):
        return SliceChange(name, count, sources, judged=True)
    return SliceChange(name, count, sources, True, _change(mean), _change(high), _change(low), lost)


def _slice_part(name: str, words: Floats, differences: Floats) -> SliceChange:
    count = int(words.sum())
    change = _change(float(differences.sum()) / count) if count else None
    return SliceChange(name, count, int((words > 0).sum()), judged=False, change=change)


def _extremes(pair: Pair) -> dict[str, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = [
        {"source": name, "words": int(count), "difference": float(difference) / count}
        for name, count, difference in zip(
            pair.names, pair.words.tolist(), pair.differences.tolist(), strict=True
        )
        if count
    ]
    rows.sort(key=lambda row: (row["difference"], row["source"]))
    worse = [row for row in rows[:SHOWN_SOURCES] if row["difference"] < 0]
    better = [row for row in rows[::-1][:SHOWN_SOURCES] if row["difference"] > 0]
    return {"better": better, "worse": worse}


def _change(difference: float) -> float:
    """Converts a log-likelihood difference per word (nats) into a relative perplexity change."""
    return math.expm1(min(-difference, 700.0))
