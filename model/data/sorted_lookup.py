"""Looks numbers up in sorted arrays: what a dict does, for many at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def find(table: IntArray, keys: IntArray) -> tuple[IntArray, IntArray]:
    """Finds those of some keys that a table has.

    Args:
      table: `[N]` distinct numbers, sorted.
      keys: `[K]`, in any order.

    Returns:
      `[F]` places in the table, and `[F]` places in `keys`, of the keys that are in it.
    """
    if not len(table):
        return table, np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    found = np.flatnonzero(table[at] == keys)
    return at[found], found
