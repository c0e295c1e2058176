from __future__ import annotations

import math
from pathlib import Path

import pytest

from model.metrics import perplexity, read_metrics


def test_perplexity() -> None:
    assert perplexity(-2 * math.log(50.0), 2) == pytest.approx(50.0)
    assert perplexity(0.0, 3) == 1.0
    assert perplexity(-1e6, 1) == math.inf
    assert math.isnan(perplexity(math.nan, 1))


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(str(tmp_path)) == []
