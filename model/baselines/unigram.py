"""A smoothed unigram model: the simplest baseline, and the initial output bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def unigram_log_probabilities(vocab_counts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Returns `[V]` log((count + 1) / (all counts + V)): the baseline and the first output bias."""
    counts = np.asarray(vocab_counts, np.float64) + 1.0
    return np.asarray(np.log(counts) - np.log(counts.sum()))
