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
    """By what part the perplexity may be above the champion's, at the interval's upper end."""
    require_improvement: bool = False
    """Whether a model that may be no better than the champion is rejected."""
    confidence: float = 0.95
    """Level of the two-sided interval of the difference from the champion."""
    min_units: int = 20
    """Documents, or blocks of 1,000 words, of equal length that a comparison needs."""
    min_test_words: int = 100
    """Test words that no model of the comparison has seen, and that a verdict needs at least."""
    max_slice_loss: float = 0.05
    """By what part the perplexity of a slice of words may be above the champion's."""

    def __post_init__(self) -> None:
        check_range("gate.max_perplexity", self.max_perplexity, 1.0, 1e12)
        for name in self.beat:
            check_choice("gate.beat", name, BASELINES)
        check_range("gate.tolerance", self.tolerance, 0.0, 1.0)
        check_range("gate.confidence", self.confidence, 0.5, 0.9999)
        check_range("gate.min_units", self.min_units, 5, 1_000_000)
        check_range("gate.min_test_words", self.min_test_words, 1, 1 << 40)
        check_range("gate.max_slice_loss", self.max_slice_loss, 0.0, 1e6)
