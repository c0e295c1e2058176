from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model.text.spelling import (
    CHAR_BEGIN,
    CHAR_BOS,
    CHAR_END,
    CHAR_EOS,
    CHAR_OFFSET,
    CHAR_PAD,
    NUM_CHARS,
    spell,
    spell_rows,
    unspell,
)
from model.text.spelling_tensors import spell_tensor
from model.text.vocab import DOCUMENT_START, LINE_END

NASTY = [
    b"a",
    b"cat",
    "🐱🐱🐱🐱".encode(),
    "zoë".encode(),
    b"x" * 9,
    b"x" * 10,
    b"x" * 11,
    b"x" * 5000,
    b"\x01",
    b"\x00",
    b"\x02\x03\x04\x05",
    b"\xff\xfe",
    LINE_END,
]


def row(word: bytes, width: int) -> list[int]:
    """Returns the row of a word, laid out by hand."""
    chars = [CHAR_BEGIN, *spell(word)[: width - 2], CHAR_END]
    return chars + [CHAR_PAD] * (width - len(chars))


def test_spelling() -> None:
    assert spell(DOCUMENT_START) == [CHAR_BOS]
    assert spell(LINE_END) == [CHAR_EOS]
    assert spell(b"</s>") == [byte + CHAR_OFFSET for byte in b"</s>"]
    assert spell("é".encode()) == [0xC3 + 5, 0xA9 + 5]
    assert max(spell(bytes(range(256)))) == NUM_CHARS - 1
    assert min(spell(bytes(range(256)))) > CHAR_EOS


@pytest.mark.parametrize("word", [DOCUMENT_START, LINE_END, b"a", "né".encode(), b"</s>", b"\x00"])
def test_unspell_is_the_inverse(word: bytes) -> None:
    assert unspell(spell(word)) == word


def test_rows_exactly() -> None:
    words = [b"ab", b"abc", b"abcd", DOCUMENT_START, LINE_END, b"\xff\x00"]
    assert spell_rows(words, 5).tolist() == [
        [1, 102, 103, 2, 0],
        [1, 102, 103, 104, 2],
        [1, 102, 103, 104, 2],
        [1, 3, 2, 0, 0],
        [1, 4, 2, 0, 0],
        [1, 260, 5, 2, 0],
    ]


@pytest.mark.parametrize("width", [4, 7, 24])
def test_rows_of_random_words(width: int) -> None:
    random = np.random.default_rng(width)
    words = [random.bytes(int(n)) or b"-" for n in random.integers(0, 30, 200)]
    assert spell_rows(words, width).tolist() == [row(word, width) for word in words]


def test_rows_of_no_words() -> None:
    assert spell_rows([], 5).shape == (0, 5)


@pytest.mark.parametrize("width", [4, 12])
def test_a_graph_spells_as_the_rows_do(width: int) -> None:
    expected = spell_rows([DOCUMENT_START, *NASTY], width)
    found = spell_tensor(tf.constant([DOCUMENT_START, *NASTY, *reversed(NASTY)]), width)
    order = [*range(len(NASTY) + 1), *range(len(NASTY), 0, -1)]
    assert found.numpy().tolist() == expected[order].tolist()
    assert spell_tensor(tf.constant([], tf.string), width).shape == (0, width)
