"""Random draws for a step's targets, on the host: negatives and rare words.

Draws are a function of (seed, step), for all lanes at once, so all workers draw the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.config import TrainConfig
from model.errors import InputError
from model.text.vocab import UNK_ID

Int32Array = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_RARE, _NEGATIVES = 1, 2
"""Random streams in addition to the one for the order of records."""


@dataclasses.dataclass(frozen=True)
class SampledRows:
    """The vocabulary rows that a step uses, over all workers."""

    ids: Int32Array
    """`[R]` distinct words; the first S are the negatives."""
    log_expected: npt.NDArray[np.float32]
    """`[R]` log of the expected count of each among the S."""
    of_words: Int32Array
    """`[U]` position in `ids` of each distinct word that this worker reads."""
    of_targets: Int32Array
    """`[b, T]` position in `ids` of each of its targets."""


class TargetSampler:
    """Draws the negatives of the sampled softmax, and rare words that replace targets."""

    def __init__(self, config: TrainConfig, vocab_counts: Sequence[int]):
        """Precomputes both distributions.

        Args:
          config: `softmax`, `sampled_words`, `rare_targets`, `rare_count` and `seed`.
          vocab_counts: `[V]` training targets of each word, most frequent first after the
            special words.

        Raises:
          InputError: `sampled_words` exceeds half the vocabulary, or no word is rare.
        """
        self.is_sampled = config.softmax == "sampled"
        self._config = config
        self._size = len(vocab_counts)
        if self.is_sampled and config.sampled_words > self._size // 2:
            raise InputError(
                f"train.sampled_words is {config.sampled_words}, more than half of the vocabulary's "
                f"{self._size}; lower it or use --set train.softmax=full"
            )
        self._rare = np.cumsum(rare_shares(config, vocab_counts))
        if config.rare_targets and self._rare[-1] == 0.0:
            raise InputError(
                f"train.rare_targets is {config.rare_targets}, but no word of the vocabulary has "
                f"fewer than train.rare_count={config.rare_count} targets; use "
                "--set train.rare_targets=0"
            )

    def replace(self, targets: Int32Array, *, step: int) -> Int32Array:
        """Returns all targets `[B, T]` of a step, a share of them replaced by rare words."""
        if not self._config.rare_targets:
            return targets
        random = np.random.default_rng([self._config.seed, _RARE, step])
        chosen = random.random(targets.shape) < self._config.rare_targets
        replaced = targets.copy()
        draws = random.random(int(chosen.sum()))
        rare = np.searchsorted(self._rare, draws, side="right")
        replaced[chosen] = np.minimum(rare, self._size - 1)  # the sum may round below 1
        return replaced

    def rows(
        self, *, step: int, used: Int32Array, words: Int32Array, targets: Int32Array
    ) -> SampledRows:
        """Draws a step's negatives and gathers the rows it needs.

        Args:
          step: counted from 0.
          used: `[n]` all words read and all targets of all workers.
          words: `[U]` distinct words that this worker reads.
          targets: `[b, T]` its targets.
        """
        negatives, tries = self.negatives(step)
        place = np.full(self._size, -1, np.int32) if self._size <= 1 << 16 else None
        others = np.setdiff1d(used, negatives)
        ids = np.concatenate([negatives, others.astype(np.int32)])
        if place is not None:
            place[ids] = np.arange(len(ids), dtype=np.int32)
            of_words, of_targets = place[words], place[targets]
        else:  # avoids an array over the whole vocabulary
            order = np.argsort(ids)
            sorted_ids = ids[order]
            of_words = order[np.searchsorted(sorted_ids, words)].astype(np.int32)
            of_targets = order[np.searchsorted(sorted_ids, targets)].astype(np.int32)
        return SampledRows(ids, self.log_expected(ids, tries), of_words, of_targets)

    def negatives(self, step: int) -> tuple[Int32Array, int]:
        """Draws S distinct words, log-uniform over ranks; also returns the number of draws."""
        count = self._config.sampled_words
        random = np.random.default_rng([self._config.seed, _NEGATIVES, step])
        drawn = np.empty(0, np.int64)
        while True:
            uniform = random.random(2 * count)
            more = np.exp(uniform * np.log(self._size + 1)).astype(np.int64) - 1
            drawn = np.concatenate([drawn, np.minimum(more, self._size - 1)])
            _, first = np.unique(drawn, return_index=True)
            if len(first) >= count:
                first = np.sort(first)[:count]
                # Sorted, so that tables are read in memory order.
                return np.sort(drawn[first]).astype(np.int32), int(first[-1]) + 1

    def log_expected(self, ids: Int32Array, tries: int) -> npt.NDArray[np.float32]:
        """Returns `[R]` log probability that each word is among those of `tries` draws."""
        ranks = ids.astype(np.float64)
        chance = np.log1p(1.0 / (ranks + 1.0)) / np.log(self._size + 1)
        return np.asarray(np.log(-np.expm1(tries * np.log1p(-chance))), np.float32)


def rare_shares(config: TrainConfig, vocab_counts: Sequence[int]) -> Floats:
    """Returns `[V]` each word's share of the replaced targets; zeros if no word is rare."""
    counts = np.asarray(vocab_counts, np.float64)
    short = np.maximum(config.rare_count - counts, 0.0)
    short[: UNK_ID + 2] = 0.0  # the special words
    return np.asarray(short / max(short.sum(), 1.0))
