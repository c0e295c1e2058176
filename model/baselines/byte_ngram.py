"""Probability of a spelling: what an unknown word costs in addition to `<unk>`.

An interpolated byte n-gram (Witten and Bell 1991) over the distinct words of the training
text, each taken once. A word is `<begin>`, its bytes, `<end>`; of a byte s after the
context h, which occurred n(h) times followed by D(h) different bytes:
  p(s | h) = (count(h, s) + D(h) p(s | h without its first byte)) / (n(h) + D(h))

and below the empty context all 257 symbols are equally likely. Every context reserves probability
for `<end>`, so the probabilities of all byte strings add up to 1. Symbols: the 256 bytes, `<end>`,
and `<begin>`, which is read but never predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.data.records import Dataset
from model.data.sorted_lookup import find
from model.text.vocab import SPECIAL_WORDS, Vocabulary

ORDER = 6
"""Symbols in an n-gram, including the predicted one; docs/decisions/0015 has the measurement."""
SAMPLE_WORDS = 2_000_000
"""Approximate number of training words searched for distinct ones."""
MAX_TYPES = 50_000
MAX_TYPE_BYTES = 8 << 20
"""Maximum number of distinct words to learn spellings from, and of their bytes: counting takes about
100 bytes of memory for each; the longest words are left out."""
HELD_BYTES = 64 << 20
"""Maximum bytes of unknown words to choose from; the longest are left out."""
WORDS_KEY, LENGTHS_KEY = "spelling/words", "spelling/lengths"
KEYS = (WORDS_KEY, LENGTHS_KEY)
"""Names of the spelling model's arrays in a checkpoint."""

_END, _BEGIN = 256, 257
_SYMBOLS = 258
_CHUNK = 1 << 15
"""Words scored at a time."""

IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class _Counts(NamedTuple):
    """Counts after contexts of one length; contexts and n-grams are numbers."""

    grams: IntArray
    """Sorted."""
    counts: IntArray
    """How often each n-gram occurred."""
    contexts: IntArray
    """Sorted."""
    totals: IntArray
    """n(h) of each context."""
    distinct: IntArray
    """D(h)."""


def check_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raises ValueError unless the arrays of a spelling model are present; does not build it."""
    if not arrays.keys() >= set(KEYS):
        raise ValueError("was written by an older charloom without spellings")
    if arrays[LENGTHS_KEY].sum() != arrays[WORDS_KEY].nbytes:
        raise ValueError("has spellings of a wrong total length")


class SpellingModel:
    """A distribution over all byte strings."""

    def __init__(self, words: Iterable[bytes], *, order: int = ORDER):
        """Counts the n-grams.

        Args:
          words: spellings; duplicates count once.
          order: symbols in the longest n-gram, 1 to 7.
        """
        self.words = tuple(sorted(set(words)))
        """The distinct words learnt from."""
        places = _Places(self.words)
        self._tables = [_count(*places.keys(length)) for length in range(order)]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> SpellingModel:
        """Rebuilds a model from the arrays that `to_arrays` returned.

        Raises:
          ValueError: arrays are missing or malformed.
        """
        check_arrays(arrays)
        data, ends = arrays[WORDS_KEY].tobytes(), np.cumsum(arrays[LENGTHS_KEY]).tolist()
        return cls(data[start:end] for start, end in zip([0, *ends], ends, strict=False))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the distinct words as arrays; counts are rebuilt from them."""
        return {
            WORDS_KEY: np.frombuffer(b"".join(self.words), np.uint8),
            LENGTHS_KEY: np.asarray([len(word) for word in self.words], np.int32),
        }

    def log_probabilities(self, words: Sequence[bytes]) -> Floats:
        """Returns `[N]` natural log-probabilities of N spellings."""
        parts = [
            self._score(_Places(words[start : start + _CHUNK]))
            for start in range(0, len(words), _CHUNK)
        ]
        return np.concatenate([np.zeros(0), *parts])

    def _score(self, places: _Places) -> Floats:
        probability = np.full(places.count, 1.0 / (_SYMBOLS - 1))
        for length, table in enumerate(self._tables):
            contexts, symbols, there = places.keys(length)
            at, found = find(table.contexts, contexts)
            there, contexts, symbols = there[found], contexts[found], symbols[found]
            gram, seen = find(table.grams, contexts * _SYMBOLS + symbols)
            counts = np.zeros(len(there))
            counts[seen] = table.counts[gram]
            distinct = table.distinct[at]
            probability[there] = (counts + distinct * probability[there]) / (
                table.totals[at] + distinct
            )
        scores: Floats = np.add.reduceat(np.log(probability), places.starts)
        return scores


