"""Words to characters in a TensorFlow graph; see `model.text.spelling`."""

from __future__ import annotations

import tensorflow as tf

from model.text.spelling import CHAR_BEGIN, CHAR_BOS, CHAR_END, CHAR_EOS, CHAR_OFFSET
from model.text.vocab import DOCUMENT_START, LINE_END


def spell_tensor(words: tf.Tensor, max_word_bytes: int) -> tf.Tensor:
    """Returns the characters of words `[N]`, as `spell_rows` does: `[N, W]` int32."""
    singles = tf.strings.bytes_split(words)
    values = tf.reshape(tf.io.decode_raw(singles.flat_values, tf.uint8), [-1])
    chars = tf.cast(values, tf.int32) + CHAR_OFFSET
    line_end = LINE_END[0] + CHAR_OFFSET  # only the mark has this byte, no word
    ragged = singles.with_flat_values(tf.where(chars == line_end, CHAR_EOS, chars))
    ragged = ragged[:, : max_word_bytes - 2]
    count = ragged.nrows(out_type=tf.int32)
    begin, end = tf.fill([count, 1], CHAR_BEGIN), tf.fill([count, 1], CHAR_END)
    matrix = tf.concat([begin, ragged, end], axis=1).to_tensor(shape=[None, max_word_bytes])
    start = tf.one_hot(1, max_word_bytes, on_value=CHAR_BOS, dtype=tf.int32)
    start += tf.one_hot(0, max_word_bytes, on_value=CHAR_BEGIN, dtype=tf.int32)
    start += tf.one_hot(2, max_word_bytes, on_value=CHAR_END, dtype=tf.int32)
    return tf.where((words == DOCUMENT_START)[:, tf.newaxis], start[tf.newaxis], matrix)
