"""Vocabulary drift: how much the words of two records folders differ.

Everything is computed from the two vocabularies, which count the words of the training splits,
including line-end marks. Two things can't be known from them and are defined as follows:

* A new word that is `<unk>` has lost its spelling. The usual share of `<unk>`, as in the other
text, counts as ordinary rare words; the excess counts as new words. So an external vocabulary
(`--vocab`), which never has a new word, shows drift as well.
* For the divergence, `<unk>` is a single symbol.

Both depend on `data.vocab_size` and `data.min_count`; comparisons are best when these are equal.
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
"""Words listed of each kind."""
SHOWN_CHARACTERS = 40
"""Longer words are truncated in `Drift.describe`."""

WORD_FIELDS = ("tokenizer", "lowercase", "sentence_marks")
"""Fields of `DataConfig` that define what a word is, and must be equal."""

WordCounts = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Contribution:
    """One word's contribution to the divergence."""

    word: str
    divergence: float
    """Its part of the sum, in bits."""
    count: int
    """Its count in the new text."""
    other_count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """Sums and counts of a comparison; ratios are computed on demand."""

    words: int
    """Training words of the new records."""
    other_words: int
    unknown: int
    """How many of `words` are `<unk>`."""
    other_unknown: int
    vocabulary: int
    """Words of the new vocabulary, excluding special ones."""
    other_vocabulary: int
    new_vocabulary: int
    """How many of `vocabulary` the other lacks."""
    gone_vocabulary: int
    """How many of `other_vocabulary` the new one lacks."""
    new: int
    """How many of `words` belong to `new_vocabulary`."""
    gone: int
    """How many of `other_words` belong to `gone_vocabulary`."""
    divergence: float
    """Jensen-Shannon divergence of the unigrams (Lin 1991), in bits: 0 identical, 1 disjoint."""
    new_words: WordCounts
    """The most frequent new words, with counts."""
    gone_words: WordCounts
    """The most frequent words that disappeared, with their counts in the other text."""
    contributions: tuple[Contribution, ...]
    """The words that contribute most to the divergence, largest first."""
    digest: str = ""
    """Digest of the new records."""
    other_digest: str = ""

    @property
    def excess_unknown(self) -> float:
        """Number of `<unk>` words beyond the other text's share."""
        excess = self.unknown * self.other_words - self.other_unknown * self.words
        return max(excess, 0) / self.other_words

    @property
    def new_word_rate(self) -> float:
        """Share of training words that are new: known ones, and excess `<unk>`."""
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
        """Share of the other's training words that belong to words that disappeared."""
        return self.gone / self.other_words

    @property
    def new_vocabulary_rate(self) -> float:
        """Share of the vocabulary that is new."""
        return self.new_vocabulary / self.vocabulary if self.vocabulary else 0.0

    def describe(self) -> list[str]:
        """Returns lines for people; words are escaped for terminals."""
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
    """Compares the words of two records folders.

    Args:
      records: the new one.
      other: the one to compare it with.

    Raises:
      InputError: a folder is missing, unfinished, changed, of another version or without training
        words, or the two define words differently.
    """
    with _open(records) as new, _open(other) as old:
        _check_words(old, new.config, name=records)
        drift = compare_vocabularies(new.vocab, old.vocab)
        return dataclasses.replace(drift, digest=new.digest, other_digest=old.digest)


def check_other(other: str, config: DataConfig) -> None:
    """Checks that records to be made with `config` can be compared with a folder.

    Raises:
      InputError: they can't; as for `compare`.
    """
    with _open(other) as old:
        _check_words(old, config, name="the configuration")


def _open(path: str) -> Dataset:
    """Opens a records folder that has training words."""
    try:
        dataset = Dataset.open(path)
    except InputError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError):
        # The other folder may come from anywhere: its dataset.json may lack any field.
        raise InputError(
            f"{os.path.join(path, INFO_FILE)} is not as charloom prepare writes it; prepare it again"
        ) from None
    counts = dataset.vocab.counts
    if min(counts) < 0 or not sum(counts):
        raise InputError(
            f"{os.path.join(path, VOCAB_FILE)} counts no training words, so there is "
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
    """Compares two vocabularies that have training words; see `compare`."""
    known, old_known = _known(new), _known(old)
    added = {word: count for word, count in known.items() if word not in old_known}
    gone = {word: count for word, count in old_known.items() if word not in known}
    union = sorted(known.keys() | old_known.keys())  # the order of the UTF-8 bytes
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
    """Returns the Jensen-Shannon divergence of two distributions in bits, and its parts.

    J. Lin, Divergence measures based on the Shannon entropy, 1991; equal weights. Exactly 0 for
    equal distributions, exactly 1 for disjoint ones.

    Args:
      counts: `[2, V]` counts of each word in each text; both texts have words.

    Returns:
      The divergence, and `[V]` each word's contribution.
    """
    totals = counts.sum(axis=1)
    shares = counts / totals[:, None]
    means = (shares[0] + shares[1]) / 2
    ratios = np.divide(shares, means, out=np.ones_like(shares), where=shares > 0)
    terms = counts * np.log2(ratios)  # counts instead of shares: their sums are exact
    sums = [math.fsum(row) / int(total) for row, total in zip(terms, totals, strict=True)]
    parts: npt.NDArray[np.float64] = (terms / totals[:, None]).sum(axis=0) / 2
    return min(max((sums[0] + sums[1]) / 2, 0.0), 1.0), parts
