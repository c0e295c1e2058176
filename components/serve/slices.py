"""Cuts a request into calls of the model, and joins their answers.

A text's results do not depend on the texts that are read with it (docs/decisions/0016), so the
joined answer is that of one call; only memory and the time until others get their turn differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.serve.messages import TensorInfo
from components.serve.requests import HttpError, Question, Values

MAX_WORDS = 1 << 15
"""Maximum words in the texts of a request."""
MAX_VALUES = 1 << 19
"""Maximum numbers and strings in an answer, padding included."""
SLICE_WORDS = 1024
"""Words of a call, unless one text alone has more."""

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Slice(NamedTuple):
    """One call of the model."""

    inputs: Values
    words: int


def cut(question: Question, words: Sequence[int]) -> Iterator[Slice]:
    """Yields a request's calls.

    Args:
      question: the request.
      words: of each of its texts.
    """
    start = total = 0
    for at, count in enumerate(words):
        if at > start and total + count > SLICE_WORDS:
            yield Slice(_rows(question.inputs, start, at), total)
            start, total = at, 0
        total += count
    yield Slice(_rows(question.inputs, start, len(words)), total)


def _rows(inputs: Values, start: int, stop: int) -> Values:
    return {
        name: value[start:stop] if isinstance(value, list) else value
        for name, value in inputs.items()
    }


def check_words(words: Sequence[int]) -> None:
    """Raises HttpError if texts have too many words."""
    total = sum(words)
    if total > MAX_WORDS:
        raise HttpError(
            400, f"the texts have {total:,} words; at most {MAX_WORDS:,} are allowed in a request"
        )


def check_values(values: int) -> None:
    """Raises HttpError if an answer would have too many values."""
    if values > MAX_VALUES:
        raise HttpError(
            400,
            f"the answer would have {values:,} values; at most {MAX_VALUES:,} are allowed: send "
            "fewer or shorter texts, or a smaller k",
        )


def count_values(question: Question, longest: int, outputs: Mapping[str, TensorInfo]) -> int:
    """Returns the numbers and strings in the answer, padding included.

    Args:
      question: the request.
      longest: words of its longest text.
      outputs: of its signature; the first unknown size is that of the texts, others are the words
        of the longest one, or `k`.
    """
    length = question.inputs.get("k", longest)
    return sum(
        question.size * math.prod(length if size is None else size for size in info.shape[1:])
        for info in outputs.values()
    )


def join(parts: Sequence[Arrays]) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the outputs of several calls as those of one, padded to the longest text."""
    if len(parts) == 1:
        return dict(parts[0])
    joined = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        shape = [
            sum(len(array) for array in arrays),
            *np.max([a.shape[1:] for a in arrays], axis=0),
        ]
        whole = np.full([int(size) for size in shape], _padding(arrays[0]), arrays[0].dtype)
        row = 0
        for array in arrays:
            whole[(slice(row, row + len(array)), *map(slice, array.shape[1:]))] = array
            row += len(array)
        joined[name] = whole
    return joined


def _padding(array: np.ndarray[Any, Any]) -> Any:
    return b"" if array.dtype == object else array.dtype.type(0)
