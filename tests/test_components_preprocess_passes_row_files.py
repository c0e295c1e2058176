from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.preprocess.passes.row_files import RowFile, RowFiles


@pytest.mark.parametrize("parts", [[], [0], [3], [2, 0, 5], [1] * 11])
def test_the_file_is_that_of_numpy(parts: list[int], tmp_path: Path) -> None:
    rows = np.arange(3 * sum(parts), dtype=np.int64).reshape(-1, 3)
    with open(tmp_path / "rows.npy", "wb") as file:
        written = RowFile(file, np.dtype(np.int64), 3)
        begin = 0
        for count in parts:
            written.append(rows[begin : begin + count])
            begin += count
        written.finish()
    np.save(tmp_path / "whole.npy", rows)
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert np.load(tmp_path / "rows.npy", mmap_mode="r").tolist() == rows.tolist()


def test_rows_that_are_not_contiguous(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.uint16).reshape(3, 4).T
    with open(tmp_path / "rows.npy", "wb") as file:
        written = RowFile(file, np.dtype(np.uint16), 3)
        written.append(rows)
        written.append(rows[::2])
        written.finish()
    assert np.load(tmp_path / "rows.npy").tolist() == [*rows.tolist(), *rows[::2].tolist()]


@pytest.mark.parametrize(
    "rows", [np.zeros([2, 4], np.int64), np.zeros([2, 3], np.int32), np.zeros(3, np.int64)]
)
def test_rows_of_another_kind(rows: np.ndarray, tmp_path: Path) -> None:
    with (
        open(tmp_path / "rows.npy", "wb") as file,
        pytest.raises(ValueError, match="not \\[n, 3\\]"),
    ):
        RowFile(file, np.dtype(np.int64), 3).append(rows)


def test_columns_of_several_files(tmp_path: Path) -> None:
    paths = []
    for name, rows in (("a", [[1, 2], [3, 4]]), ("b", []), ("c", [[5, 6]])):
        paths.append(f"{tmp_path}/{name}.npy")
        np.save(paths[-1], np.asarray(rows, np.int64).reshape(-1, 2))
    files = RowFiles(paths)
    assert [part.tolist() for part in files] == [[[1, 2], [3, 4]], [], [[5, 6]]]
    second = files.columns(1)
    for _ in range(2):  # each time anew
        assert [part.tolist() for part in second] == [[2, 4], [], [6]]
