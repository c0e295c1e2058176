"""Writes NumPy arrays that any NumPy 2 can read; `model.files` does not import NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt


class ArrayLike(Protocol):
    """An array, or what becomes one only when it is written, as a model's variables do."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""

    def __array__(self) -> npt.NDArray[Any]:
        """Returns the array."""


def write_arrays(file: str | BinaryIO, arrays: Mapping[str, ArrayLike]) -> None:
    """Writes arrays by name as an uncompressed `.npz`, byte for byte the same under any NumPy 2.

    What is not an array yet becomes one when its turn comes, and is released again.

    Raises:
      ValueError: an array holds Python objects, which a reader would have to unpickle.
    """
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise ValueError(f"arrays of Python objects can't be written: {', '.join(objects)}")
    # Arrays only: NumPy before 2.2 saves any keyword argument, even allow_pickle, as another array.
    named: dict[str, Any] = dict(arrays)
    np.savez(file, **named)
