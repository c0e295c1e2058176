"""Turns scores of single words into the sums, counts and ratios of a report.

Several models may score the same words. A word may be known to one model and unknown to another, so
unknown words also pay for their spelling (docs/decisions/0015).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.baselines.byte_ngram import UnknownSpellings
from model.data.records import Dataset
from model.data.seen import Mask
from model.metrics import perplexity
from model.text.vocab import BOS_ID, EOS_ID, UNK_ID, Vocabulary

SLICES = ("unknown", "1-5", "6-100", ">100")
"""Slices of the targets, by the target word's count in the training split."""

Floats = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class SplitWords(NamedTuple):
    """The predicted words of a split, and the distinct words among them.

    A word is identified by its number: its id in the records' vocabulary, or V and above if it is
    not in it. X is V plus the number of such words.
    """

    numbers: npt.NDArray[np.int32]
    """`[words]` in reading order."""
    lengths: IntArray
    """`[records]` words of each record; 0 if left out."""
    sources: tuple[str, ...]
    """`[records]`."""
    spellings: tuple[bytes, ...]
    """`[X]` spelling of each numbered word."""
    slices: npt.NDArray[np.int64]
    """`[X]` index into `SLICES`."""
    characters: IntArray
    """`[records]` Unicode characters of each record's original text."""
    characters_estimated: bool
    """Whether older records lack these; then each counts its words' characters plus one per word
    for the space or line end after it."""

    def ids(self, vocab: Vocabulary) -> IntArray:
        """Returns `[X]` ids in a vocabulary."""
        return np.asarray([vocab.ids.get(one, UNK_ID) for one in self.spellings], np.int64)


def read_split(dataset: Dataset, split: str, *, left_out: Mask | None = None) -> SplitWords:
    """Reads the words of a split.

    Args:
      dataset: the records.
      split: its name.
      left_out: `[records]` records to ignore.

    Raises:
      InputError: a shard is damaged.
    """
    vocab, size = dataset.vocab, len(dataset.vocab)
    unknown: dict[bytes, int] = {}
    parts, sources = [np.zeros(0, np.int32)], []
    lengths = dataset.lengths(split).copy()
    if left_out is not None:
        lengths[left_out] = 0
    for index, length in enumerate(lengths.tolist()):
        record = dataset.read(split, index)
        sources.append(record.source)
        if not length:
            continue
        numbers = record.word_ids.astype(np.int32)
        spelled = [unknown.setdefault(one, size + len(unknown)) for one in record.unknown_words()]
        numbers[numbers == UNK_ID] = spelled
        parts.append(numbers[1:])
    numbers, spellings = np.concatenate(parts), (*vocab.stream_words, *unknown)
    characters = dataset.text_characters(split)
    estimated = characters is None
    if characters is None:
        characters = _estimate_characters(numbers, lengths, spellings)
    characters = np.where(lengths > 0, characters, 0)
    return SplitWords(
        numbers=numbers,
        lengths=lengths,
        sources=tuple(sources),
        spellings=spellings,
        slices=np.concatenate([slice_of_word(vocab), np.zeros(len(unknown), np.int64)]),
        characters=characters,
        characters_estimated=estimated,
    )


def _estimate_characters(
    numbers: npt.NDArray[np.int32], lengths: IntArray, spellings: tuple[bytes, ...]
) -> IntArray:
    """Estimates the characters in each record's text; see `SplitWords`."""
    sizes = np.asarray([len(one.decode(errors="replace")) + 1 for one in spellings], np.int64)
    sizes[EOS_ID] = 1
    ends = np.concatenate([[0], np.cumsum(sizes[numbers])])[np.cumsum(lengths)]
    characters: IntArray = np.diff(ends, prepend=0)
    return characters


def slice_of_word(vocab: Vocabulary) -> IntArray:
    """Returns `[V]` each word's index into `SLICES`."""
    slices = np.searchsorted([6, 101], np.asarray(vocab.counts), side="right") + 1
    slices[UNK_ID] = 0
    return slices


