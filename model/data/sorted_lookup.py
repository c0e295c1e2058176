"""Looks numbers up in sorted arrays: a vectorised dict."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def find(table: IntArray, keys: IntArray) -> tuple[IntArray, IntArray]:
    """Finds which keys a table has.

    Args:
      table: `[N]` distinct numbers, sorted.
      keys: `[K]`, in any order.

    Returns:
      `[F]` positions in the table, and `[F]` positions in `keys`, of the keys found.
    """
    if not len(table):
        return table, np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    found = np.flatnonzero(table[at] == keys)
    return at[found], found
