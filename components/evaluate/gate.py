"""The gate: may this model be exported? Pure, and closed unless everything is clear.

Whatever the report lacks or contradicts is a reason to reject, so a defect upstream
never lets a model through. Perplexities are computed here from the sums; the ratios in
the report only have to agree with them. docs/decisions/0014 says why the rules are these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from components.evaluate.comparison import BETTER, UNCLEAR, WORSE, Comparison, compare
from components.evaluate.reading import (
    MISSING,
    Score,
    format_apart,
    look_up,
    read_score,
    read_words,
)
from model.gate_config import GateConfig

PASSED = "PASSED"
REJECTED = "REJECTED"

REPORT_FORMAT = 3
"""The `format_version` of the reports that the gate understands."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why."""

    status: str
    """`PASSED` or `REJECTED`."""
    reasons: tuple[str, ...]
    """If rejected, everything that speaks against the model; if passed, what was checked."""
    comparison: Comparison | None = None
    """With the champion, where there is one and it can be compared."""

    @property
    def passed(self) -> bool:
        """Whether the model may be exported."""
        return self.status == PASSED

    def to_dict(self) -> dict[str, Any]:
        """Returns the verdict as plain JSON values."""
        compared = self.comparison.to_dict() if self.comparison else None
        return {"status": self.status, "reasons": list(self.reasons), "comparison": compared}


@dataclasses.dataclass
class _Findings:
    """What speaks for a model, and what against it."""

    checks: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def judge(self, good: bool, text: str, *, hint: str = "") -> None:
        """Adds a check that was passed, or a problem with a hint at the limit."""
        if good:
            self.checks.append(text)
        else:
            self.problems.append(text + hint)


def decide(report: Mapping[str, Any], *, limits: GateConfig) -> Verdict:
    """Decides whether the model of a report may be exported.

    The rules: the test perplexity is at most `limits.max_perplexity`, and not above that of
    any baseline in `limits.beat` on the same words. Where there is a champion, the model
    is not worse by more than `limits.tolerance`, sure at the level `limits.confidence`, or is
    better, if `limits.require_improvement`; and no slice of the words is worse by more than
    `limits.max_slice_loss`.

    Args:
      report: what `evaluate_checkpoint` returns, without JSON's nulls for non-finite numbers.
      limits: what the model must reach.

    Returns:
      PASSED with what was checked, or REJECTED with all that fails.
    """
    found = _Findings()
    version = look_up(report, "format_version")
    if type(version) is not int or version != REPORT_FORMAT:
        found.problems.append(
            f"format_version is not {REPORT_FORMAT}, which is all this gate reads"
        )
    model = read_score(report, "splits.test", found.problems)
    if model or look_up(report, "splits.test.left_out.words"):
        _check_left_out(report, model, limits, found)
    if model:
        _check_limit(model, limits, found)
    for name in limits.beat:
        baseline = read_score(report, f"baseline.{name}", found.problems)
        if model and baseline:
            _check_baseline(model, baseline, name, found)
    comparison = _check_champion(report, limits, found)
    if found.problems:
        return Verdict(REJECTED, tuple(found.problems), comparison)
    return Verdict(PASSED, tuple(found.checks), comparison)


def _check_left_out(
    report: object, model: Score | None, limits: GateConfig, found: _Findings
) -> None:
    """Checks that what the model has seen is known, and that enough of the test text is not."""
    words = model.words if model else 0
    left_out = read_words(report, "splits.test.left_out.words", found.problems, least=0)
    unknown = look_up(report, "splits.test.left_out.unknown", missing=MISSING)
    if unknown is not None:
        text = unknown if isinstance(unknown, str) and unknown else "left_out.unknown is no text"
        found.problems.append(f"it can't be known what test text the model has seen: {text}")
    if left_out is None:
        return
    text = f"{words:,} test words that no model has seen"
    if left_out:
        text += f" ({left_out:,} seen ones were left out)"
    if words < limits.min_test_words:
        found.problems.append(
            f"only {text}; {limits.min_test_words:,} are needed (gate.min_test_words), so take "
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


def _check_champion(report: object, limits: GateConfig, found: _Findings) -> Comparison | None:
    champion = look_up(report, "champion", missing=MISSING)
    if champion is None:
        found.checks.append("there is no champion to compare with")
        return None
    if not isinstance(champion, Mapping):
        lacking = "missing" if champion is MISSING else f"a {type(champion).__name__}"
        found.problems.append(f"champion is {lacking}; it must be a champion or null")
        return None
    refused = champion.get("refused", MISSING)
    if refused is not None:
        text = refused if isinstance(refused, str) and refused else "champion.refused is no text"
        found.problems.append(f"the champion can't be compared with: {text}")
        return None
    comparison = compare(report, limits, found.problems)
    if comparison:
        _check_difference(comparison, limits, found)
        _check_slices(comparison, limits, found)
    return comparison


def _check_difference(compared: Comparison, limits: GateConfig, found: _Findings) -> None:
    change = _percent(compared.perplexity_change)
    low = _percent(compared.perplexity_change_low)
    high = _percent(compared.perplexity_change_high)
    interval = (
        f"perplexity {change} ({limits.confidence:.0%} interval {low} to {high}, over "
        f"{compared.units:,} {compared.unit}s)"
    )
    if compared.relation == BETTER:
        found.checks.append(f"better than the champion: {interval}")
    elif compared.relation == WORSE:
        found.problems.append(f"worse than the champion: {interval}")
    elif limits.require_improvement:
        found.problems.append(f"not surely better than the champion, which is required: {interval}")
    elif compared.relation == UNCLEAR:
        found.problems.append(
            f"may be worse than the champion by more than {limits.tolerance:.2%}: {interval}; "
            "take more test text or train on (gate.tolerance)"
        )
    else:
        found.checks.append(
            f"not worse than the champion by more than {limits.tolerance:.2%}: {interval}"
        )


def _check_slices(compared: Comparison, limits: GateConfig, found: _Findings) -> None:
    worst = [
        change
        for change in compared.slices
        if change.change is not None and not change.change <= limits.max_slice_loss
    ]
    for change in worst:
        assert change.change is not None
        found.problems.append(
            f"perplexity of the slice {change.name} ({change.words:,} words) is "
            f"{_percent(change.change)} beside the champion's; at most "
            f"{_percent(limits.max_slice_loss)} is allowed (gate.max_slice_loss)"
        )
    if not worst:
        found.checks.append(
            f"no slice of the words is worse than the champion by more than "
            f"{limits.max_slice_loss:.1%}"
        )


def _percent(value: float) -> str:
    # 0.0 is added so that nothing becomes -0.00%.
    return f"{round(value, 4) + 0.0:+.2%}" if abs(value) < 1e6 else f"{value:+.2e}"
