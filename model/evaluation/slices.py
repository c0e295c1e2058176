"""Slices of a comparison, defined by what both models know so that neither is favoured.

Swapping the two models gives the same slices with the opposite sign (and swaps
`CHALLENGER_ONLY` with `CHAMPION_ONLY`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model.evaluation.sources import IntArray, group_numbers, number_sources
from model.text.vocab import UNK_ID, Vocabulary

if TYPE_CHECKING:  # the gate reads the names of the slices without TensorFlow
    from model.evaluation.report import Scored, SplitWords

Floats = npt.NDArray[np.float64]

NEITHER, CHALLENGER_ONLY, CHAMPION_ONLY = "known to neither", "challenger only", "champion only"
SLICES = (NEITHER, CHALLENGER_ONLY, CHAMPION_ONLY, "1-5", "6-100", ">100")
"""Words that at most one model knows; the others by the lower of their two counts."""

_DIGITS = 6


def slice_of_words(words: SplitWords, ours: Vocabulary, theirs: Vocabulary) -> IntArray:
    """Returns `[X]` each distinct word's index into `SLICES`.

    Args:
      words: words of the test split.
      ours: the challenger's vocabulary.
      theirs: the champion's.
    """
    mine, other = words.ids(ours), words.ids(theirs)
    counts = np.minimum(np.asarray(ours.counts)[mine], np.asarray(theirs.counts)[other])
    knowledge = 1 * (mine != UNK_ID) + 2 * (other != UNK_ID)
    by_count = np.searchsorted([6, 101], counts, side="right") + SLICES.index("1-5")
    slices: IntArray = np.where(knowledge == 3, by_count, knowledge).astype(np.int64)
    return slices


def slice_sums(
    words: SplitWords, differences: Floats, slices: IntArray
) -> dict[str, dict[str, list[Any]]]:
    """Sums the words and differences of each slice by source.

    Args:
      words: words of the test split.
      differences: `[words]` log-likelihood, challenger minus champion, in nats.
      slices: `[X]` result of `slice_of_words`.

    Returns:
      For each slice `words` and `difference`, `[G]` per group of sources
      (`model.evaluation.sources`).
    """
    there = np.flatnonzero(words.lengths)  # a report omits empty documents
    names, numbers = number_sources([words.sources[at] for at in there.tolist()])
    groups = group_numbers(len(names))
    size = int(groups[-1]) + 1 if len(groups) else 0
    group = np.repeat(groups[numbers], words.lengths[there])
    cell = slices[words.numbers] * size + group
    counts = np.bincount(cell, minlength=size * len(SLICES)).reshape(len(SLICES), size)
    sums = np.bincount(cell, differences, size * len(SLICES)).reshape(len(SLICES), size)
    rounded = np.round(sums, _DIGITS) + 0.0  # avoids -0.0
    return {
        name: {"words": counts[at].tolist(), "difference": rounded[at].tolist()}
        for at, name in enumerate(SLICES)
    }


def differences_of(ours: Scored, theirs: Scored, words: SplitWords, *, spelled: bool) -> Floats:
    """Returns `[words]` log-likelihood differences, challenger minus champion, in nats.

    Args:
      ours: the challenger's scores.
      theirs: the champion's scores.
      words: the words that both models scored.
      spelled: whether unknown words pay for their spelling.
    """
    gaps: Floats = ours.log_likelihoods.astype(np.float64) - theirs.log_likelihoods
    if spelled:
        gaps += (ours.spellings - theirs.spellings)[words.numbers]
    return gaps
