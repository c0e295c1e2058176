"""Formats figures for people."""

from __future__ import annotations

from collections.abc import Callable

from components.html import NOT_AVAILABLE


def format_figure(value: float, digits: int = 2) -> str:
    """Formats a number for people: 1,234.50, or 1.235e+12 if it is huge."""
    return f"{value:,.{digits}f}" if abs(value) < 1e9 else f"{value:.{digits + 2}g}"


def format_apart(one: float, other: float) -> tuple[str, str]:
    """Formats two numbers with as many digits as it takes to tell them apart."""
    for digits in range(2, 16):
        texts = format_figure(one, digits), format_figure(other, digits)
        if texts[0] != texts[1]:
            return texts
    return format_figure(one), format_figure(other)


def format_or_missing(value: float | None, how: Callable[[float], str]) -> str:
    """Formats a number with `how`; None as not available."""
    return NOT_AVAILABLE if value is None else how(value)


def format_count(value: float) -> str:
    """Formats a whole number for people."""
    return f"{value:,.0f}"


def format_percent(value: float) -> str:
    """Formats a share for people."""
    return f"{value:.1%}".replace("%", "\u00a0%")
