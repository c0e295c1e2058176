"""Sums over documents, and differences between two models by source."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.evaluation.sources import group_numbers, number_sources

Floats = npt.NDArray[np.float64]


class DocumentSums(NamedTuple):
    """Sums over a document, which is a record of the test split."""

    source: str
    words: int
    log_likelihood: float
    spelling: float


class Pair(NamedTuple):
    """Two models on the same sources, S of them."""

    names: tuple[str, ...]
    words: Floats
    """`[S]`."""
    differences: Floats
    """`[S]` log-likelihood, challenger minus other, in nats."""

    def in_groups(self) -> tuple[Floats, Floats]:
        """Returns `[G]` words and differences of groups of neighbouring sources."""
        groups = group_numbers(len(self.names))
        words, differences = (np.bincount(groups, one) for one in (self.words, self.differences))
        return words.astype(np.float64), differences.astype(np.float64)


def pair_documents(ours: list[DocumentSums], theirs: list[DocumentSums], *, spelled: bool) -> Pair:
    """Sums two models' documents by source.

    Args:
      ours: the challenger's documents.
      theirs: the other model's scores of the same documents.
      spelled: whether unknown words pay for their spelling.
    """
    names, where = number_sources([row.source for row in ours])
    gaps = np.asarray(
        [
            one.log_likelihood - two.log_likelihood + spelled * (one.spelling - two.spelling)
            for one, two in zip(ours, theirs, strict=True)
        ]
    )
    words = np.asarray([row.words for row in ours], np.float64)
    sums = (np.bincount(where, one).astype(np.float64) for one in (words, gaps))
    return Pair(names, *sums)
