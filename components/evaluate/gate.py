"""The gate: decides whether a model may be exported. Pure, and rejects unless everything is clear.

Anything missing or contradictory in the report is a reason to reject
(`components.evaluate.report`), so a defect upstream never lets a model through. Reasons for the
rules: docs/decisions/0014 and 0024.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from typing import Any

from components.evaluate.comparison import (
    ModelComparison,
    SliceChange,
    compare_with_champion,
    compare_with_reference,
    why_undecidable,
)
from components.evaluate.judging import BETTER, NOT_WORSE, UNCLEAR, WORSE
from components.evaluate.report import (
    REPORT_FORMAT,
    Problems,
    Report,
    Score,
    T,
)
from components.evaluate.sums import Pair
from components.figures import format_apart
from model.config import GateConfig

PASSED = "PASSED"
REJECTED = "REJECTED"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The gate's decision and its reasons."""

    status: str
    """`PASSED` or `REJECTED`."""
    reasons: tuple[str, ...]
    """If rejected, all reasons against the model; if passed, what was checked."""
    comparison: ModelComparison | None = None
    """Comparison with the champion, if there is one and it can be compared."""
    reference: ModelComparison | None = None
    """Comparison with the best version so far, likewise."""

    @property
    def passed(self) -> bool:
        """Whether the model may be exported."""
        return self.status == PASSED

    def to_dict(self) -> dict[str, Any]:
        """Returns the verdict as plain JSON values."""
        return {
            "status": self.status,
            "reasons": list(self.reasons),
            "comparison": self.comparison.to_dict() if self.comparison else None,
            "reference": self.reference.to_dict() if self.reference else None,
        }


@dataclasses.dataclass
class _Findings:
    """Passed checks, and problems that reject the model."""

    checks: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def judge(self, good: bool, text: str, *, hint: str = "") -> None:
        """Adds a passed check, or a problem with a hint at the limit."""
        if good:
            self.checks.append(text)
        else:
            self.problems.append(text + hint)

    def take(self, part: T | Problems) -> T | None:
        """Returns a part of the report; None if it has problems, which are recorded once."""
        if not isinstance(part, Problems):
            return part
        self.problems += [one for one in part.texts if one not in self.problems]
        return None

    def can_decide(self, pair: Pair, other: str, limits: GateConfig) -> bool:
        """Returns whether the test text has enough sources; records a problem if not."""
        problem = why_undecidable(pair, other, limits)
        if problem:
            self.problems.append(problem)
        return not problem


def decide(report: Report, *, limits: GateConfig) -> Verdict:
    """Decides whether the model of a report may be exported.

    The rules: the test perplexity is at most `limits.max_perplexity`, and not above any baseline in
    `limits.beat` on the same words; the share of unknown test words is at most
    `limits.max_unknown_rate`. If there is a champion, the model is significantly not worse
    by more than `limits.tolerance`, or, with `limits.require_improvement`, significantly better;
    and no slice of the words is significantly worse by more than `limits.max_slice_loss`. If
    there is a reference, the best version so far, the model is significantly not worse than it by
    more than `limits.max_drift`.

    Args:
      report: the report.
      limits: what the model must achieve.

    Returns:
      PASSED with what was checked, or REJECTED with everything that failed.
    """
    found = _Findings()
    if not report.known_format:
        found.problems.append(
            f"format_version is not {REPORT_FORMAT}, the only format this gate reads"
        )
    model = found.take(report.test)
    if model or (report.left_out and not isinstance(report.left_out, Problems)):
        _check_left_out(report, model, limits, found)
    if model:
        _check_limit(model, limits, found)
    unknown = found.take(report.unknown_words)
    if model and unknown is not None:
        _check_unknown(unknown / model.words, limits, found)
    for name in limits.beat:
        baseline = found.take(report.baselines[name])
        if model and baseline:
            _check_baseline(model, baseline, name, found)
    comparison = _check_champion(report, limits, found)
    reference = _check_reference(report, limits, found)
    if found.problems:
        return Verdict(REJECTED, tuple(found.problems), comparison, reference)
    return Verdict(PASSED, tuple(found.checks), comparison, reference)


def _check_left_out(
    report: Report, model: Score | None, limits: GateConfig, found: _Findings
) -> None:
    """Checks that what the model has seen is known, and that enough test text is unseen."""
    words, left_out = model.words if model else 0, found.take(report.left_out)
    if report.seen_unknown:
        found.problems.append(
            f"it is unknown which test text the model has seen: {report.seen_unknown}"
        )
    if left_out is None:
        return
    text = f"{words:,} test words that no model has seen"
    if left_out:
        text += f" ({left_out:,} seen ones were left out)"
    if words < limits.min_test_words:
        found.problems.append(
            f"only {text}; {limits.min_test_words:,} are needed (gate.min_test_words); use "
            "more or newer test text"
        )
    elif left_out:
        found.checks.append(f"measured on {text}")


def _check_limit(model: Score, limits: GateConfig, found: _Findings) -> None:
    ours, limit = format_apart(model.perplexity, limits.max_perplexity)
    good = model.perplexity <= limits.max_perplexity
    relation = "at most" if good else "above"
    text = f"test perplexity {ours} is {relation} the limit of {limit}"
    found.judge(good, text, hint=" (gate.max_perplexity)")


