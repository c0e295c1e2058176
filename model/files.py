"""Files that a reader sees whole or not at all. No TensorFlow here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt


def write_whole(path: str, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, under another name, then renames it; replaces an older one."""
    data = content.encode() if isinstance(content, str) else content
    # Not by process id: two containers on one volume may have the same.
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def hash_file(path: str) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(file: str | BinaryIO, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes arrays by name as an uncompressed `.npz`, with the same bytes under any NumPy 2.

    Raises:
      ValueError: an array holds Python objects, which a reader would have to unpickle.
    """
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise ValueError(f"arrays of Python objects can't be written: {', '.join(objects)}")
    # Arrays only: NumPy before 2.2 saves any flag, allow_pickle too, as one more array.
    named: dict[str, Any] = dict(arrays)
    np.savez(file, **named)
