from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from model.baselines import bigram
from model.baselines.bigram import RULE, BigramModel
from model.baselines.unigram import unigram_log_probabilities
from model.data.records import Dataset
from model.text.vocab import BOS_ID, EOS_ID, UNK_ID, Vocabulary

A, B, C = 3, 4, 5
VOCAB = Vocabulary(words=("</s>", "<unk>", "<s>", "a", "b", "c"), counts=(2, 1, 0, 4, 3, 0))


class Records:
    """What the model reads of a `Dataset`, of given ids."""

    def __init__(self, vocab: Vocabulary = VOCAB, **splits: Sequence[Sequence[int]]):
        self.vocab = vocab
        self._splits: Mapping[str, Sequence[Sequence[int]]] = {
            "valid": [], "test": [], **splits
        }  # fmt: skip

    def lengths(self, split: str) -> Any:
        return np.asarray([len(ids) - 1 for ids in self._splits[split]], np.int64)

    def read_word_ids(self, split: str, index: int) -> Any:
        return np.asarray(self._splits[split][index], np.int64)


TRAIN = [
    [BOS_ID, A, B, A, B, EOS_ID],  # <s> a, a b, b a, a b, b </s>
    [BOS_ID, A, A, UNK_ID, B, EOS_ID],  # <s> a, a a, a <unk>, <unk> b, b </s>
]
PAIRS = collections.Counter(pair for ids in TRAIN for pair in itertools.pairwise(ids))
EVERY = [list(pair) for pair in itertools.product(range(6), repeat=2)]


def model_of(**splits: Sequence[Sequence[int]]) -> BigramModel:
    return BigramModel(Records(**splits))  # type: ignore[arg-type]


def probability(model: BigramModel, context: int, word: int) -> float:
    return math.exp(model.log_probabilities(np.asarray([context]), np.asarray([word]))[0])


def rule(count: int) -> float:
    return math.sqrt(count) / (math.sqrt(count) + RULE)


def test_exact_values_by_the_fixed_rule() -> None:
    model = model_of(train=TRAIN, test=EVERY)
    unigram = [(count + 1) / 16 for count in VOCAB.counts]
    # a is read 4 times, before b twice; b 3 times, which is in the bucket of 2.
    share = rule(4)
    assert probability(model, A, B) == pytest.approx(
        share * 2 / 4 + (1 - share) * 4 / 16, rel=1e-12
    )
    assert probability(model, A, C) == pytest.approx((1 - share) * 1 / 16, rel=1e-12)
    share = rule(2)
    assert probability(model, B, EOS_ID) == pytest.approx(
        share * 2 / 3 + (1 - share) * 3 / 16, rel=1e-12
    )
    assert probability(model, BOS_ID, A) == pytest.approx(share + (1 - share) * 5 / 16, rel=1e-12)
    share = rule(1)
    assert probability(model, UNK_ID, B) == pytest.approx(share + (1 - share) * 4 / 16, rel=1e-12)
    for word in range(6):  # c and </s> were never read
        assert probability(model, C, word) == pytest.approx(unigram[word], rel=1e-12)
        assert probability(model, EOS_ID, word) == pytest.approx(unigram[word], rel=1e-12)


@pytest.mark.parametrize("valid", [[], [[BOS_ID, A, B, C, EOS_ID, A, UNK_ID]]])
def test_probabilities_after_each_word_add_up_to_one(valid: list[list[int]]) -> None:
    model = model_of(train=TRAIN, valid=valid, test=EVERY)
    for context in range(6):
        total = sum(probability(model, context, word) for word in range(6))
        assert total == pytest.approx(1.0, abs=1e-12)


def fitted(valid: Sequence[Sequence[int]], bits: int, start: float) -> float:
    """The share of one bucket by expectation and maximisation, word for word."""
    read = collections.Counter(v for v, _ in PAIRS.elements())
    pairs = [
        (v, w) for ids in valid for v, w in itertools.pairwise(ids) if read[v].bit_length() == bits
    ]
    share = start
    for _ in range(1000):
        ours = 0.0
        for v, w in pairs:
            of_pair = share * PAIRS[v, w] / read[v]
            ours += of_pair / (of_pair + (1 - share) * (VOCAB.counts[w] + 1) / 16)
        share = (ours + start) / (len(pairs) + 1)
    return share


def test_shares_fit_the_validation_split() -> None:
    valid = [[A, B, B, A, A, C, A, B, EOS_ID, A], [BOS_ID, B, EOS_ID, C, A, UNK_ID]]
    model = model_of(train=TRAIN, valid=valid, test=EVERY)
    for bits, least in ((1, 1), (2, 2), (3, 4)):
        expected = fitted(valid, bits, rule(least))
        assert model.shares[bits] == pytest.approx(expected, abs=1e-5)
    assert model.shares[3] > rule(4) + 0.1  # "a b" is as frequent in both
    assert model.shares[0] == 0.0
    assert model.shares[4] == pytest.approx(rule(8))  # no word was read so often


def test_fitted_shares_are_better_on_what_they_fit() -> None:
    valid = [[A, B, A, B, A, B, EOS_ID]] * 3
    fit, fixed = model_of(train=TRAIN, valid=valid), model_of(train=TRAIN, test=valid)
    contexts, words = np.asarray(valid)[:, :-1].ravel(), np.asarray(valid)[:, 1:].ravel()
    ours, theirs = (one.log_probabilities(contexts, words).sum() for one in (fit, fixed))
    assert ours > theirs
    assert theirs == pytest.approx(fixed.test_log_likelihood())


def test_log_likelihood_counts_every_word_of_the_test() -> None:
    test = [[BOS_ID, A, B, A, B, C], [C, C, A, B]]
    model = model_of(train=TRAIN, test=test)
    expected = sum(
        math.log(probability(model, v, w)) for ids in test for v, w in itertools.pairwise(ids)
    )
    assert model.test_log_likelihood() == pytest.approx(expected, rel=1e-12)


def test_empty_splits() -> None:
    model = model_of(train=TRAIN)
    assert model.test_log_likelihood() == 0.0
    assert model.log_probabilities(np.zeros(0, np.int64), np.zeros(0, np.int64)).shape == (0,)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    valid = [[A, B, C, A, A]]
    whole = model_of(train=TRAIN, valid=valid, test=EVERY)
    monkeypatch.setattr(bigram, "_CHUNK", 1)
    parts = model_of(train=TRAIN, valid=valid, test=EVERY)
    assert parts.shares.tolist() == whole.shares.tolist()
    assert parts.test_log_likelihood() == whole.test_log_likelihood()


def test_of_real_records_it_beats_unigrams(tiny_records: str) -> None:
    with Dataset.open(tiny_records) as dataset:
        model = BigramModel(dataset)
        read = [dataset.read("test", index) for index in range(len(dataset.lengths("test")))]
        pairs = [pair for one in read for pair in itertools.pairwise(one.word_ids.tolist())]
        contexts, words = (np.asarray(one) for one in zip(*pairs, strict=True))
        total = model.log_probabilities(contexts, words).sum()
        assert model.test_log_likelihood() == pytest.approx(total, rel=1e-12)
        unigram = unigram_log_probabilities(dataset.vocab.counts)[words].sum()
        assert unigram < total < 0