class Scored(NamedTuple):
    """A model's scores of the words of a split."""

    log_likelihoods: npt.NDArray[np.float32]
    """`[words]` log-likelihood of each word, or of `<unk>` where the model does not know it."""
    is_unknown: npt.NDArray[np.bool_]
    """`[X]` whether the model does not know the word."""
    spellings: Floats
    """`[X]` log-likelihood of an unknown word's spelling; 0 for a known word."""


def with_spellings(
    log_likelihoods: npt.NDArray[np.float32], words: SplitWords, unknown: UnknownSpellings
) -> Scored:
    """Adds the spelling cost of unknown words to scores.

    Args:
      log_likelihoods: `[words]` from the model.
      words: the words scored.
      unknown: distribution for the same model's vocabulary and spelling model.
    """
    is_unknown = words.ids(unknown.vocab) == UNK_ID
    is_unknown[[UNK_ID, BOS_ID]] = False  # these two are not words
    places = np.flatnonzero(is_unknown)
    paid = np.zeros(len(is_unknown))
    paid[places] = unknown.log_probabilities([words.spellings[at] for at in places])
    return Scored(log_likelihoods, is_unknown, paid)


def sums(words: SplitWords, scored: Scored) -> dict[str, Any]:
    """Returns a model's sums over a split, its slices and its records, for a report."""
    values = scored.log_likelihoods.astype(np.float64)
    spelled = scored.spellings[words.numbers]
    total, paid = float(values.sum()), float(spelled.sum())
    count = len(words.numbers)
    where = words.slices[words.numbers]
    record = np.repeat(np.arange(len(words.lengths)), words.lengths)
    by_slice, slices_paid = (np.bincount(where, x, len(SLICES)) for x in (values, spelled))
    by_record, records_paid = (
        np.bincount(record, x, len(words.lengths)) for x in (values, spelled)
    )
    counts = np.bincount(where, minlength=len(SLICES))
    characters = int(words.characters.sum())
    bits = -(total + paid) / math.log(2)
    return {
        **part(total, count, paid),
        "bits_per_character": bits / characters if characters else None,
        "text_characters": characters,
        "characters_estimated": words.characters_estimated,
        "unknown_words": int(scored.is_unknown[words.numbers].sum()),
        "slices": {
            name: part(float(by_slice[at]), int(counts[at]), float(slices_paid[at]))
            for at, name in enumerate(SLICES)
        },
        "documents": [
            {
                "source": source,
                "words": int(words.lengths[at]),
                "log_likelihood": float(by_record[at]),
                "spelling_log_likelihood": float(records_paid[at]),
            }
            for at, source in enumerate(words.sources)
            if words.lengths[at]
        ],
    }


def with_unigrams(report: dict[str, Any], words: SplitWords, unigram: Floats) -> dict[str, Any]:
    """Adds the unigram baseline to the result of `sums` for the records' model.

    Args:
      report: result of `sums`.
      words: the words scored.
      unigram: `[V]` log-probabilities.
    """
    known = np.append(unigram, np.full(len(words.spellings) - len(unigram), unigram[UNK_ID]))
    values, where = known[words.numbers], words.slices[words.numbers]
    by_slice = np.bincount(where, values, len(SLICES))
    slices = {
        name: {
            **report["slices"][name],
            "unigram_log_likelihood": float(by_slice[at]),
            "unigram_perplexity": _perplexity(by_slice[at], report["slices"][name]["words"]),
        }
        for at, name in enumerate(SLICES)
    }
    return {
        **report,
        "unigram_log_likelihood": float(values.sum()),
        "slices": slices,
    }


def part(log_likelihood: float, words: int, spelling: float | None = None) -> dict[str, Any]:
    """Returns a sum, its words, and the perplexity, which excludes spellings."""
    paid = {} if spelling is None else {"spelling_log_likelihood": spelling}
    return {
        "log_likelihood": log_likelihood,
        **paid,
        "words": words,
        "perplexity": _perplexity(log_likelihood, words),
    }


def _perplexity(log_likelihood: float, words: int) -> float | None:
    return perplexity(float(log_likelihood), words) if words else None
