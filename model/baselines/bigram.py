"""An interpolated bigram model: the baseline for a model that reads more than one word.

After Jelinek and Mercer (1980). For a word w after the word v, which precedes another word n(v)
times in training:

  p(w | v) = share(v) count(v, w) / n(v) + (1 - share(v)) p(w)

with the smoothed unigram p of `model.baselines.unigram`. All v in the same bucket of n(v) (1, 2-3,
4-7, ...) have the same share; the share of an unseen word is 0. Expectation maximisation fits the
shares to the validation split. Each bucket gets one pseudo-word, split by the fixed rule `sqrt(n) /
(sqrt(n) + RULE)` at the bucket's lower end, so that the rule decides where validation has no data
and no share becomes 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from model.baselines.unigram import unigram_log_probabilities
from model.data.records import Dataset
from model.data.seen import Mask
from model.data.sorted_lookup import find

RULE = 8.0
"""Constant of the fixed rule, whose perplexity is within 5 % of the fitted one
(docs/decisions/0015)."""
_BUCKETS = 64
_ROUNDS, _PRECISION = 200, 1e-7
_CHUNK = 1 << 20
"""Words counted at a time."""

IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class BigramModel:
    """A bigram model over the pairs that occur in the validation and test splits.

    Memory grows with the distinct pairs of these two splits, not with the training text.

    Attributes:
      shares: `[64]` share of each bucket, indexed by the bit length of n(v).
    """

    def __init__(self, dataset: Dataset, *, left_out: Mask | None = None):
        """Counts pairs in the training split, then fits the shares to the validation split.

        Args:
          dataset: the records.
          left_out: `[records]` test records that are not scored.

        Raises:
          InputError: a shard is damaged.
        """
        self._size = len(dataset.vocab)
        self._unigram = np.exp(unigram_log_probabilities(dataset.vocab.counts))
        valid, times = _distinct(self._pairs(dataset, "valid"))
        test, self._test_times = _distinct(self._pairs(dataset, "test", left_out))
        self._known = np.union1d(valid, test)
        self._counts = np.zeros(len(self._known), np.int64)
        self._read = np.zeros(self._size, np.int64)
        for pairs in self._pairs(dataset, "train"):
            self._read += np.bincount(pairs // self._size, minlength=self._size)
            self._count(pairs)
        # Bits of n: 0, 1, 2 for 2 and 3, 3 for 4 to 7.
        self._bucket = np.frexp(self._read.astype(np.float64))[1]
        least = np.exp2(np.arange(_BUCKETS) - 1.0)
        least[0] = 0.0
        self.shares = np.sqrt(least) / (np.sqrt(least) + RULE)
        self._fit(valid, times)
        self._test = test

    def log_probabilities(self, contexts: IntArray, words: IntArray) -> Floats:
        """Returns `[N]` log p(word | context) for pairs of the validation or test split."""
        pairs = contexts * self._size + words
        share, of_pairs = self.shares[self._bucket[contexts]], self._share_of_pairs(pairs)
        scores: Floats = np.log(share * of_pairs + (1 - share) * self._unigram[words])
        return scores

    def test_log_likelihood(self) -> float:
        """Returns the log-likelihood of the test split, in nats."""
        contexts, words = np.divmod(self._test, self._size)
        return float(self._test_times @ self.log_probabilities(contexts, words))

    def _pairs(
        self, dataset: Dataset, split: str, left_out: Mask | None = None
    ) -> Iterator[IntArray]:
        """Yields a split's pairs as numbers, v * V + w, in chunks."""
        parts: list[IntArray] = []
        waiting = 0
        kept = np.ones(len(dataset.lengths(split)), np.bool_) if left_out is None else ~left_out
        for index in np.flatnonzero(kept).tolist():
            ids = dataset.read_word_ids(split, index)
            parts.append(ids[:-1] * self._size + ids[1:])
            waiting += len(ids) - 1
            if waiting >= _CHUNK:
                yield np.concatenate(parts)
                parts, waiting = [], 0
        yield np.concatenate([np.zeros(0, np.int64), *parts])

    def _count(self, pairs: IntArray) -> None:
        distinct, times = np.unique(pairs, return_counts=True)
        at, found = find(self._known, distinct)
        self._counts[at] += times[found]

    def _share_of_pairs(self, pairs: IntArray) -> Floats:
        """Returns count(v, w) / n(v) for known pairs, 0 where v never occurred."""
        counts = self._counts[np.searchsorted(self._known, pairs)]
        shares: Floats = counts / np.maximum(self._read[pairs // self._size], 1)
        return shares

    def _fit(self, pairs: IntArray, times: IntArray) -> None:
        contexts, words = np.divmod(pairs, self._size)
        bucket, rule = self._bucket[contexts], self.shares
        of_pairs, of_words = self._share_of_pairs(pairs), self._unigram[words]
        there = np.bincount(bucket, times, _BUCKETS)
        for _ in range(_ROUNDS):
            share, before = self.shares[bucket], self.shares
            ours = share * of_pairs / (share * of_pairs + (1 - share) * of_words)
            self.shares = (np.bincount(bucket, times * ours, _BUCKETS) + rule) / (there + 1)
            self.shares[0] = 0.0
            if np.abs(self.shares - before).max() < _PRECISION:
                break


def _distinct(parts: Iterable[IntArray]) -> tuple[IntArray, IntArray]:
    """Returns the distinct numbers of all parts, sorted, and how often each occurs."""
    return np.unique(np.concatenate(list(parts)), return_counts=True)
