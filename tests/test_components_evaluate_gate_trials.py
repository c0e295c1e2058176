"""How often the gate is wrong, on simulated pairs of models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gate_reports import sums, with_champion
from volume import keep_first

from components.evaluate.comparison import BETTER
from components.evaluate.gate import decide
from model.config import GateConfig

LIMITS = GateConfig(require_improvement=True)
TRIALS = 1_000
SPREAD = 0.4
"""Of the log-likelihood per word of documents, as on State of the Union and Brown."""
APART = 0.05
"""Of the difference of two models on one document of 1,000 words."""


def simulated(random: Any, lengths: list[int], *, better_by: float = 0.0) -> dict[str, Any]:
    """Returns a report on two models, the first better by a part of its perplexity."""
    count = len(lengths)
    base = -4.6 + SPREAD * random.standard_normal(count)
    apart = APART * np.sqrt(1_000 / np.asarray(lengths)) * random.standard_normal(count)
    shift = -math.log1p(-better_by)
    return with_champion(sums(base + apart + shift, lengths), sums(base, lengths))


def found_better(seed: int, *, documents: int, words: int, even: bool, better_by: float) -> int:
    """Returns in how many of `TRIALS` the gate says that the first is better."""
    random = np.random.default_rng(seed)
    times = 0
    for _ in range(TRIALS):
        shares = np.ones(documents) if even else random.lognormal(0.0, 0.5, documents)
        lengths = np.maximum(1, words * shares / shares.sum()).astype(int).tolist()
        verdict = decide(simulated(random, lengths, better_by=better_by), limits=LIMITS)
        assert verdict.comparison is not None
        assert verdict.passed == (verdict.comparison.relation == BETTER)
        times += verdict.passed
    return times


@pytest.mark.slow
@pytest.mark.parametrize(("documents", "even"), keep_first([(60, False), (25, True), (200, True)]))
def test_of_two_equal_models_none_is_found_better(documents: int, even: bool) -> None:
    times = found_better(
        documents, documents=documents, words=1_000 * documents, even=even, better_by=0.0
    )
    assert 0 < times <= 0.03 * TRIALS  # 2.5 % are to be expected


@pytest.mark.slow
@pytest.mark.parametrize("even", keep_first([False, True]))
def test_two_per_cent_are_found_on_200_000_words(even: bool) -> None:
    times = found_better(7, documents=200, words=200_000, even=even, better_by=0.02)
    assert times >= 0.95 * TRIALS
