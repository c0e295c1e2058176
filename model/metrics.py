"""Perplexity, and the metrics that a training has written so far. No TensorFlow here."""

from __future__ import annotations

import json
import math
import os
from typing import Any

METRICS_FILE = "metrics.jsonl"


def perplexity(log_likelihood: float, words: int) -> float:
    """Returns exp(-log-likelihood per word), inf where that overflows."""
    try:
        return math.exp(-log_likelihood / words)
    except OverflowError:
        return math.inf


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Returns the lines of a workdir's metrics file, up to a truncated line."""
    rows: list[dict[str, Any]] = []
    try:
        with open(os.path.join(workdir, METRICS_FILE), encoding="utf-8") as file:
            for line in file:
                rows.append(json.loads(line))
    except (FileNotFoundError, ValueError):
        pass
    return rows
