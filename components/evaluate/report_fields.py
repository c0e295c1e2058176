"""Looks up figures of a report that may be missing or wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


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
