"""The only definition of words: normalisation and tokenisation, as tensorflow_text ops.

The Beam workers and the exported SavedModel run the same code, so a served model splits text as its
training text was split. See `model/text/vocab.py` for the two marks in a stream of words.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from model.config import DataConfig
from model.text.vocab import LINE_END

_SIGNS = r"(\.+|-+|_+|\*+|=+|~+|#+|[\pP\pS])"
"""A punctuation mark or symbol; runs that draw lines (`-----`) stay whole."""

_WIDE_SPACES = r"[\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"
"""Multi-byte white space, whose first bytes the tokenizer leaves on the preceding word."""

_UNSPACED = (
    "["
    r"\p{Han}\x{20000}-\x{3FFFD}\p{Hiragana}\p{Katakana}\p{Bopomofo}"
    r"\p{Yi}\p{Nushu}\p{Tangut}\p{Khitan_Small_Script}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}"
    r"\p{Javanese}\p{Balinese}\p{Batak}\p{Buginese}"
    r"\x{3006}\x{3031}-\x{3035}\x{303C}\x{30FC}\x{FF70}"
    "]"
)
"""A character of a script that does not separate words.

The ideographic planes are covered completely, since Unicode keeps adding to them. The last line
holds letters that scripts share: the closing mark, repeat marks, the masu mark and Japanese
prolonged sound marks. Not included: Tibetan, whose syllable mark makes `words` yield syllables.
"""

_MARKS = r"[\pM\x{200C}\x{200D}\x{0E33}\x{0EB3}\x{FF9E}\x{FF9F}]"
"""Marks, joiners, and characters that Unicode counts as letters though they attach to the preceding
letter: Thai and Lao am, half-width voicing marks."""

_STACKERS = r"[\x{1039}\x{17D2}\x{1A60}\x{1B44}\x{A9C0}]"
"""Marks that stack the next letter below: Myanmar, Khmer, Tai Tham, Balinese, Javanese."""

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
        # Only within words, without white space: the script tokenizer joins digits or signs on both
        # sides of a space ("16 1945" -> "161945").
        split = _split_graphemes if config.tokenizer == "graphemes" else _split_scripts
        words = words.with_flat_values(split(words.flat_values)).merge_dims(1, 2)
    return words


def _split_scripts(words: tf.Tensor) -> tf.RaggedTensor:
    """Returns `[N, (parts)]`: words cut where the script changes.

    Does what the tokenizer does to strings, but without the byte offsets of the parts, which take
    most of its time and can't be disabled through its public API.
    """
    characters = tf.strings.unicode_decode(words, "UTF-8")
    parts, _, _ = tf_text.UnicodeScriptTokenizer()._tokenize_codepoints_with_offsets(characters)
    split: tf.RaggedTensor = tf.strings.unicode_encode(parts, "UTF-8")
    return split


def _split_graphemes(words: tf.Tensor) -> tf.RaggedTensor:
    """Like `_split_scripts`, which separates marks from letters, but keeps graphemes whole."""
    whole = tf.strings.regex_full_match(words, _GRAPHEME)
    graphemes = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(words, whole), tf.cast(whole, tf.int64)
    )
    return tf.concat([graphemes, _split_scripts(tf.where(whole, "", words))], axis=1)


def mark_line_ends(words: tf.RaggedTensor, is_open: tf.Tensor | None = None) -> tf.RaggedTensor:
    """Appends the line-end mark to every line that has a word.

    Args:
      words: `[N, (words)]`.
      is_open: `[N]`, True for unfinished lines, which get no mark.
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
      texts: `[N]` strings; bytes that are not UTF-8 become U+FFFD.
      config: tokenizer, case and whether line ends are words.
      open_end: each text continues after its last character, so an unfinished last line gets
        no mark.

    Returns:
      `[N, (L)]` strings, without the document start.
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    lines = tf.strings.split(tf.strings.regex_replace(texts, "\r\n?", "\n"), "\n")
    words = tokenize_lines(lines.flat_values, config)
    if config.sentence_marks:
        is_open = None
        if open_end:  # the last line of each text
            ends = tf.fill([lines.nrows()], True)
            is_open = tf.scatter_nd(lines.row_splits[1:, tf.newaxis] - 1, ends, [words.nrows()])
        words = mark_line_ends(words, is_open)
    return lines.with_flat_values(words).merge_dims(1, 2)


def detokenize(words: Sequence[bytes]) -> bytes:
    """Joins words into a text: spaces between words, a line end for each line-end mark.

    For the output of `tokenize_texts` under any config:

    * `tokenize_texts` splits the text into the same words again, with `open_end` if the words don't
      end with a mark;
    * apart from white space, it equals the normalised text.

    With the tokenizer `whitespace`, the text equals the normalised text with runs of white space
    collapsed to one space and lines stripped; with `sentence_marks`, line breaks are preserved
    except for blank lines. `words` and `graphemes` do not record where white space was.

    Args:
      words: words and line-end marks, without the document start.
    """
    lines = b" ".join(words).split(LINE_END)
    return LINE_END.join(line.strip(b" ") for line in lines)
