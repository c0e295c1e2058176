"""THE definition of words: normalise and tokenise, as tensorflow_text ops.

The Beam workers and the exported SavedModel run this same code, so a served model
splits a text as its training text was split. See `model/vocab.py` for the two
marks in a stream of words.
"""

from __future__ import annotations

import tensorflow as tf
import tensorflow_text as tf_text

from model.config import DataConfig
from model.vocab import LINE_END

_SIGNS = r"(\.+|-+|_+|\*+|=+|~+|#+|[\pP\pS])"
"""A punctuation mark or symbol; runs of those that draw lines (`-----`) stay whole."""

_WIDE_SPACES = r"[\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"
"""White space of more than one byte: the tokenizer leaves its first bytes on the word before."""


def tokenize_lines(lines: tf.Tensor, config: DataConfig) -> tf.RaggedTensor:
    """Splits lines into words.

    Args:
      lines: `[N]` strings, valid UTF-8, without line ends.
      config: tokenizer and case.

    Returns:
      `[N, (words)]` strings in Unicode normal form C.
    """
    lines = tf_text.case_fold_utf8(lines) if config.lowercase else lines
    lines = tf_text.normalize_utf8(lines, "NFC")
    lines = tf.strings.regex_replace(lines, _WIDE_SPACES, " ")
    if config.tokenizer == "words":
        lines = tf.strings.regex_replace(lines, _SIGNS, r" \1 ")
    words: tf.RaggedTensor = tf_text.WhitespaceTokenizer().tokenize(lines)
    if config.tokenizer == "words":
        # Only inside words without white space: the script tokenizer joins what stands
        # on both sides of a space when both are digits or signs ("16 1945" -> "161945").
        parts = tf_text.UnicodeScriptTokenizer().tokenize(words.flat_values)
        words = words.with_flat_values(parts).merge_dims(1, 2)
    return words


def mark_line_ends(words: tf.RaggedTensor) -> tf.RaggedTensor:
    """Appends the line-end mark to every line that has a word.

    Args:
      words: `[N, (words)]`.
    """
    has_word = words.row_lengths() > 0
    marks = tf.RaggedTensor.from_row_lengths(
        tf.fill([tf.math.count_nonzero(has_word)], tf.constant(LINE_END)),
        tf.cast(has_word, tf.int64),
    )
    return tf.concat([words, marks], axis=1)


def tokenize_text(text: tf.Tensor, config: DataConfig, *, open_end: bool = False) -> tf.Tensor:
    """Splits one text into the words that a model reads and predicts.

    Args:
      text: scalar string; bytes that are no UTF-8 count as U+FFFD.
      config: tokenizer, case and whether line ends are words.
      open_end: the text goes on after its last character, so its last line, unless
        it is ended by a line end, gets no mark.

    Returns:
      `[L]` strings; the document start is not among them.
    """
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    lines = tf.strings.split(tf.strings.regex_replace(text, "\r\n?", "\n"), "\n")
    words = tokenize_lines(lines, config)
    if not config.sentence_marks:
        return words.flat_values
    marked = mark_line_ends(words)
    if open_end:
        marked = tf.concat([marked[:-1], words[-1:]], axis=0)
    return marked.flat_values
