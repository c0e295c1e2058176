"""Arrays in files: the same content under every NumPy that setup.py allows."""

from __future__ import annotations

import weakref
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.arrays import write_arrays


def test_a_file_of_arrays_holds_the_arrays_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy 2.0 and 2.1 know no flag of `savez`: what it is called with becomes an array."""
    savez, given = np.savez, []

    def as_in_numpy_2_0(file: Any, *args: Any, **arrays: Any) -> None:
        given.extend([*args, *arrays])
        savez(file, *args, **arrays)

    monkeypatch.setattr(np, "savez", as_in_numpy_2_0)
    arrays = {"model/a": np.arange(3), "state": np.zeros((2, 0), np.float32)}
    write_arrays(str(tmp_path / "a.npz"), arrays)
    assert given == ["model/a", "state"]
    assert zipfile.ZipFile(tmp_path / "a.npz").namelist() == ["model/a.npy", "state.npy"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arrays of Python objects can't be written: b, c"):
        write_arrays(
            str(tmp_path / "a.npz"),
            {"a": np.zeros(2), "b": np.asarray([{}]), "c": np.asarray(["x"], object)},
        )
    assert list(tmp_path.iterdir()) == []


class Variable:
    """What becomes an array when it is written; no two arrays may be there at once."""

    alive = 0

    def __init__(self, number: int):
        self.number = number
        self.dtype, self.nbytes = np.dtype(np.float32), 12

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        assert Variable.alive == 0
        Variable.alive += 1
        array = np.full(3, self.number, np.float32)
        weakref.finalize(array, self.released)
        return array

    @staticmethod
    def released() -> None:
        Variable.alive -= 1


def test_variables_are_copied_one_by_one(tmp_path: Path) -> None:
    write_arrays(str(tmp_path / "a.npz"), {"a": Variable(1), "b": Variable(2), "c": Variable(3)})
    with np.load(tmp_path / "a.npz") as found:
        assert {name: found[name].tolist() for name in found} == {
            "a": [1.0] * 3, "b": [2.0] * 3, "c": [3.0] * 3
        }  # fmt: skip
