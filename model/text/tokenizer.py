"""THE definition of words: normalise and tokenise, as tensorflow_text ops.

The Beam workers and the exported SavedModel run this same code, so a served model
splits a text as its training text was split. See `model/text/vocab.py` for the two
marks in a stream of words.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from model.config import DataConfig
from model.text.vocab import LINE_END

_SIGNS = r"(\.+|-+|_+|\*+|=+|~+|#+|[\pP\pS])"
"""A punctuation mark or symbol; runs of those that draw lines (`-----`) stay whole."""

_WIDE_SPACES = r"[\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"
"""White space of more than one byte: the tokenizer leaves its first bytes on the word before."""

_UNSPACED = (
    "["
    r"\p{Han}\x{20000}-\x{3FFFD}\p{Hiragana}\p{Katakana}\p{Bopomofo}"
    r"\p{Yi}\p{Nushu}\p{Tangut}\p{Khitan_Small_Script}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}"
    r"\p{Javanese}\p{Balinese}\p{Batak}\p{Buginese}"
    r"\x{3006}\x{3031}-\x{3035}\x{303C}\x{30FC}\x{FF70}"
    "]"
)
"""A character of a script that puts no sign between words.

The planes of ideographs are whole, since Unicode goes on filling them. The last line is letters that
scripts share: the closing mark, repeat marks, the masu mark and prolonged sound marks of Japanese.
Not here: Tibetan, whose sign between syllables makes `words` give syllables.
"""

_MARKS = r"[\pM\x{200C}\x{200D}\x{0E33}\x{0EB3}\x{FF9E}\x{FF9F}]"
"""Marks, joiners, and what Unicode counts as letters though it is written on the letter before:
Thai and Lao am, half-width voicing marks."""

_STACKERS = r"[\x{1039}\x{17D2}\x{1A60}\x{1B44}\x{A9C0}]"
"""Marks that put the next letter below the last one: Myanmar, Khmer, Tai Tham, Balinese, Javanese."""

_GRAPHEME = f"{_UNSPACED}(?:{_STACKERS}{_UNSPACED}|{_MARKS})*"


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
    if config.tokenizer != "whitespace":
        lines = tf.strings.regex_replace(lines, _SIGNS, r" \1 ")
    if config.tokenizer == "graphemes":
        lines = tf.strings.regex_replace(lines, f"({_GRAPHEME})", r" \1 ")
    words: tf.RaggedTensor = tf_text.WhitespaceTokenizer().tokenize(lines)
    if config.tokenizer != "whitespace":
        # Only inside words without white space: the script tokenizer joins what stands
        # on both sides of a space when both are digits or signs ("16 1945" -> "161945").
        split = _split_graphemes if config.tokenizer == "graphemes" else _split_scripts
        words = words.with_flat_values(split(words.flat_values)).merge_dims(1, 2)
    return words


def _split_scripts(words: tf.Tensor) -> tf.RaggedTensor:
    """Returns `[N, (parts)]` words cut where the script changes.

    What the tokenizer does with strings, without looking up the byte offsets of the parts, which
    takes most of its time and has no public way around it.
    """
    characters = tf.strings.unicode_decode(words, "UTF-8")
    parts, _, _ = tf_text.UnicodeScriptTokenizer()._tokenize_codepoints_with_offsets(characters)
    split: tf.RaggedTensor = tf.strings.unicode_encode(parts, "UTF-8")
    return split


def _split_graphemes(words: tf.Tensor) -> tf.RaggedTensor:
    """As `_split_scripts`, which parts marks from letters, but leaves a grapheme whole."""
    whole = tf.strings.regex_full_match(words, _GRAPHEME)
    graphemes = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(words, whole), tf.cast(whole, tf.int64)
    )
    return tf.concat([graphemes, _split_scripts(tf.where(whole, "", words))], axis=1)


def mark_line_ends(words: tf.RaggedTensor, is_open: tf.Tensor | None = None) -> tf.RaggedTensor:
    """Appends the line-end mark to every line that has a word.

    Args:
      words: `[N, (words)]`.
      is_open: `[N]`, True for lines that go on and get none.
    """
    has_word = words.row_lengths() > 0
    if is_open is not None:
        has_word &= ~is_open
    marks = tf.RaggedTensor.from_row_lengths(
        tf.fill([tf.math.count_nonzero(has_word)], tf.constant(LINE_END)),
        tf.cast(has_word, tf.int64),
    )
    return tf.concat([words, marks], axis=1)


def tokenize_texts(
    texts: tf.Tensor, config: DataConfig, *, open_end: bool = False
) -> tf.RaggedTensor:
    """Splits each text into the words that a model reads and predicts.

    Args:
      texts: `[N]` strings; bytes that are not UTF-8 count as U+FFFD.
      config: tokenizer, case and whether line ends are words.
      open_end: each text goes on after its last character, so its last line, unless
        it is ended by a line end, gets no mark.

    Returns:
      `[N, (L)]` strings; the document start is not among them.
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    lines = tf.strings.split(tf.strings.regex_replace(texts, "\r\n?", "\n"), "\n")
    words = tokenize_lines(lines.flat_values, config)
    if config.sentence_marks:
        is_open = None
        if open_end:  # of each text the last line
            ends = tf.fill([lines.nrows()], True)
            is_open = tf.scatter_nd(lines.row_splits[1:, tf.newaxis] - 1, ends, [words.nrows()])
        words = mark_line_ends(words, is_open)
    return lines.with_flat_values(words).merge_dims(1, 2)


def detokenize(words: Sequence[bytes]) -> bytes:
    """Joins words to a text: a space between two words, a line end for each line-end mark.

    For words that `tokenize_texts` gave, whatever the config:

    * `tokenize_texts` splits the text in the same words again, with `open_end` where no mark
      ends the words;
    * without white space it is the normalised text without white space.

    With the tokenizer `whitespace` the text is, moreover, the normalised text with each run of
    white space as one space and no white space at either end of a line; with `sentence_marks`
    lines stay lines, but for blank ones. `words` and `graphemes` do not tell where there was
    white space.

    Args:
      words: words and line-end marks; no document start.
    """
    lines = b" ".join(words).split(LINE_END)
    return LINE_END.join(line.strip(b" ") for line in lines)
