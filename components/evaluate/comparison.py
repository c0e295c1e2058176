"""The challenger against another model, on the same raw text, with a confidence interval.

Everything is read from the report, where both models have their sums over the same words.
If their vocabularies differ, unknown words also pay for their spelling on both sides
(docs/decisions/0015), so neither gains by knowing less. What is resampled is sources, the files
of the corpus (docs/decisions/0024).
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
from components.evaluate.report_fields import MISSING, look_up
from components.evaluate.sums import Pair, read_documents, read_pair, read_slices
from model.config import GateConfig
from model.evaluation.slices import CHALLENGER_ONLY, CHAMPION_ONLY, SLICES

SHOWN_SOURCES = 10
_OURS = "splits.test"


@dataclasses.dataclass(frozen=True)
class SliceChange:
    """How the perplexity of a slice changed: 0.01 is one per cent more."""

    name: str
    words: int
    sources: int
    """Those, or groups of them, that have a word of the slice."""
    judged: bool
    """Whether the slice can reject."""
    change: float | None = None
    """None where there are too few words or sources to tell; so are `low` and `high`."""
    low: float | None = None
    high: float | None = None
    lost: bool = False
    """Whether it has significantly lost more than `gate.max_slice_loss`."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the challenger does against another model."""

    unit: str
    """What is resampled: `source`, a file of the corpus."""
    units: int
    effective_units: float
    """Sources of equal size that would say as much."""
    words: int
    difference: float
    """Log-likelihood per word, challenger less the other: above 0, the challenger is better."""
    low: float
    high: float
    confidence: float
    """Level of the two-sided interval."""
    relation: str
    """`BETTER`, `NOT_WORSE` (by no more than the margin), `WORSE` or `UNCLEAR`."""
    slices: tuple[SliceChange, ...]
    slice_confidence: float
    """Level of the two-sided interval of each slice."""
    sources: dict[str, list[dict[str, Any]]]
    """Those that gained and lost most: `better` and `worse`."""

    @property
    def perplexity_change(self) -> float:
        """How the perplexity changed; -0.02 is two per cent less."""
        return _change(self.difference)

    @property
    def perplexity_change_low(self) -> float:
        """The interval's lower end, the better one."""
        return _change(self.high)

    @property
    def perplexity_change_high(self) -> float:
        """The interval's upper end."""
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


def compare_with_champion(
    report: object, limits: GateConfig, problems: list[str]
) -> Comparison | None:
    """Compares a report's two models; says in `problems` what keeps it from doing so."""
    pair = _read_models(report, "champion", problems)
    if pair is None:
        return None
    read = read_slices(report, "champion.slices", pair, SLICES, problems)
    if read is None or not _is_decidable(pair, "champion", limits, problems):
        return None
    slices = _judge_slices(*read, limits)
    return _compare(
        pair, limits, margin=limits.tolerance, tail=champion_tail(limits), slices=slices
    )


def compare_with_reference(
    report: object, path: str, limits: GateConfig, problems: list[str]
) -> Comparison | None:
    """Compares the challenger with the best version so far, without slices.

    Args:
      report: a report.
      path: where that version's sums are: `reference`, or `champion` where both are one.
      limits: those of the gate.
      problems: gets what keeps it from comparing.
    """
    pair = _read_models(report, path, problems)
    if pair is None or not _is_decidable(pair, "reference", limits, problems):
        return None
    return _compare(pair, limits, margin=limits.max_drift, tail=reference_tail(limits))


def _read_models(report: object, path: str, problems: list[str]) -> Pair | None:
    found: list[str] = []
    same = look_up(report, f"{path}.same_vocabulary", missing=MISSING)
    if type(same) is not bool:
        found.append(f"{path}.same_vocabulary is not true or false")
    theirs = f"{path}.test"
    mine, other = (read_documents(report, one, found) for one in (_OURS, theirs))
    if not found and [row[:2] for row in mine] != [row[:2] for row in other]:
        found.append(f"{_OURS}.documents and {theirs}.documents are of other documents")
    problems += [one for one in found if one not in problems]
    return None if found else read_pair(mine, other, spelled=not same)


def _is_decidable(pair: Pair, other: str, limits: GateConfig, problems: list[str]) -> bool:
    words, _ = pair.in_groups()
    if can_decide(words, limits):
        return True
    count = int((pair.words > 0).sum())
    problems.append(
        f"it can't be decided whether the model is worse than the {other}: the test text comes "
        f"from {count:,} {'file' if count == 1 else 'files'}, which count as "
        f"{float(effective_sources(words)):.1f} of equal size, and {limits.min_units} are needed "
        "(gate.min_units), as pieces of one file are alike; split the text into more files, one "
        "for each article, chapter or day, and prepare it again"
    )
    return False


def _compare(
    pair: Pair,
    limits: GateConfig,
    *,
    margin: float,
    tail: float,
    slices: tuple[SliceChange, ...] = (),
) -> Comparison:
    words, differences = pair.in_groups()
    interval = estimate(differences, words, tail=tail)
    return Comparison(
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
    """Returns the sources with the largest differences per word, both ways."""
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
