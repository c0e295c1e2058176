from __future__ import annotations

import math

import numpy as np
import pytest

from model.baselines.unigram import unigram_log_probabilities


def test_counts_are_smoothed_by_one() -> None:
    shares = unigram_log_probabilities([0, 3, 1, 9])
    expected = [math.log((count + 1) / 17) for count in (0, 3, 1, 9)]
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    assert np.exp(shares).sum() == pytest.approx(1.0)
