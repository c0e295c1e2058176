"""The configuration of the gate; see `model.config`."""

from __future__ import annotations

import dataclasses

from model.checks import check_choice, check_range

BASELINES = ("unigram", "bigram")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What a model must reach before it is exported."""

    max_perplexity: float = 1000.0
    """Test perplexity above which the model is rejected."""
    beat: tuple[str, ...] = BASELINES
    """Baselines, made from the same records, that the model must not be above."""
    tolerance: float = 0.005
    """Non-inferiority margin: largest relative perplexity increase over the champion at the
    interval's upper end."""
    max_drift: float = 0.02
    """The same over the best version so far, however many champions there were since. Its interval
    allows for a hundred comparisons."""
    require_improvement: bool = False
    """Reject a model that is not significantly better than the champion."""
    confidence: float = 0.95
    """Level of the two-sided interval of the difference from the champion."""
    min_units: int = 5
    """Files of equal size from which the test text must come to compare at all."""
    min_test_words: int = 100
    """Test words that no model of the comparison has seen, and that a verdict needs at least."""
    max_slice_loss: float = 0.05
    """Relative perplexity increase over the champion that no slice of the words may exceed
    significantly."""

    def __post_init__(self) -> None:
        check_range("gate.max_perplexity", self.max_perplexity, 1.0, 1e12)
        for name in self.beat:
            check_choice("gate.beat", name, BASELINES)
        check_range("gate.tolerance", self.tolerance, 0.0, 1.0)
        check_range("gate.max_drift", self.max_drift, 0.0, 1.0)
        check_range("gate.confidence", self.confidence, 0.5, 0.9999)
        check_range("gate.min_units", self.min_units, 5, 1_000_000)
        check_range("gate.min_test_words", self.min_test_words, 1, 1 << 40)
        check_range("gate.max_slice_loss", self.max_slice_loss, 0.0, 1e6)
