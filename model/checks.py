"""Checks of single config fields."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from model.errors import InputError


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises InputError unless a field's value is within a range."""
    if not low <= value <= high:  # also false for NaN
        raise InputError(f"{name} is {value}; it must be between {low} and {high}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises InputError, with the nearest choice, unless a field has one of its values."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(choices)}{hint}")