class UnknownSpellings:
    """The distribution over words outside a vocabulary.

    The probability that the spelling model gives to known words is redistributed over the others,
    since known words are never spelled out. So the probabilities of a model's known words, and of
    its unknown ones by `<unk>` and spelling, add up to 1 whatever the vocabulary.
    """

    def __init__(self, spelling: SpellingModel, vocab: Vocabulary):
        """Sums the probability of the known words."""
        self.spelling = spelling
        self.vocab = vocab
        known = np.exp(spelling.log_probabilities(tuple(vocab.ids))).sum()
        self._log_left = float(np.log1p(-known))

    def log_probabilities(self, words: Sequence[bytes]) -> Floats:
        """Returns `[N]` natural log-probabilities of N unknown words."""
        assert not any(word in self.vocab.ids for word in words)
        return self.spelling.log_probabilities(words) - self._log_left


class _Places:
    """The positions in some words at which a symbol is predicted: each byte, and the end."""

    def __init__(self, words: Sequence[bytes]):
        lengths = np.asarray([len(word) for word in words], np.int64)
        ends = np.cumsum(lengths + 2) - 1  # two marks per word
        begins = ends - lengths - 1
        size = int(lengths.sum()) + 2 * len(words)
        self._text, is_byte = np.full(size, _BEGIN, np.int64), np.ones(size, bool)
        self._text[ends] = _END
        is_byte[ends] = is_byte[begins] = False
        self._text[is_byte] = np.frombuffer(b"".join(words), np.uint8)
        is_byte[ends] = True
        self._at = np.flatnonzero(is_byte)
        """Offset of each position in the text."""
        self.count = len(self._at)
        self.starts = np.cumsum(lengths + 1) - lengths - 1
        """First position of each word."""
        self._before = self._at - np.repeat(begins, lengths + 1)
        """Symbols of the word before each position, including `<begin>`."""

    def keys(self, length: int) -> tuple[IntArray, IntArray, IntArray]:
        """Returns contexts of a length as numbers, their next symbols, and the positions.

        Positions with fewer preceding symbols are left out.
        """
        there = np.flatnonzero(self._before >= length)
        at = self._at[there]
        contexts = np.zeros(len(there), np.int64)
        for back in range(1, length + 1):
            contexts = contexts * _SYMBOLS + self._text[at - back]
        return contexts, self._text[at], there


def _count(contexts: IntArray, symbols: IntArray, _: IntArray) -> _Counts:
    grams, counts = np.unique(contexts * _SYMBOLS + symbols, return_counts=True)
    of_grams = grams // _SYMBOLS
    known, first, distinct = np.unique(of_grams, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, first) if len(first) else counts
    return _Counts(grams, counts, known, totals, distinct)


def learn_spellings(dataset: Dataset) -> SpellingModel:
    """Learns spellings from the training split; the same records give the same model.

    Reads about `SAMPLE_WORDS` words of a long text, in records spread evenly over it, and keeps at
    most `MAX_TYPES` distinct words, spread evenly over their alphabetical order, and of those the
    shortest, up to `MAX_TYPE_BYTES`.
    """
    vocab, lengths = dataset.vocab, dataset.lengths("train")
    records = len(lengths)
    count = min(records, -(-records * SAMPLE_WORDS // max(int(lengths.sum()), 1)))
    is_seen, others = np.zeros(len(vocab), bool), _Spellings()
    for index in _spread_evenly(records, count):
        record = dataset.read("train", index)
        is_seen[record.word_ids] = True
        others.add(record.unknown_words())
    is_seen[: len(SPECIAL_WORDS)] = False
    known = (vocab.words[one].encode() for one in np.flatnonzero(is_seen))
    types = sorted(others.words.union(known))
    chosen = [types[at] for at in _spread_evenly(len(types), MAX_TYPES)]
    chosen.sort(key=len)
    room = int(np.searchsorted(np.cumsum([len(word) for word in chosen]), MAX_TYPE_BYTES, "right"))
    return SpellingModel(chosen[:room])


class _Spellings:
    """Distinct words of at most `HELD_BYTES`: if there are more, without the longest."""

    def __init__(self) -> None:
        self.words: set[bytes] = set()
        self.size = 0
        """Their bytes."""
        self._longest = HELD_BYTES

    def add(self, words: Iterable[bytes]) -> None:
        for word in words:
            if word in self.words or len(word) > self._longest:
                continue
            self.words.add(word)
            self.size += len(word)
            while self.size > HELD_BYTES:
                self._longest = max(map(len, self.words)) // 2
                self.words = {one for one in self.words if len(one) <= self._longest}
                self.size = sum(map(len, self.words))


def _spread_evenly(total: int, count: int) -> list[int]:
    """Returns `count` evenly spread numbers below `total`, or all of them if there are no more."""
    count = min(total, count)
    return [at * total // count for at in range(count)]
