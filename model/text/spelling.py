"""Spells words: byte b becomes `b + CHAR_OFFSET`, marks are 1 to 4, padding is 0.

There are three equivalent implementations: per word (`spell`), as rows of an array (`spell_rows`,
`spelling_matrix`), and in a TensorFlow graph (`spell_tensor` in `spelling_tensors`, since this
module does not import TensorFlow).

Shape letters: N words, W characters per word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.text.vocab import DOCUMENT_START, LINE_END

IntArray = npt.NDArray[np.int64]

CHAR_PAD, CHAR_BEGIN, CHAR_END, CHAR_BOS, CHAR_EOS = range(5)
"""Character ids that are not bytes: padding, start and end of a word, `<s>`, `</s>`."""
CHAR_OFFSET = 5
"""A byte `b` has the character id `b + CHAR_OFFSET`."""
NUM_CHARS = CHAR_OFFSET + 256


def spell(word: bytes) -> list[int]:
    """Returns the character ids of one word of a stream, without begin and end marks."""
    if word == DOCUMENT_START:
        return [CHAR_BOS]
    if word == LINE_END:
        return [CHAR_EOS]
    return [byte + CHAR_OFFSET for byte in word]


def unspell(chars: Sequence[int]) -> bytes:
    """Inverts `spell`."""
    if list(chars) == [CHAR_BOS]:
        return DOCUMENT_START
    if list(chars) == [CHAR_EOS]:
        return LINE_END
    return bytes(char - CHAR_OFFSET for char in chars)


def spell_rows(words: Sequence[bytes], max_word_bytes: int) -> npt.NDArray[np.uint16]:
    """Returns the characters of words as rows `[N, W]`; see `spelling_matrix`."""
    spelled = [spell(word) for word in words]
    flat = np.asarray([char for word in spelled for char in word], np.int64)
    lengths = np.asarray([len(word) for word in spelled], np.int64)
    return spelling_matrix(flat, lengths, max_word_bytes)


def spelling_matrix(
    char_ids: npt.NDArray[np.integer], word_lengths: IntArray, max_word_bytes: int
) -> npt.NDArray[np.uint16]:
    """Arranges flat spellings in rows with begin and end marks.

    Args:
      char_ids: `[sum(word_lengths)]`.
      word_lengths: `[N]`.
      max_word_bytes: W; a longer word keeps its first W - 2 characters.

    Returns:
      `[N, W]`, padded with `CHAR_PAD` (0).
    """
    matrix = np.zeros((len(word_lengths), max_word_bytes), np.uint16)
    char_ids, word_lengths = truncate(char_ids, word_lengths, max_word_bytes - 2)
    rows = np.arange(len(word_lengths)) * max_word_bytes
    flat = matrix.reshape(-1)
    flat[spread(rows + 1, word_lengths)] = char_ids
    flat[rows] = CHAR_BEGIN
    flat[rows + 1 + word_lengths] = CHAR_END
    return matrix


def truncate(
    char_ids: npt.NDArray[np.integer], word_lengths: IntArray, longest: int
) -> tuple[npt.NDArray[np.integer], IntArray]:
    """Truncates each word to its first `longest` characters; arguments as above."""
    if not len(word_lengths) or word_lengths.max() <= longest:
        return char_ids, word_lengths
    kept = np.minimum(word_lengths, longest)
    return char_ids[spread(np.cumsum(word_lengths) - word_lengths, kept)], kept


def spread(starts: IntArray, sizes: IntArray) -> IntArray:
    """Returns the concatenation of `start, start + 1, ..` for `[n]` starts, `[sum(sizes)]`."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)
