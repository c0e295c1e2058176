"""Word inputs of a served model: from a table if frequent, otherwise computed from characters.

Products use a fixed number of rows, so a word's results are bit-identical whatever words share the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from model.network.char_vectors import char_vectors
from model.network.joint_model import JointModel
from model.text.spelling_tensors import spell_tensor
from model.text.vocab import (
    SPECIAL_WORDS,
    UNK_ID,
    Vocabulary,
)

MAX_TABLE_BYTES = 1 << 30
"""Of each table; words beyond it are computed from their characters."""
SPELLED_ROWS = 16
"""Words per block of the char-CNN."""
ROWS = 48
"""Rows per block of other products: a multiple of the block size of matrix products on every
processor with AVX, so that all rows are computed the same way."""


def by_rows(
    function: Callable[..., Any],
    *arrays: tf.Tensor,
    rows: int,
    shape: Sequence[int | tf.Tensor] = (),
    dtype: Any = tf.float32,
) -> Any:
    """Applies a function to arrays in blocks of a fixed number of rows.

    Args:
      function: maps `rows` rows of each array to `[rows, *shape]`, or to several such arrays.
      arrays: `[n, ..]` each.
      rows: block size; the last block is padded with zeros.
      shape: of the function's result per row; a size may be a tensor.
      dtype: of the result, or one per result.

    Returns:
      `[n, *shape]`, or several.
    """
    count = tf.shape(arrays[0])[0]
    blocks = []
    for array in arrays:
        rest = array.shape[1:].as_list()
        padding = [[0, -count % rows], *([0, 0] for _ in rest)]
        blocks.append(tf.reshape(tf.pad(array, padding), [-1, rows, *rest]))
    static = [rows, *(None if tf.is_tensor(size) else size for size in shape)]
    found = tf.map_fn(
        lambda block: function(*block),
        blocks,
        fn_output_signature=tf.nest.map_structure(lambda one: tf.TensorSpec(static, one), dtype),
        parallel_iterations=1,
    )
    return tf.nest.map_structure(lambda part: tf.reshape(part, [-1, *shape])[:count], found)


class ServedWords(tf.Module):
    """Maps strings to their contribution to the first LSTM layer's gates."""

    def __init__(self, model: JointModel, vocab: Vocabulary, *, precision: str):
        """Computes the tables.

        Args:
          model: the trained model.
          vocab: its vocabulary.
          precision: of the table.
        """
        super().__init__(name="words")
        self._model = model
        self._precision = precision
        words = list(vocab.ids.items())
        self._ids = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                [word for word, _ in words], tf.constant([i for _, i in words], tf.int64)
            ),
            default_value=UNK_ID,
        )
        spelled = vocab.stream_words
        self.directions: tf.Variable | None = None
        """`[n, F]` vectors of the most frequent non-special words, as `direct` returns them."""
        if model.char_cnn is not None:
            room = MAX_TABLE_BYTES // (4 * sum(model.config.filter_counts))
            vectors = char_vectors(model, spelled[len(SPECIAL_WORDS) : room])
            self._mean = tf.constant(vectors.mean(axis=0))
            self.directions = tf.Variable(self.direct(vectors), trainable=False, name="directions")
        size = tf.as_dtype(precision).size * 4 * model.config.lstm_dim
        gates = self._compute(tf.constant(spelled[: MAX_TABLE_BYTES // size]))
        self._table = tf.Variable(tf.cast(gates, precision), trainable=False, name="gates")

    def look_up(self, words: tf.Tensor) -> tf.Tensor:
        """Returns the ids `[n]` of words; `UNK_ID` for words outside the vocabulary."""
        return tf.cast(self._ids.lookup(words), tf.int32)

    def gates(self, words: tf.Tensor) -> tf.Tensor:
        """Returns the contribution of words `[n]` to the first layer's gates: `[n, 4H]`."""
        ids, rows = self.look_up(words), self._table.shape[0]
        seen = (ids != UNK_ID) & (ids < rows)
        known = tf.cast(tf.gather(self._table, tf.where(seen, ids, 0)), tf.float32)
        unseen = tf.where(~seen)
        computed = self._compute(tf.gather(words, unseen[:, 0]))
        rounded = tf.cast(tf.cast(computed, self._precision), tf.float32)
        return tf.tensor_scatter_nd_update(known, unseen, rounded)

    def _compute(self, words: tf.Tensor) -> tf.Tensor:
        """Computes `[n, 4H]` from the words' characters and embeddings."""
        features = []
        if self._model.char_cnn is not None:
            features.append(self.read(words))
        if self._model.word_embedding is not None:
            table = self._model.word_embedding.embeddings.value
            features.append(tf.gather(table, self.look_up(words)))
        lstm = self._model.lstms[0]
        return by_rows(
            lambda x: tf.matmul(x, lstm.kernel) + lstm.bias,
            tf.concat(features, axis=-1),
            rows=ROWS,
            shape=[4 * lstm.units],
        )

    def read(self, words: tf.Tensor) -> tf.Tensor:
        """Returns char-CNN vectors `[n, F]` of words `[n]`."""
        cnn, config = self._model.char_cnn, self._model.config
        assert cnn is not None
        size = sum(config.filter_counts)
        return by_rows(
            cnn, spell_tensor(words, config.max_word_bytes), rows=SPELLED_ROWS, shape=[size]
        )

    def direct(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns char-CNN vectors `[n, F]` centred on the vocabulary's mean, with length 1."""
        return tf.math.l2_normalize(vectors - self._mean, axis=1)
