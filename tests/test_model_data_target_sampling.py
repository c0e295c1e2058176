from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.config import TrainConfig
from model.data.target_sampling import SampledRows, TargetSampler, rare_shares
from model.errors import InputError

V, S = 30, 8
Int32Array = npt.NDArray[np.int32]


def make_sampler(size: int = V, *, words: int = S, seed: int = 1, **settings: Any) -> TargetSampler:
    config = TrainConfig(softmax="sampled", sampled_words=words, seed=seed, **settings)
    counts: Any = np.full(size, 7)
    return TargetSampler(config, counts)


@pytest.mark.parametrize(("size", "words"), [(V, S), (V, 1), (V, V // 2), (500, 250), (10**6, 999)])
def test_negatives_are_different_words(size: int, words: int) -> None:
    sampler = make_sampler(size, words=words)
    for step in range(20):
        negatives, tries = sampler.negatives(step)
        assert negatives.shape == (words,)
        assert negatives.dtype == np.int32
        assert len(set(negatives.tolist())) == words
        assert negatives.min() >= 0
        assert negatives.max() < size
        assert tries >= words


def test_negatives_depend_on_seed_and_step_only() -> None:
    def drawn(seed: int, step: int) -> tuple[list[int], int]:
        negatives, tries = make_sampler(500, words=50, seed=seed).negatives(step)
        return negatives.tolist(), tries

    assert drawn(1, 5) == drawn(1, 5)
    assert len({str(drawn(seed, step)) for seed in (1, 2) for step in (0, 1, 2)}) == 6
    sampler = make_sampler(500, words=50)
    sampler.negatives(4)  # nothing is remembered
    assert sampler.negatives(5)[0].tolist() == drawn(1, 5)[0]


def test_every_word_is_drawn_as_often_as_expected() -> None:
    sampler, steps = make_sampler(), 4000
    found, expected, draws = np.zeros(V), np.zeros(V), 0
    for step in range(steps):
        negatives, tries = sampler.negatives(step)
        found[negatives] += 1
        expected += np.exp(sampler.log_expected(np.arange(V, dtype=np.int32), tries))
        draws += tries
    assert found.sum() == S * steps
    # Of S different words each is there 8 times out of 30 or so; the log-uniform first
    # word nearly always. The expectation given `tries` is right to a few percent.
    np.testing.assert_allclose(found / steps, expected / steps, atol=0.025)
    assert expected.sum() / steps == pytest.approx(S, rel=0.02)
    assert found[0] > 0.85 * steps > 8 * found[V - 1] > 0
    assert draws > 1.3 * S * steps


def test_expected_by_hand() -> None:
    sampler = make_sampler(3, words=1)
    # log(2), log(3/2) and log(4/3) over log(4): one half, and so on.
    chances = np.log([2, 3 / 2, 4 / 3]) / np.log(4)
    assert chances.sum() == pytest.approx(1.0)
    for tries in (1, 2, 5, 1000):
        expected = np.log(1 - (1 - chances) ** tries)
        found = sampler.log_expected(np.arange(3, dtype=np.int32), tries)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # Of a rare word, where 1 - (1 - p)^n of small numbers would be lost.
    rare = make_sampler(10**6, words=1).log_expected(np.asarray([10**6 - 1], np.int32), 1)
    assert rare[0] == pytest.approx(np.log(1e-6 / np.log(1e6)), rel=1e-5)


def draw_rows(
    size: int, *, step: int = 3
) -> tuple[SampledRows, Int32Array, Int32Array, Int32Array]:
    random = np.random.default_rng(step)
    used = random.integers(0, size, 200).astype(np.int32)
    words, targets = np.unique(used[:60]).astype(np.int32), used[100:160].reshape(4, 15)
    sampler = make_sampler(size, words=min(50, size // 2))
    rows = sampler.rows(step=step, used=used, words=words, targets=targets)
    return rows, used, words, targets


@pytest.mark.parametrize("size", [100, 1 << 16, (1 << 16) + 1, 800_000])
def test_rows_hold_negatives_then_all_that_is_used(size: int) -> None:
    rows, used, words, targets = draw_rows(size)
    count = min(50, size // 2)
    sampler = make_sampler(size, words=count)
    negatives, tries = sampler.negatives(3)
    assert rows.ids[:count].tolist() == negatives.tolist()
    assert sorted(rows.ids.tolist()) == sorted({*negatives.tolist(), *used.tolist()})
    np.testing.assert_array_equal(rows.ids[rows.of_words], words)
    np.testing.assert_array_equal(rows.ids[rows.of_targets], targets)
    assert rows.of_targets.shape == targets.shape
    np.testing.assert_array_equal(rows.log_expected, sampler.log_expected(rows.ids, tries))
    kinds = {rows.ids.dtype, rows.of_words.dtype, rows.of_targets.dtype}
    assert kinds == {np.dtype("int32")}
    if size == 100:  # some targets are negatives too, and others are not
        assert {True, False} == set((rows.of_targets < count).ravel().tolist())


def test_both_ways_to_find_places_agree() -> None:
    # What is drawn depends on the size, so the words are few: places by array, and by search.
    used = np.asarray([5, 9, 9, 40, 3, 5], np.int32)
    for size in (1 << 16, (1 << 16) + 1):
        sampler = make_sampler(size, words=4)
        rows = sampler.rows(step=0, used=used, words=used[[0, 1, 3, 4]], targets=used[None])
        assert rows.ids[rows.of_targets].tolist() == [used.tolist()]
        assert rows.ids[rows.of_words].tolist() == [5, 9, 40, 3]
        assert len(rows.ids) == len(set(rows.ids.tolist()))


COUNTS = [50, 60, 0, 9, 5, 3, 2, 2, 1, 0]
"""The special words, and seven more; with rare_count 3 the last four are rare."""


def test_rare_shares() -> None:
    shares = rare_shares(TrainConfig(rare_count=3), COUNTS)
    # 3 - 2, 3 - 2, 3 - 1 and 3 - 0, of 7; `<s>`, with none, is no target.
    np.testing.assert_allclose(shares, [0, 0, 0, 0, 0, 0, 1 / 7, 1 / 7, 2 / 7, 3 / 7])
    assert not rare_shares(TrainConfig(rare_count=3), COUNTS[:6]).any()
    assert not rare_shares(TrainConfig(rare_count=1), COUNTS[:9]).any()


def make_replacing(rate: float, *, seed: int = 1) -> TargetSampler:
    return TargetSampler(TrainConfig(rare_targets=rate, rare_count=3, seed=seed), COUNTS)


def test_a_share_of_the_targets_is_replaced() -> None:
    sampler, targets = make_replacing(0.2), np.full((100, 200), 4, np.int32)
    replaced = sampler.replace(targets, step=7)
    assert (targets == 4).all()  # those given are left alone
    assert replaced.dtype == np.int32
    changed = replaced[replaced != 4]
    assert len(changed) / targets.size == pytest.approx(0.2, abs=0.012)  # 4 standard deviations
    shares = np.bincount(changed, minlength=10) / len(changed)
    np.testing.assert_allclose(shares, rare_shares(TrainConfig(), COUNTS), atol=0.03)
    assert not shares[:6].any()
    # In every lane and at every step.
    assert (replaced != 4).any(axis=0).all()
    assert (replaced != 4).any(axis=1).all()


def test_replacing_depends_on_seed_and_step_only() -> None:
    targets = np.full((8, 40), 4, np.int32)
    sampler = make_replacing(0.3)
    sampler.replace(targets, step=0)
    again = sampler.replace(targets, step=7)
    assert (make_replacing(0.3).replace(targets, step=7) == again).all()
    others = [
        make_replacing(0.3, seed=2).replace(targets, step=7),
        sampler.replace(targets, step=8),
    ]
    assert all((other != again).any() for other in others)


def test_nothing_is_replaced_without_a_share() -> None:
    targets = np.full((8, 40), 4, np.int32)
    assert make_replacing(0.0).replace(targets, step=1) is targets


def test_the_negatives_are_no_echo_of_the_replacements() -> None:
    # Two streams: whether words are replaced changes no negative.
    both = make_sampler(rare_targets=0.25, rare_count=9)
    targets = np.full((4, 5), 4, np.int32)
    both.replace(targets, step=2)
    assert both.negatives(2)[0].tolist() == make_sampler().negatives(2)[0].tolist()


def test_more_negatives_than_half_the_words_are_refused() -> None:
    assert make_sampler(16, words=8).is_sampled
    with pytest.raises(InputError) as caught:
        make_sampler(15, words=8)
    assert str(caught.value) == (
        "train.sampled_words is 8, more than half of the vocabulary's 15; lower it or use "
        "--set train.softmax=full"
    )
    assert not TargetSampler(TrainConfig(softmax="full"), [7] * 15).is_sampled


def test_rare_targets_without_rare_words_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        TargetSampler(TrainConfig(rare_targets=0.1, rare_count=2), [9, 9, 0, 3, 2])
    assert str(caught.value) == (
        "train.rare_targets is 0.1, but no word of the vocabulary has fewer than "
        "train.rare_count=2 targets; use --set train.rare_targets=0"
    )
    TargetSampler(TrainConfig(rare_count=2), [9, 9, 0, 3, 2])  # not asked for


def test_draws_of_a_seed_and_step_never_change() -> None:
    """A training that is resumed by another charloom goes on with the same words."""
    negatives, tries = make_sampler(500, words=6, seed=7).negatives(3)
    assert (negatives.tolist(), tries) == ([0, 1, 2, 3, 30, 267], 6)
    targets = np.full((2, 8), 4, np.int32)
    assert make_replacing(0.3).replace(targets, step=7).tolist() == [
        [4, 4, 4, 8, 4, 7, 6, 4],
        [4, 4, 8, 9, 8, 4, 4, 4],
    ]


def test_one_rare_word_is_enough() -> None:
    sampler = TargetSampler(TrainConfig(rare_targets=0.5, rare_count=2), [9, 9, 9, 1])
    replaced = sampler.replace(np.full((4, 8), 2, np.int32), step=0)
    assert set(replaced.ravel().tolist()) == {2, 3}
