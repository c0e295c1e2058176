from __future__ import annotations

import math

import numpy as np
import pytest

from components.evaluate.intervals import effective_sources, estimate, student


@pytest.mark.parametrize(
    ("tail", "freedom", "value"),
    [  # from tables; one and two degrees of freedom have closed forms
        (0.025, 1.0, 12.70620474),
        (0.025, 2.0, 4.30265273),
        (0.00025, 2.0, 44.70458713),
        (0.025, 4.0, 2.77644511),
        (0.005, 9.0, 3.24983554),
        (0.025, 29.0, 2.04522964),
        (0.025, 30.0, 2.04227246),
        (0.025, 1e9, 1.95996398),
    ],
)
def test_quantiles_of_student(tail: float, freedom: float, value: float) -> None:
    assert student(tail, freedom) == pytest.approx(value, rel=1e-4)


def test_effective_sources() -> None:
    assert effective_sources(np.asarray([7.0] * 5)) == pytest.approx(5.0)
    assert effective_sources(np.asarray([[4.0, 0.0, 4.0], [0.0, 0.0, 0.0]])).tolist() == [2.0, 0.0]
    assert effective_sources(np.asarray([3.0, 1.0])) == pytest.approx(16 / 10)


def test_interval_of_even_sources_is_that_of_student() -> None:
    means = np.asarray([0.03, -0.01, 0.02, 0.05, 0.01])
    found = estimate(means * 50, np.full(5, 50.0), tail=0.025)
    half = 2.77644511 * means.std(ddof=1) / math.sqrt(5)
    assert float(found.mean) == pytest.approx(means.mean())
    assert float(found.low) == pytest.approx(means.mean() - half, rel=1e-5)
    assert float(found.high) == pytest.approx(means.mean() + half, rel=1e-5)


def test_opposite_differences_give_the_opposite_interval() -> None:
    random = np.random.default_rng(2)
    words = random.integers(0, 900, (4, 60)).astype(float)
    gaps = random.standard_t(3, (4, 60)) * np.sqrt(words)
    one, other = estimate(gaps, words, tail=0.005), estimate(-gaps, words, tail=0.005)
    np.testing.assert_allclose(one.low, -other.high, rtol=1e-12)
    np.testing.assert_allclose(one.high, -other.low, rtol=1e-12)
    assert (one.low < one.mean).all()
    assert (one.mean < one.high).all()


def test_trials_at_once_are_trials_one_by_one() -> None:
    random = np.random.default_rng(3)
    words = random.integers(1, 900, (2, 3, 40)).astype(float)
    gaps = random.standard_normal((2, 3, 40)) * words
    whole = estimate(gaps, words, tail=0.025)
    for at in np.ndindex(2, 3):
        alone = estimate(gaps[at], words[at], tail=0.025)
        np.testing.assert_allclose([one[at] for one in whole], alone, rtol=1e-12)


def test_a_source_without_words_does_not_count() -> None:
    words, gaps = np.asarray([5.0, 6.0, 7.0]), np.asarray([1.0, -1.0, 2.0])
    plain = estimate(gaps, words, tail=0.025)
    padded = estimate(np.append(gaps, 0.0), np.append(words, 0.0), tail=0.025)
    np.testing.assert_allclose(plain, padded)


def test_equal_models_have_an_interval_of_nothing() -> None:
    assert estimate(np.zeros(9), np.full(9, 3.0), tail=0.00025) == (0.0, 0.0, 0.0)
