"""Drift of the vocabulary: how far the words of one folder of records are from another's.

Everything comes from the two vocabularies, which count the words of the training splits,
line-end marks included. Two things can't be known from them, and are settled so:

* A word of the new text that is `<unk>` has lost its spelling. In proportion, as many of them
  as the other text has are taken for the usual rare words; what goes beyond that counts as
  new words. So a vocabulary from outside (`--vocab`), which never has a new word, shows
  drift as well.
* For the divergence, `<unk>` is one symbol, whatever words it stands for.

Both depend on `data.vocab_size` and `data.min_count`; equal ones make the best comparison.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model.config import DataConfig
from model.data.records import INFO_FILE, VOCAB_FILE, Dataset
from model.errors import InputError
from model.text.display import printable
from model.text.vocab import SPECIAL_WORDS, UNK_ID, Vocabulary

SHOWN_WORDS = 20
"""That many words are named of each kind."""
SHOWN_CHARACTERS = 40
"""Longer words are cut in `Drift.describe`."""

WORD_FIELDS = ("tokenizer", "lowercase", "sentence_marks")
"""Fields of `DataConfig` that say what a word is, and must be equal."""

WordCounts = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Contribution:
    """What one word adds to the divergence."""

    word: str
    divergence: float
    """Its part of the sum, in bits."""
    count: int
    """How often the new text has it."""
    other_count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """Sums and counts of a comparison; ratios are made of them where they are asked for."""

    words: int
    """Training words of the new records."""
    other_words: int
    unknown: int
    """How many of `words` are `<unk>`."""
    other_unknown: int
    vocabulary: int
    """Words of the new vocabulary, special ones not included."""
    other_vocabulary: int
    new_vocabulary: int
    """How many of `vocabulary` the other has not."""
    gone_vocabulary: int
    """How many of `other_vocabulary` the new one has not."""
    new: int
    """How many of `words` are of those of `new_vocabulary`."""
    gone: int
    """How many of `other_words` are of those of `gone_vocabulary`."""
    divergence: float
    """Jensen-Shannon divergence of the unigrams (Lin 1991), in bits: 0 same, 1 nothing shared."""
    new_words: WordCounts
    """The most frequent new words with their counts."""
    gone_words: WordCounts
    """The most frequent words that are gone, with their counts in the other text."""
    contributions: tuple[Contribution, ...]
    """The words that add most to the divergence, the greatest first."""
    digest: str = ""
    """Of the new records."""
    other_digest: str = ""

    @property
    def excess_unknown(self) -> float:
        """How many more of the words are `<unk>` than the other text's share of them gives."""
        excess = self.unknown * self.other_words - self.other_unknown * self.words
        return max(excess, 0) / self.other_words

    @property
    def new_word_rate(self) -> float:
        """Share of the training words that are new: known ones, and `<unk>` beyond the usual."""
        return (self.new + self.excess_unknown) / self.words

    @property
    def unknown_rate(self) -> float:
        """Share of the training words that are `<unk>`."""
        return self.unknown / self.words

    @property
    def other_unknown_rate(self) -> float:
        """Share of the other's training words that are `<unk>`."""
        return self.other_unknown / self.other_words

    @property
    def gone_word_rate(self) -> float:
        """Share of the other's training words that are of words that are gone."""
        return self.gone / self.other_words

    @property
    def new_vocabulary_rate(self) -> float:
        """Share of the vocabulary that is new."""
        return self.new_vocabulary / self.vocabulary if self.vocabulary else 0.0

    def describe(self) -> list[str]:
        """Returns lines for people; no word in them can disturb a terminal."""
        most = ", ".join(
            f"{_shown(part.word)} {part.divergence:.5f}" for part in self.contributions
        )
        return [
            f"new words: {self.new_word_rate:.2%} of {self.words:,} training words "
            f"({self.new:,} known ones, {self.excess_unknown:,.0f} unknown beyond the usual); "
            f"unknown: {self.unknown_rate:.2%}, in the other {self.other_unknown_rate:.2%}",
            f"vocabulary: {self.new_vocabulary:,} of {self.vocabulary:,} words are new "
            f"({self.new_vocabulary_rate:.2%}); {self.gone_vocabulary:,} of the other's "
            f"{self.other_vocabulary:,} are gone, {self.gone_word_rate:.2%} of its training words",
            f"Jensen-Shannon divergence of the unigrams: {self.divergence:.5f} bits "
            "(0 the same, 1 nothing shared)",
            f"most divergent: {most or 'none'}",
            f"most frequent new words: {_listed(self.new_words)}",
            f"most frequent words that are gone: {_listed(self.gone_words)}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields and rates as plain JSON values."""
        rates = (
            "excess_unknown",
            "new_word_rate",
            "unknown_rate",
            "other_unknown_rate",
            "gone_word_rate",
            "new_vocabulary_rate",
        )
        fields = dataclasses.asdict(self)
        for name in ("new_words", "gone_words"):
            fields[name] = [list(pair) for pair in fields[name]]
        fields["contributions"] = list(fields["contributions"])
        return fields | {name: getattr(self, name) for name in rates}


def _shown(word: str) -> str:
    cut = word[:SHOWN_CHARACTERS] + "…" if len(word) > SHOWN_CHARACTERS else word
    return printable(cut)


def _listed(words: WordCounts) -> str:
    return ", ".join(f"{_shown(word)} {count:,}" for word, count in words) or "none"


def compare(records: str, other: str) -> Drift:
    """Compares the words of two folders of records.

    Args:
      records: the new one.
      other: the one it is compared to.

    Raises:
      InputError: a folder is missing, unfinished, changed, of another version or without
        training words, or words are not made in the same way in both.
    """
    with _open(records) as new, _open(other) as old:
        _check_words(old, new.config, name=records)
        drift = compare_vocabularies(new.vocab, old.vocab)
        return dataclasses.replace(drift, digest=new.digest, other_digest=old.digest)


def check_other(other: str, config: DataConfig) -> None:
    """Checks that records which `config` will make can be compared to a folder.

    Raises:
      InputError: they can't; as `compare`.
    """
    with _open(other) as old:
        _check_words(old, config, name="the configuration")


def _open(path: str) -> Dataset:
    """Opens a folder of records that has training words."""
    try:
        dataset = Dataset.open(path)
    except InputError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError):
        # The other folder may come from anywhere: its dataset.json may lack anything.
        raise InputError(
            f"{os.path.join(path, INFO_FILE)} is not as charloom prepare writes it; prepare it again"
        ) from None
    counts = dataset.vocab.counts
    if min(counts) < 0 or not sum(counts):
        raise InputError(
            f"{os.path.join(path, VOCAB_FILE)} counts no training word, so there is "
            "nothing to compare; prepare it again from more text"
        )
    return dataset


