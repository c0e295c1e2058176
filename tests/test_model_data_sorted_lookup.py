from __future__ import annotations

import numpy as np
import pytest

from model.data.sorted_lookup import find


@pytest.mark.parametrize(
    ("table", "keys", "at", "found"),
    [
        ([2, 5, 9], [9, 1, 5, 5, 10], [2, 1, 1], [0, 2, 3]),
        ([2, 5, 9], [], [], []),
        ([2, 5, 9], [3], [], []),
        ([], [3, 4], [], []),
    ],
)
def test_find(table: list[int], keys: list[int], at: list[int], found: list[int]) -> None:
    result = find(np.asarray(table, np.int64), np.asarray(keys, np.int64))
    assert [places.tolist() for places in result] == [at, found]
