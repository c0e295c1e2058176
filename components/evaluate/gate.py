"""The gate: may this model be exported? Pure, and closed unless everything is clear.

Whatever the report lacks or contradicts is a reason to reject, so a defect upstream
never lets a model through. Perplexities are computed here from the sums; the ratios in
the report only have to agree with them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from model.config import GateConfig

PASSED = "PASSED"
REJECTED = "REJECTED"

REPORT_FORMAT = 2
"""The `format_version` of the reports that the gate understands."""

AGREEMENT = 1e-6
"""Relative difference allowed between a perplexity in the report and its sums."""

_MAX_WORDS = (1 << 63) - 1
_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why."""

    status: str
    """`PASSED` or `REJECTED`."""
    reasons: tuple[str, ...]
    """If rejected, everything that speaks against the model; if passed, what was checked."""

    @property
    def passed(self) -> bool:
        """Whether the model may be exported."""
        return self.status == PASSED

    def to_dict(self) -> dict[str, Any]:
        """Returns the verdict as plain JSON values."""
        return {"status": self.status, "reasons": list(self.reasons)}


@dataclasses.dataclass(frozen=True)
class _Score:
    """A checked sum over the test words."""

    log_likelihood: float
    words: int
    perplexity: float


def decide(report: Mapping[str, Any], *, limits: GateConfig) -> Verdict:
    """Decides whether the model of a report may be exported.

    The rules: the test perplexity is at most `limits.max_perplexity`, and not above the
    unigram baseline's on the same words.

    Args:
      report: what `evaluate_checkpoint` returns, without JSON's nulls for non-finite numbers.
      limits: what the model must reach.

    Returns:
      PASSED with what was checked, or REJECTED with all that fails.
    """
    problems: list[str] = []
    version = look_up(report, "format_version")
    if type(version) is not int or version != REPORT_FORMAT:
        problems.append(f"format_version is not {REPORT_FORMAT}, which is all this gate reads")
    model = _read_score(report, "splits.test", problems)
    unigram = _read_score(report, "baseline.unigram", problems)
    checks = []
    if model:
        ours, limit = _format_apart(model.perplexity, limits.max_perplexity)
        if model.perplexity <= limits.max_perplexity:
            checks.append(f"test perplexity {ours} is at most the limit of {limit}")
        else:
            problems.append(
                f"test perplexity {ours} is above the limit of {limit} (gate.max_perplexity)"
            )
    if model and unigram and model.words != unigram.words:
        problems.append(
            f"the unigram baseline was scored on {unigram.words:,} words and the model on "
            f"{model.words:,}; they must be the same"
        )
    elif model and unigram:
        ours, theirs = _format_apart(model.perplexity, unigram.perplexity)
        same = f"the unigram baseline's {theirs} on the same {model.words:,} words"
        # On the same words the sums compare exactly, without the rounding of exp.
        if model.log_likelihood >= unigram.log_likelihood:
            checks.append(f"test perplexity {ours} is not above {same}")
        else:
            problems.append(f"test perplexity {ours} is above {same}")
    return Verdict(REJECTED, tuple(problems)) if problems else Verdict(PASSED, tuple(checks))


def look_up(report: object, path: str, *, missing: object = None) -> Any:
    """Returns the value at a dotted path of nested mappings, or `missing`."""
    value = report
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return missing
        value = value[key]
    return value


def format_figure(value: float, digits: int = 2) -> str:
    """Returns a number for people, as 1,234.50; a huge one as 1.235e+12."""
    return f"{value:,.{digits}f}" if abs(value) < 1e9 else f"{value:.{digits + 2}g}"


def _format_apart(one: float, other: float) -> tuple[str, str]:
    """Formats two numbers with as many digits as it takes to tell them apart."""
    for digits in range(2, 16):
        texts = format_figure(one, digits), format_figure(other, digits)
        if texts[0] != texts[1]:
            return texts
    return format_figure(one), format_figure(other)


def _read_score(report: object, path: str, problems: list[str]) -> _Score | None:
    """Reads the sums at `path`; says in `problems` what is wrong with them."""
    words = _read_words(report, f"{path}.words", problems)
    total = _read_number(report, f"{path}.log_likelihood", problems)
    stated = _read_number(report, f"{path}.perplexity", problems)
    if total is not None and total >= 0:
        # An empty sum is 0 too; a softmax never gives every word of a text probability 1.
        problems.append(f"{path}.log_likelihood is {total:g}; it must be below 0")
        return None
    if words is None or total is None:
        return None
    try:
        perplexity = math.exp(-total / words)
    except OverflowError:
        problems.append(f"{path}.log_likelihood is {total:g} over {words:,} words, beyond counting")
        return None
    if stated is None:
        return None
    if not math.isclose(stated, perplexity, rel_tol=AGREEMENT):
        said, computed = _format_apart(stated, perplexity)
        problems.append(f"{path}.perplexity is {said}, but its sums give {computed}")
        return None
    return _Score(total, words, perplexity)


def _read_words(report: object, path: str, problems: list[str]) -> int | None:
    value = look_up(report, path, missing=_MISSING)
    if value is _MISSING:
        problems.append(f"{path} is missing")
    elif not isinstance(value, int) or isinstance(value, bool):
        problems.append(f"{path} is a {type(value).__name__}; it must be a whole number")
    elif value > _MAX_WORDS or value < -_MAX_WORDS:
        problems.append(f"{path} is beyond counting")
    elif value < 1:
        problems.append(f"{path} is {value:,}; it must be at least 1")
    else:
        return value
    return None


def _read_number(report: object, path: str, problems: list[str]) -> float | None:
    value = look_up(report, path, missing=_MISSING)
    if value is _MISSING:
        problems.append(f"{path} is missing")
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        problems.append(f"{path} is a {type(value).__name__}; it must be a number")
        return None
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        problems.append(f"{path} is {number}; it must be finite")
        return None
    return number
