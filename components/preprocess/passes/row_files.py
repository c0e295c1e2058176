"""Arrays in `.npy` files that are written row by row, so that they need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt


class RowFile:
    """A `.npy` file of an array `[rows, columns]` whose number of rows is known at its end only."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any], columns: int):
        """Writes the header of an array without rows at the start of a file."""
        self._file = file
        self._dtype = dtype
        self._columns = columns
        self._rows = 0
        self._write_header()

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Adds rows, `[n, columns]`.

        Raises:
          ValueError: they have another shape or type.
        """
        if rows.ndim != 2 or rows.shape[1] != self._columns or rows.dtype != self._dtype:
            raise ValueError(
                f"rows {rows.shape} of {rows.dtype}, not [n, {self._columns}] of {self._dtype}"
            )
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows += len(rows)

    def finish(self) -> None:
        """Writes the number of rows into the header."""
        self._file.seek(0)
        self._write_header()
        self._file.seek(0, 2)

    def _write_header(self) -> None:
        # NumPy leaves room for any number of rows, so the header's size does not change.
        shape = (self._rows, self._columns)
        described = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": described, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


class RowFiles:
    """Columns of several such files; loads one file at a time, each time anew."""

    def __init__(self, paths: Sequence[str], columns: slice | int = slice(None)) -> None:
        """Selects columns, all by default; a number gives `[rows]` instead of `[rows, columns]`."""
        self._paths = paths
        self._columns = columns

    def columns(self, columns: slice | int) -> RowFiles:
        """Returns other columns of the same files."""
        return RowFiles(self._paths, columns)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Yields the columns of each file."""
        for path in self._paths:
            yield np.load(path)[:, self._columns]
