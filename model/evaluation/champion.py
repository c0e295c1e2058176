"""Scores other versions on the challenger's test text, each with its own vocabulary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.baselines.byte_ngram import UnknownSpellings
from model.checkpointing.compatibility import why_not
from model.checkpointing.origin import VOCAB_DIGEST
from model.checkpointing.trained import Published, load_published
from model.config import DataConfig
from model.data.batches import LaneReader
from model.data.plan import EvalPlan
from model.data.records import Dataset, Record, encode_record, parse_record
from model.errors import InputError
from model.evaluation.report import Scored, SplitWords, sums, with_spellings
from model.evaluation.scoring import score_words
from model.evaluation.slices import differences_of, slice_of_words, slice_sums
from model.files import version_number
from model.text.display import show_word
from model.text.vocab import Vocabulary

SHOWN_WORDS = 20


class Tested(NamedTuple):
    """The challenger's scores on the test split."""

    words: SplitWords
    scored: Scored
    vocab: Vocabulary
    data: DataConfig
    unknown: Mapping[str, str] = {}
    """Folder of a version -> why what it has seen is unknown
    (`model.checkpointing.seen_records`)."""


def score_champion(version: str, dataset: Dataset, tested: Tested) -> dict[str, Any]:
    """Scores a published model on the test split of a challenger's records.

    Args:
      version: the champion's folder.
      dataset: the challenger's records.
      tested: the challenger's scores on their test split.

    Returns:
      The `champion` part of a report: the version, its sums over the test split, the differences
      by slice and source (`model.evaluation.slices`), and the words on which the two differ most;
      or why they can't be compared.
    """
    found: dict[str, Any] = {
        "version": version_number(version),
        "path": version,
        "checkpoint_digest": None,
        "vocab_digest": None,
        "same_vocabulary": None,
        "refused": None,
        "test": None,
        "slices": None,
        "words": None,
    }
    try:
        champion = load_published(version)
    except InputError as error:
        return {**found, "refused": str(error)}
    same = set(champion.vocab.words) == set(tested.vocab.words)
    found |= {
        "checkpoint_digest": champion.trained_digest,
        "vocab_digest": champion.checkpoint.meta[VOCAB_DIGEST],
        "same_vocabulary": same,
        "refused": why_not(champion.config.data, tested.data) or tested.unknown.get(version),
    }
    if found["refused"]:
        return found
    scored = _score(champion, dataset, tested.words)
    gaps = differences_of(tested.scored, scored, tested.words, spelled=not same)
    slices = slice_of_words(tested.words, tested.vocab, champion.vocab)
    return {
        **found,
        "test": sums(tested.words, scored),
        "slices": slice_sums(tested.words, gaps, slices),
        "words": differing_words(tested.words, gaps),
    }


def score_reference(
    version: str, dataset: Dataset, tested: Tested, *, champion: dict[str, Any] | None
) -> dict[str, Any]:
    """Scores the best version so far, as `score_champion` does.

    Args:
      version: its folder.
      dataset: the challenger's records.
      tested: the challenger's scores on their test split.
      champion: the report's `champion` part; if it is the same version, it is not scored again.

    Returns:
      The report's `reference` part: as for `score_champion`, plus `is_champion`; if set, only the
      `champion` part has the sums.
    """
    if champion and os.path.realpath(champion["path"]) == os.path.realpath(version):
        once = dict.fromkeys(("test", "slices", "words"))
        return {**champion, **once, "is_champion": True}
    return {**score_champion(version, dataset, tested), "is_champion": False}


def differing_words(
    words: SplitWords, gaps: npt.NDArray[np.float64]
) -> dict[str, list[dict[str, Any]]]:
    """Returns the words on which one model is better than the other, summed over all positions.

    Args:
      words: the words that both models scored.
      gaps: `[words]` result of `differences_of`.

    Returns:
      `better` and `worse`, largest first: the word, its count, and the difference of its summed
      log-likelihoods, in nats.
    """
    size = len(words.spellings)
    total = np.bincount(words.numbers, gaps, size)
    count = np.bincount(words.numbers, minlength=size)
    order = np.argsort(total, kind="stable")

    def rows(places: npt.NDArray[np.int64], sign: float) -> list[dict[str, Any]]:
        return [
            {
                "word": show_word(words.spellings[at]),
                "count": int(count[at]),
                "difference": float(total[at]),
            }
            for at in places[:SHOWN_WORDS].tolist()
            if total[at] * sign > 0
        ]

    return {"better": rows(order[::-1], 1.0), "worse": rows(order, -1.0)}


class _OtherIds:
    """Records with ids of another vocabulary."""

    def __init__(self, dataset: Dataset, vocab: Vocabulary):
        self._dataset = dataset
        self._vocab = vocab

    def read(self, split: str, index: int) -> Record:
        record = self._dataset.read(split, index)
        data = encode_record(record.spelled_words(), self._vocab, source=record.source)
        return parse_record(data)


def _score(champion: Published, dataset: Dataset, words: SplitWords) -> Scored:
    train = champion.config.train
    reader = LaneReader(
        dataset
        if champion.vocab.words == dataset.vocab.words
        else _OtherIds(dataset, champion.vocab),
        "test",
        max_word_bytes=champion.config.model.max_word_bytes,
        window=train.window,
    )
    scores = score_words(
        champion.model,
        EvalPlan(words.lengths, lanes=train.lanes, window=train.window),
        reader,
        lengths=words.lengths,
    )
    return with_spellings(scores, words, UnknownSpellings(champion.spelling, champion.vocab))