def _check_unknown(rate: float, limits: GateConfig, found: _Findings) -> None:
    ours, limit = format_apart(100 * rate, 100 * limits.max_unknown_rate)
    good = rate <= limits.max_unknown_rate
    relation = "at most" if good else "above"
    found.judge(
        good,
        f"{ours}% of the test words are unknown, {relation} the limit of {limit}%",
        hint=" (gate.max_unknown_rate); raise data.vocab_size, lower data.min_count or provide "
        "more text",
    )


def _check_baseline(model: Score, baseline: Score, name: str, found: _Findings) -> None:
    if model.words != baseline.words:
        found.problems.append(
            f"the {name} baseline was scored on {baseline.words:,} words and the model on "
            f"{model.words:,}; they must be the same"
        )
        return
    ours, theirs = format_apart(model.perplexity, baseline.perplexity)
    # On the same words the sums compare exactly, without the rounding of exp.
    good = model.log_likelihood >= baseline.log_likelihood
    relation = "not above" if good else "above"
    found.judge(
        good,
        f"test perplexity {ours} is {relation} the {name} baseline's {theirs} on the same "
        f"{model.words:,} words",
    )


def _check_champion(report: Report, limits: GateConfig, found: _Findings) -> ModelComparison | None:
    if report.champion is None:
        found.checks.append("there is no champion to compare with")
        return None
    champion = found.take(report.champion)
    if champion is None:
        return None
    if champion.refused:
        found.problems.append(f"the champion can't be compared: {champion.refused}")
        return None
    pair, slices = found.take(champion.pair), found.take(champion.slices)
    if pair is None or slices is None or not found.can_decide(pair, "champion", limits):
        return None
    comparison = compare_with_champion(pair, slices, limits)
    _check_difference(comparison, limits, found)
    _check_slices(comparison, limits, found)
    return comparison


def _check_reference(
    report: Report, limits: GateConfig, found: _Findings
) -> ModelComparison | None:
    """Checks that many small losses, each within the margin, don't add up."""
    reference = found.take(report.reference)
    if reference is None:
        return None
    named = f"the best version so far ({os.path.basename(os.path.normpath(reference.path))})"
    model = shlex.quote(os.path.dirname(reference.path) or ".")
    rebase = f"charloom registry rebase {model} VERSION"
    if reference.refused:
        found.problems.append(
            f"{named} can't be compared: {reference.refused}; {rebase} sets another reference"
        )
        return None
    pair = found.take(reference.pair)
    if pair is None or not found.can_decide(pair, "reference", limits):
        return None
    compared = compare_with_reference(pair, limits)
    good = compared.relation in (BETTER, NOT_WORSE)
    found.judge(
        good,
        f"{'not ' if good else 'may be '}worse than {named} by more than {limits.max_drift:.2%}: "
        f"{_interval(compared)}",
        hint=f" (gate.max_drift); train longer, or accept the loss with {rebase}",
    )
    return compared


def _interval(compared: ModelComparison) -> str:
    change = _percent(compared.perplexity_change)
    low = _percent(compared.perplexity_change_low)
    high = _percent(compared.perplexity_change_high)
    files = "file" if compared.units == 1 else "files"
    return (
        f"perplexity {change} ({100 * compared.confidence:.4g}% interval {low} to {high}, over "
        f"{compared.units:,} {files})"
    )


def _check_difference(compared: ModelComparison, limits: GateConfig, found: _Findings) -> None:
    interval = _interval(compared)
    if compared.relation == BETTER:
        found.checks.append(f"better than the champion: {interval}")
    elif compared.relation == WORSE:
        found.problems.append(f"worse than the champion: {interval}")
    elif limits.require_improvement:
        found.problems.append(
            "not significantly better than the champion (gate.require_improvement): " + interval
        )
    elif compared.relation == UNCLEAR:
        found.problems.append(
            f"may be worse than the champion by more than {limits.tolerance:.2%}: {interval}; "
            "use more test text or train longer (gate.tolerance)"
        )
    else:
        found.checks.append(
            f"not worse than the champion by more than {limits.tolerance:.2%}: {interval}"
        )


def _check_slices(compared: ModelComparison, limits: GateConfig, found: _Findings) -> None:
    lost = [one for one in compared.slices if one.lost]
    found.problems += [_slice_text(one, compared.slice_confidence, limits) for one in lost]
    if not lost:
        found.checks.append(
            f"no slice of the words is significantly worse than the champion by more than "
            f"{limits.max_slice_loss:.1%}"
        )


def _slice_text(lost: SliceChange, confidence: float, limits: GateConfig) -> str:
    change, low, high = (_percent(one or 0.0) for one in (lost.change, lost.low, lost.high))
    return (
        f"perplexity of the slice {lost.name} is {change} against the champion's "
        f"({100 * confidence:.4g}% interval {low} to {high}, {lost.words:,} words in "
        f"{lost.sources:,} files); its lower end must not exceed "
        f"{_percent(limits.max_slice_loss)} (gate.max_slice_loss)"
    )


def _percent(value: float) -> str:
    # Adding 0.0 avoids -0.00%.
    return f"{round(value, 4) + 0.0:+.2%}" if abs(value) < 1e6 else f"{value:+.2e}"
