"""What of a test's cases only `make test-all` runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def keep_first(cases: Iterable[Any], count: int = 1) -> list[Any]:
    """Returns cases for `parametrize`: those after the first `count` are marked `extra`.

    A case of several arguments is a tuple, as `parametrize` takes it.
    """
    if count < 1:
        raise ValueError("at least one case stays: mark the whole test instead")
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*row, marks=[pytest.mark.extra] if place >= count else [])
        for place, row in enumerate(rows)
    ]