def _check_words(old: Dataset, config: DataConfig, *, name: str) -> None:
    for field in WORD_FIELDS:
        ours, theirs = getattr(config, field), getattr(old.config, field)
        if ours != theirs:
            raise InputError(
                f"{name} has data.{field}={_spelt(ours)} but {old.path} has {_spelt(theirs)}, so "
                f"their words can't be compared; prepare one of them again with the same data.{field}"
            )


def _spelt(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def compare_vocabularies(new: Vocabulary, old: Vocabulary) -> Drift:
    """Does the work of `compare` for vocabularies with training words."""
    known, old_known = _known(new), _known(old)
    added = {word: count for word, count in known.items() if word not in old_known}
    gone = {word: count for word, count in old_known.items() if word not in known}
    union = sorted(known.keys() | old_known.keys())  # the same order as of the UTF-8 bytes
    counts = np.array(
        [
            [*vocab.counts[: len(SPECIAL_WORDS)], *(words.get(word, 0) for word in union)]
            for vocab, words in ((new, known), (old, old_known))
        ],
        np.int64,
    )
    divergence, parts = measure_divergence(counts)
    ranked = np.argsort(-parts, kind="stable")[:SHOWN_WORDS]
    names = [*SPECIAL_WORDS, *union]
    return Drift(
        words=sum(new.counts),
        other_words=sum(old.counts),
        unknown=new.counts[UNK_ID],
        other_unknown=old.counts[UNK_ID],
        vocabulary=len(known),
        other_vocabulary=len(old_known),
        new_vocabulary=len(added),
        gone_vocabulary=len(gone),
        new=sum(added.values()),
        gone=sum(gone.values()),
        divergence=divergence,
        new_words=_most_frequent(added),
        gone_words=_most_frequent(gone),
        contributions=tuple(
            Contribution(names[place], float(parts[place]), *counts[:, place].tolist())
            for place in ranked
            if parts[place] > 0
        ),
    )


def _known(vocab: Vocabulary) -> dict[str, int]:
    start = len(SPECIAL_WORDS)
    return dict(zip(vocab.words[start:], vocab.counts[start:], strict=True))


def _most_frequent(counts: Mapping[str, int]) -> WordCounts:
    ranked = heapq.nsmallest(SHOWN_WORDS, counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((word, count) for word, count in ranked if count)


def measure_divergence(
    counts: npt.NDArray[np.int64],
) -> tuple[float, npt.NDArray[np.float64]]:
    """Returns the Jensen-Shannon divergence of two distributions, in bits, and its parts.

    J. Lin, Divergence measures based on the Shannon entropy, 1991; equal weights. Where the
    distributions are equal it is exactly 0, where they share nothing exactly 1.

    Args:
      counts: `[2, V]` counts of each word in each text; both texts have words.

    Returns:
      The divergence, and `[V]` what each word adds to it.
    """
    totals = counts.sum(axis=1)
    shares = counts / totals[:, None]
    means = (shares[0] + shares[1]) / 2
    ratios = np.divide(shares, means, out=np.ones_like(shares), where=shares > 0)
    terms = counts * np.log2(ratios)  # of counts, not of shares: their sum has no rounding
    sums = [math.fsum(row) / int(total) for row, total in zip(terms, totals, strict=True)]
    parts: npt.NDArray[np.float64] = (terms / totals[:, None]).sum(axis=0) / 2
    return min(max((sums[0] + sums[1]) / 2, 0.0), 1.0), parts
