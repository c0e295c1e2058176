"""Writes answers as JSON, piece by piece: other threads wait while Python encodes a piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from components.export.probe import as_text
from components.serve.requests import Question

PIECE = 4096
"""Most numbers or strings encoded without a pause."""

Array = np.ndarray[Any, Any]


def encode_answer(question: Question, outputs: Mapping[str, Array]) -> Iterator[str]:
    """Yields the body of the answer to a question, in pieces."""
    if question.by_rows:
        yield '{"predictions": ['
        for row in range(question.size):
            yield ", " if row else ""
            yield from _encode_object({name: array[row, ...] for name, array in outputs.items()})
        yield "]}"
    else:
        yield '{"outputs": '
        yield from _encode_object(outputs)
        yield "}"


def _encode_object(outputs: Mapping[str, Array]) -> Iterator[str]:
    separator = "{"
    for name, array in outputs.items():
        yield f"{separator}{_dump(name)}: "
        yield from _encode_array(array)
        separator = ", "
    yield "}"


def _encode_array(array: Array) -> Iterator[str]:
    if array.size <= PIECE:
        yield _dump(_as_plain(array))
        return
    rows = max(1, PIECE // (array.size // len(array)))
    for start in range(0, len(array), rows):
        yield ", " if start else "["
        part = array[start : start + rows]
        if part.size > PIECE:  # one row, a long one
            yield from _encode_array(part[0])
        else:
            yield _dump(_as_plain(part))[1:-1]
    yield "]"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_plain(array: Array) -> Any:
    """Returns nested lists of numbers or strings."""
    return as_text(array.tolist()) if array.dtype == object else array.tolist()
