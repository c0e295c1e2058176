"""Requests cut into calls of the model, and the limits on them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from components.serve.encoding import PIECE, encode_answer
from components.serve.messages import TensorInfo
from components.serve.requests import HttpError, Question
from components.serve.slices import (
    MAX_VALUES,
    MAX_WORDS,
    SLICE_WORDS,
    check_values,
    check_words,
    count_values,
    cut,
    join,
)


def question(size: int, *, by_rows: bool = False, **others: Any) -> Question:
    inputs = {"texts": [f"text {number}" for number in range(size)], **others}
    return Question("score", inputs, by_rows, size)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([7], [(1, 7)]),
        ([0], [(1, 0)]),
        ([SLICE_WORDS * 9], [(1, SLICE_WORDS * 9)]),
        ([SLICE_WORDS // 2] * 5, [(2, SLICE_WORDS), (2, SLICE_WORDS), (1, SLICE_WORDS // 2)]),
        ([SLICE_WORDS, 1, 1], [(1, SLICE_WORDS), (2, 2)]),
        ([1, SLICE_WORDS, 1], [(1, 1), (1, SLICE_WORDS), (1, 1)]),
    ],
)
def test_texts_are_dealt_to_calls_in_order(
    words: list[int], expected: list[tuple[int, int]]
) -> None:
    asked = question(len(words), k=3)
    slices = list(cut(asked, words))
    assert [(len(one.inputs["texts"]), one.words) for one in slices] == expected
    assert [text for one in slices for text in one.inputs["texts"]] == asked.inputs["texts"]
    assert all(one.inputs["k"] == 3 for one in slices)


def test_a_joined_answer_is_that_of_one_call() -> None:
    whole = {
        "perplexity": np.arange(5, dtype=np.float32),
        "tokens": np.array([[b"a", b"b", b"c"], *([[b"d", b"", b""]] * 4)], object),
        "unknown": np.array([[True, False, True], *([[True, False, False]] * 4)]),
        "embeddings": np.zeros([5, 3, 2, 4], np.float32),
    }
    whole["embeddings"][0] = 1.5
    whole["embeddings"][1:, 0] = 2.5
    parts = [
        {name: array[start:stop, *[slice(0, length)] * (array.ndim > 1)] for name, array in whole.items()}
        for start, stop, length in ((0, 1, 3), (1, 3, 1), (3, 5, 1))
    ]  # fmt: skip
    for cuts in (parts, [*parts[1:], parts[0]], [whole]):
        joined = join(cuts)
        assert list(joined) == list(whole)
        for name, array in joined.items():
            assert array.dtype == whole[name].dtype
            moved = whole[name] if cuts[0] is not parts[1] else np.roll(whole[name], -1, axis=0)
            assert array.tolist() == moved.tolist()


OUTPUTS = {
    "words": TensorInfo("int64", (None,)),
    "tokens": TensorInfo("string", (None, None)),
    "embeddings": TensorInfo("float32", (None, None, 2, 24)),
}


def test_values_of_an_answer() -> None:
    assert count_values(question(3), 10, OUTPUTS) == 3 + 30 + 30 * 48
    found = {name: TensorInfo("string", (None, None)) for name in ("words", "probabilities")}
    assert count_values(question(3, k=7), 10, found) == 2 * 21


def test_limits() -> None:
    check_words([MAX_WORDS - 1, 1])
    with pytest.raises(
        HttpError, match=r"^the texts have 32,769 words; at most 32,768 are allowed"
    ):
        check_words([MAX_WORDS, 1])
    check_values(MAX_VALUES)
    with pytest.raises(HttpError, match=r"^the answer would have 524,289 values; at most 524,288 "):
        check_values(MAX_VALUES + 1)


def decoded(asked: Question, outputs: dict[str, Any]) -> tuple[str, int]:
    """Returns the answer, and the most numbers in a piece of it."""
    pieces = list(encode_answer(asked, outputs))
    return "".join(pieces), max(piece.count(",") for piece in pieces)


def test_answers_by_rows_and_by_columns() -> None:
    outputs = {
        "words": np.array([1, 2]),
        "perplexity": np.array([3.0, 0.1], np.float32),
        "tokens": np.array([[b"\xc3\xa9", b'"'], [b"", b""]], object),
        "unknown": np.array([[True, False], [False, False]]),
    }
    plain = {
        "words": [1, 2],
        "perplexity": [3.0, float(np.float32(0.1))],
        "tokens": [["é", '"'], ["", ""]],
        "unknown": [[True, False], [False, False]],
    }
    answer, _ = decoded(question(2), outputs)
    assert answer == json.dumps({"outputs": plain}, ensure_ascii=False)
    rows = [{name: values[row] for name, values in plain.items()} for row in range(2)]
    answer, _ = decoded(question(2, by_rows=True), outputs)
    assert answer == json.dumps({"predictions": rows}, ensure_ascii=False)


@pytest.mark.parametrize(
    "shape", [(9, 3000), (2, 5000, 3), (1, 20_000), (20_000,), (3, 5, 900, 2), (4, 0)]
)
@pytest.mark.parametrize("by_rows", [False, True])
def test_a_large_answer_is_encoded_in_small_pieces(shape: tuple[int, ...], by_rows: bool) -> None:
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    asked = question(shape[0], by_rows=by_rows)
    answer, most = decoded(asked, {"found": array})
    expected = [{"found": row} for row in array.tolist()] if by_rows else {"found": array.tolist()}
    assert answer == json.dumps({"predictions" if by_rows else "outputs": expected})
    assert most < PIECE
