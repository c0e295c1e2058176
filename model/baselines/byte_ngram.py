"""How likely a spelling is: what an unknown word pays for beside `<unk>`.

An interpolated byte n-gram (Witten and Bell 1991) over the distinct words of the training
text, each taken once. A word is `<begin>`, its bytes, `<end>`; of a byte s after the
context h, seen n(h) times before D(h) different bytes:

  p(s | h) = (count(h, s) + D(h) p(s | h without its first byte)) / (n(h) + D(h))

and below the empty context all 257 symbols are alike. Every context leaves something for
`<end>`, so the probabilities of all byte strings add up to 1. Symbols: the 256 bytes,
`<end>`, and `<begin>`, which is read and never predicted.
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
"""Symbols of an n-gram, the predicted one included; docs/decisions/0015 has the measurement."""
SAMPLE_WORDS = 2_000_000
"""About how many words of a training text are looked through for distinct ones."""
MAX_TYPES = 50_000
"""Distinct words from which spellings are learnt, at most."""
WORDS_KEY, LENGTHS_KEY = "spelling/words", "spelling/lengths"
KEYS = (WORDS_KEY, LENGTHS_KEY)
"""Names of a spelling model's arrays in a checkpoint."""

_END, _BEGIN = 256, 257
_SYMBOLS = 258
_CHUNK = 1 << 15
"""Words that are spelled at a time."""

IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class _Counts(NamedTuple):
    """What was seen after contexts of one length; a context and an n-gram are numbers."""

    grams: IntArray
    """Sorted."""
    counts: IntArray
    """How often each was seen."""
    contexts: IntArray
    """Sorted."""
    totals: IntArray
    """n(h) of each context."""
    distinct: IntArray
    """D(h)."""


def check_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raises ValueError unless there are the arrays of a spelling model; does not make it."""
    if not arrays.keys() >= set(KEYS):
        raise ValueError("is of an older charloom, which kept no spellings")
    if arrays[LENGTHS_KEY].sum() != arrays[WORDS_KEY].nbytes:
        raise ValueError("has spellings of another length than it says")


class SpellingModel:
    """A distribution over all byte strings."""

    def __init__(self, words: Iterable[bytes], *, order: int = ORDER):
        """Counts n-grams.

        Args:
          words: spellings; one that comes twice counts once.
          order: symbols of the longest n-gram, 1 to 7.
        """
        self.words = tuple(sorted(set(words)))
        """The distinct words it learnt from."""
        places = _Places(self.words)
        self._tables = [_count(*places.keys(length)) for length in range(order)]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> SpellingModel:
        """Makes the model whose `to_arrays` these are.

        Raises:
          ValueError: they are missing, or not of this form.
        """
        check_arrays(arrays)
        data, ends = arrays[WORDS_KEY].tobytes(), np.cumsum(arrays[LENGTHS_KEY]).tolist()
        return cls(data[start:end] for start, end in zip([0, *ends], ends, strict=False))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the words it learnt from as arrays; the counts are made again of them."""
        return {
            WORDS_KEY: np.frombuffer(b"".join(self.words), np.uint8),
            LENGTHS_KEY: np.asarray([len(word) for word in self.words], np.int32),
        }

    def log_probabilities(self, words: Sequence[bytes]) -> Floats:
        """Returns `[N]` natural logarithms of the probabilities of N spellings."""
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
    """The distribution over the words that a vocabulary does not have.

    What the spelling model says of known words is dealt out to the others: nobody spells a
    known word. A model's words and its unknown ones, by `<unk>` and spelling, so have a
    probability of 1 in all, whatever its vocabulary is.
    """

    def __init__(self, spelling: SpellingModel, vocab: Vocabulary):
        """Adds up what known words have."""
        self.spelling = spelling
        self.vocab = vocab
        known = np.exp(spelling.log_probabilities(tuple(vocab.ids))).sum()
        self._log_left = float(np.log1p(-known))

    def log_probabilities(self, words: Sequence[bytes]) -> Floats:
        """Returns `[N]` natural logarithms of the probabilities of N unknown words."""
        assert not any(word in self.vocab.ids for word in words)
        return self.spelling.log_probabilities(words) - self._log_left


class _Places:
    """The places of some words at which a symbol is predicted: each byte, and the end."""

    def __init__(self, words: Sequence[bytes]):
        lengths = np.asarray([len(word) for word in words], np.int64)
        ends = np.cumsum(lengths + 2) - 1  # each word has two marks
        begins = ends - lengths - 1
        size = int(lengths.sum()) + 2 * len(words)
        self._text, is_byte = np.full(size, _BEGIN, np.int64), np.ones(size, bool)
        self._text[ends] = _END
        is_byte[ends] = is_byte[begins] = False
        self._text[is_byte] = np.frombuffer(b"".join(words), np.uint8)
        is_byte[ends] = True
        self._at = np.flatnonzero(is_byte)
        """Where in the text each place is."""
        self.count = len(self._at)
        self.starts = np.cumsum(lengths + 1) - lengths - 1
        """Where each word's places begin among all."""
        self._before = self._at - np.repeat(begins, lengths + 1)
        """Symbols of the word before each place, its `<begin>` included."""

    def keys(self, length: int) -> tuple[IntArray, IntArray, IntArray]:
        """Returns contexts of a length as numbers, the symbols after them, and which places these are.

        A place with fewer symbols before it is left out.
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

    A long text is not read to its end: records spread evenly over it are, about
    `SAMPLE_WORDS` words of them. Of more than `MAX_TYPES` distinct words as many are
    taken, spread evenly over their alphabetical order.
    """
    vocab, lengths = dataset.vocab, dataset.lengths("train")
    records = len(lengths)
    count = min(records, -(-records * SAMPLE_WORDS // max(int(lengths.sum()), 1)))
    is_seen, others = np.zeros(len(vocab), bool), set[bytes]()
    for index in _spread_evenly(records, count):
        record = dataset.read("train", index)
        is_seen[record.word_ids] = True
        others.update(record.unknown_words())
    is_seen[: len(SPECIAL_WORDS)] = False
    types = sorted(others.union(vocab.words[one].encode() for one in np.flatnonzero(is_seen)))
    return SpellingModel(types[at] for at in _spread_evenly(len(types), MAX_TYPES))


def _spread_evenly(total: int, count: int) -> list[int]:
    """Returns `count` of the numbers below `total`, or all if there are no more."""
    count = min(total, count)
    return [at * total // count for at in range(count)]
