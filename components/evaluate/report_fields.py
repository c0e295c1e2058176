"""Reads figures of a report that may be missing or wrong; writes figures for people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

AGREEMENT = 1e-6
"""Relative difference allowed between a figure in the report and the sums it is made of."""

MISSING: Any = object()
"""What `look_up` can return of a path that leads nowhere."""

_MAX_WORDS = (1 << 63) - 1


@dataclasses.dataclass(frozen=True)
class Score:
    """A checked sum over some words."""

    log_likelihood: float
    words: int
    perplexity: float


def look_up(report: object, path: str, *, missing: object = None) -> Any:
    """Returns the value at a dotted path of nested mappings, or `missing`."""
    value = report
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return missing
        value = value[key]
    return value


def find_number(values: object, path: str) -> float | None:
    """Returns the finite number at a dotted path, or None."""
    value = look_up(values, path)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def find_items(values: object, path: str) -> Sequence[Any]:
    """Returns the list at a dotted path, or an empty one."""
    value = look_up(values, path)
    return value if isinstance(value, list | tuple) else []


def format_figure(value: float, digits: int = 2) -> str:
    """Returns a number for people, as 1,234.50; a huge one as 1.235e+12."""
    return f"{value:,.{digits}f}" if abs(value) < 1e9 else f"{value:.{digits + 2}g}"


def format_apart(one: float, other: float) -> tuple[str, str]:
    """Formats two numbers with as many digits as it takes to tell them apart."""
    for digits in range(2, 16):
        texts = format_figure(one, digits), format_figure(other, digits)
        if texts[0] != texts[1]:
            return texts
    return format_figure(one), format_figure(other)


def read_score(report: object, path: str, problems: list[str]) -> Score | None:
    """Reads the sums at `path`; says in `problems` what is wrong with them."""
    words = read_words(report, f"{path}.words", problems)
    total = read_number(report, f"{path}.log_likelihood", problems)
    stated = read_number(report, f"{path}.perplexity", problems)
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
        said, computed = format_apart(stated, perplexity)
        problems.append(f"{path}.perplexity is {said}, but its sums give {computed}")
        return None
    return Score(total, words, perplexity)


def read_words(report: object, path: str, problems: list[str], *, least: int = 1) -> int | None:
    """Reads a number of words, at least `least`; says in `problems` what is wrong with it."""
    value = look_up(report, path, missing=MISSING)
    if value is MISSING:
        problems.append(f"{path} is missing")
    elif not isinstance(value, int) or isinstance(value, bool):
        problems.append(f"{path} is a {type(value).__name__}; it must be a whole number")
    elif value > _MAX_WORDS or value < -_MAX_WORDS:
        problems.append(f"{path} is beyond counting")
    elif value < least:
        problems.append(f"{path} is {value:,}; it must be at least {least}")
    else:
        return value
    return None


def read_number(report: object, path: str, problems: list[str]) -> float | None:
    """Reads a finite number; says in `problems` what is wrong with it."""
    value = look_up(report, path, missing=MISSING)
    if value is MISSING:
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
