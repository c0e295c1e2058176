"""Groups records by source, that is, by file of the corpus.

Records of one file are correlated, so they don't count as independent observations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOST_GROUPS = 1_000
"""More sources than this are merged with their neighbours."""

IntArray = npt.NDArray[np.int64]


def source_name(source: str) -> str:
    """Returns the file of a record: its `source` without the offset."""
    return source.rpartition(":")[0] or source


def number_sources(records: Sequence[str]) -> tuple[tuple[str, ...], IntArray]:
    """Numbers the sources of records by their first appearance.

    Args:
      records: the `source` of each.

    Returns:
      The names of the sources, and `[records]` the number of each record's source.
    """
    numbers: dict[str, int] = {}
    where = [numbers.setdefault(source_name(one), len(numbers)) for one in records]
    return tuple(numbers), np.asarray(where, np.int64)


def group_numbers(sources: int) -> IntArray:
    """Returns `[sources]` each source's group: its own number, or one shared with neighbours."""
    places = np.arange(sources, dtype=np.int64)
    return places * MOST_GROUPS // sources if sources > MOST_GROUPS else places
