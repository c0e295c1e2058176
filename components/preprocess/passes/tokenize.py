"""Tokenises blocks of text: applies model/text/tokenizer.py once to each distinct chunk.

Chunks are separated by ASCII white space. No operation of model/text/tokenizer.py looks across it,
so a line's words are those of its chunks, and repeated chunks cost only a look-up.
tests/test_components_preprocess_passes_tokenize.py compares both ways.

Shape letters: N words in a block, M lines, K chunks, U distinct words.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import re

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.config import DataConfig
from model.text import tokenizer
from model.text.vocab import LINE_END

IntArray = npt.NDArray[np.int64]

_LINE_MARK = b"\0"
"""Chunk that stands for a line end; text contains no NUL."""

_CALLS_AS_IT_IS = 50

_LINE_ENDS = re.compile(rb"\r\n?|\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizedBlock:
    """The words of a block.

    Attributes:
      distinct: the U distinct words, in order of first occurrence.
      words: `[N]` int32 indices into `distinct`.
      line_ends: `[M]` end of each line in `words`.
      line_offsets: `[M]` byte offset of each line in the block.
    """

    distinct: list[bytes]
    words: npt.NDArray[np.int32]
    line_ends: IntArray
    line_offsets: IntArray


def tokenize_block(text: bytes, config: DataConfig) -> TokenizedBlock:
    r"""Splits lines into words.

    Args:
      text: valid UTF-8 without NUL. Lines end at `
      `, `\r
      `, `\r` or the end of the text.
      config: tokenizer, case, and whether line ends are words.
    """
    offsets, marked = _mark_lines(text)
    numbers: collections.defaultdict[bytes, int] = collections.defaultdict(
        itertools.count().__next__
    )
    mark = numbers[_LINE_MARK]
    pieces = marked.split()
    chunks = np.fromiter(map(numbers.__getitem__, pieces), np.int32, len(pieces))
    del pieces
    distinct, chunk_words, chunk_begins = _tokenize_chunks(list(numbers)[1:], config)
    # The mark is chunk 0, and a single word until lines without words are known.
    distinct.append(LINE_END)
    chunk_words = np.append(chunk_words, np.int32(len(distinct) - 1))
    begins = np.concatenate([[chunk_begins[-1]], chunk_begins[:-1]])
    counts = np.concatenate([[1], np.diff(chunk_begins)])
    words = _gather(chunk_words, begins, counts, chunks)
    ends = np.cumsum(counts[chunks])[chunks == mark]
    return _drop_marks(distinct, words, ends, offsets, keep=config.sentence_marks)


def line_offsets(text: bytes) -> IntArray:
    """Returns `[M]` the byte offset of each line of a text."""
    return _mark_lines(text)[0]


def count_characters(text: bytes, offsets: IntArray) -> IntArray:
    r"""Returns `[M]` Unicode characters per line; a line end, even `\r\n`, counts as one.

    Args:
      text: valid UTF-8.
      offsets: `[M]` byte offset of each line.
    """
    if not len(offsets):
        return np.zeros(0, np.int64)
    if text.isascii() and b"\r" not in text:
        return np.diff(offsets, append=len(text))
    data = np.frombuffer(text, np.uint8)
    begins = (data & 0xC0) != 0x80  # all bytes except continuation bytes
    if b"\r\n" in text:
        begins[1:] &= (data[1:] != 10) | (data[:-1] != 13)
    characters: IntArray = np.add.reduceat(begins, offsets, dtype=np.int64)
    return characters


def _mark_lines(text: bytes) -> tuple[IntArray, bytes]:
    """Returns `[M]` line offsets, and the text with a mark at the end of each line."""
    if b"\r" in text:
        ends = np.fromiter((found.end() for found in _LINE_ENDS.finditer(text)), np.int64)
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        size = int(ends[-1]) + len(text) - text.rfind(b"\n") - 1
    else:
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 10) + 1
        size = len(text)
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    if len(ends) and ends[-1] == size:
        offsets = offsets[:-1]
    elif text:
        text += b"\n"
    else:
        offsets = offsets[:0]
    return offsets, text.replace(b"\n", b" \0 ")


def _tokenize_chunks(
    chunks: list[bytes], config: DataConfig
) -> tuple[list[bytes], npt.NDArray[np.int32], IntArray]:
    """Tokenises `[K]` chunks.

    Returns:
      Distinct words; indices into them of all chunks' words; `[K + 1]` start of each chunk.
    """
    with tf.device("CPU:0"):  # otherwise every Beam worker would claim a GPU's memory
        distinct, index, splits = _tokenizer(config)(tf.constant(chunks, tf.string, [len(chunks)]))
    return distinct.numpy().tolist(), index.numpy(), splits.numpy()


@functools.cache
def _tokenizer(config: DataConfig) -> _Tokenizer:
    return _Tokenizer(config)


class _Tokenizer:
    """Maps `[K]` chunks to the result of `_tokenize_chunks`.

    Compiling takes about as long as `_CALLS_AS_IT_IS` uncompiled calls: a worker with a few large
    blocks does without, one with many small files compiles.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._calls = 0
        self._compiled = tf.function(
            self._tokenize,
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )

    def __call__(self, chunks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        self._calls += 1
        tokenize = self._tokenize if self._calls <= _CALLS_AS_IT_IS else self._compiled
        distinct, index, splits = tokenize(chunks)
        return distinct, index, splits

    def _tokenize(self, chunks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        words = tokenizer.tokenize_lines(chunks, self._config)
        distinct, index = tf.unique(words.flat_values)
        return distinct, index, words.row_splits


def _gather(
    values: npt.NDArray[np.int32], begins: IntArray, counts: IntArray, rows: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    lengths = counts[rows]
    if np.all(lengths == 1):
        return values[begins[rows]]
    places = np.arange(int(lengths.sum()), dtype=np.int64)
    places += np.repeat(begins[rows] - (np.cumsum(lengths) - lengths), lengths)
    return values[places]


def _drop_marks(
    distinct: list[bytes],
    words: npt.NDArray[np.int32],
    ends: IntArray,
    offsets: IntArray,
    *,
    keep: bool,
) -> TokenizedBlock:
    """Removes the marks of lines without words, or all of them."""
    lengths = np.diff(ends, prepend=0)  # including the mark
    drop = lengths == 1 if keep else np.ones(len(ends), np.bool_)
    stay = np.ones(len(words), np.bool_)
    stay[ends[drop] - 1] = False
    return TokenizedBlock(
        distinct=distinct,
        words=words[stay],
        line_ends=ends - np.cumsum(drop),
        line_offsets=offsets,
    )
