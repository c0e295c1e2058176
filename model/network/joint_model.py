"""The joint model: predicts the next word from words and their spellings, with one loss.

words    `[U]`    -> word embedding `[U, D]`
char_ids `[U, W]` -> char-CNN       `[U, F]`
joined `[U, F + D]` -> by index `[b, T]` -> LSTM stack -> `[b, T, R]` -> softmax over V words

Everything that depends only on a distinct word, including its product with the first LSTM layer's
weights, is computed once for each of the U words of a window. R is the size of a layer's output: H,
or less with a projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from model.baselines.unigram import unigram_log_probabilities
from model.config import ModelConfig
from model.network.layers import CharCNN, Dropout
from model.network.lstm import LSTM, multiply


class Encoded(NamedTuple):
    """The LSTM stack's output for a window."""

    layers: tf.Tensor
    """`[b, T, layers, R]` outputs of all LSTM layers."""
    hidden: tf.Tensor
    """`[b, T, D or R]` input of the softmax."""
    state: tf.Tensor
    """`[b, layers, 2, H]` output and cell of every layer after the window."""


class JointModel(keras.layers.Layer):
    """Char-CNN, word embedding and LSTM stack, trained with one loss."""

    def __init__(self, config: ModelConfig, *, vocab_counts: Sequence[int], seed: int = 0):
        """Builds the model and its variables.

        Args:
          config: sizes and options.
          vocab_counts: `[V]` training targets of each word; the output bias starts as the log of
            their smoothed share.
          seed: seed of the initial weights.
        """
        super().__init__(name="joint_model")
        self.config = config
        self.vocab_size = len(vocab_counts)
        keras.utils.set_random_seed(seed)
        self.word_embedding: keras.layers.Embedding | None = None
        self.char_cnn: CharCNN | None = None
        self.projection: keras.layers.Dense | None = None
        self.output_kernel: Any = None
        self._build_lstms(feature_size=self._build_inputs())
        self._build_output()
        self.output_bias.assign(unigram_log_probabilities(vocab_counts).astype(np.float32))
        self.built = True

    def _build_inputs(self) -> int:
        """Builds the word embedding and char-CNN; returns their combined output size."""
        config, size = self.config, 0
        if config.inputs != "characters":
            self.word_embedding = keras.layers.Embedding(
                self.vocab_size,
                config.word_dim,
                embeddings_initializer=keras.initializers.RandomNormal(stddev=0.05),
                name="word_embedding",
            )
            self.word_embedding.build()
            size += config.word_dim
        if config.inputs != "words":
            self.char_cnn = CharCNN(config, name="char_cnn")
            self.char_cnn.build((None, config.max_word_bytes))
            self.char_cnn.trainable = config.char_cnn == "trained"
            size += sum(config.filter_counts)
        return size

    def _build_lstms(self, *, feature_size: int) -> None:
        config = self.config
        self.lstms = [
            LSTM(config.lstm_dim, projection=config.lstm_projection, name=f"lstm_{index}")
            for index in range(config.lstm_layers)
        ]
        for index, lstm in enumerate(self.lstms):
            lstm.build((None, feature_size if index == 0 else config.output_size))

    def _build_output(self) -> None:
        config = self.config
        if not config.tied:
            self.output_kernel = self.add_weight(
                shape=(self.vocab_size, config.output_size),
                initializer=keras.initializers.RandomNormal(stddev=0.05),
                name="output_kernel",
            )
        elif config.output_size != config.word_dim:
            self.projection = keras.layers.Dense(config.word_dim, name="projection")
            self.projection.build((None, config.output_size))
        self.output_bias = self.add_weight(
            shape=(self.vocab_size,), initializer=keras.initializers.Zeros(), name="output_bias"
        )

    @property
    def softmax_kernel(self) -> tf.Variable:
        """`[V, D or R]` weights of the softmax: the word embedding itself if tied."""
        if self.output_kernel is not None:
            return self.output_kernel.value
        assert self.word_embedding is not None
        return self.word_embedding.embeddings.value

    def tables(self) -> list[tuple[str, tf.Variable]]:
        """Returns the variables with one row per word of the vocabulary, by name."""
        named = {"bias": self.output_bias, "kernel": self.output_kernel}
        if self.word_embedding is not None:
            named["embedding"] = self.word_embedding.embeddings
        return [(name, one.value) for name, one in named.items() if one is not None]

    def zero_state(self, lanes: int) -> tf.Tensor:
        """Returns `[lanes, layers, 2, H]` zeros."""
        return tf.zeros([lanes, len(self.lstms), 2, self.config.lstm_dim])

    def spell_out(self, char_ids: tf.Tensor) -> tf.Tensor:
        """Returns the char-CNN's vectors of spellings, `[U, W]` to `[U, F]`."""
        assert self.char_cnn is not None, "model.inputs is 'words'"
        return self.char_cnn(char_ids)

    def encode(
        self,
        words: tf.Tensor,
        *,
        char_ids: tf.Tensor,
        index: tf.Tensor,
        state: tf.Tensor,
        word_vectors: tf.Tensor | None = None,
        dropout: Dropout | None = None,
        precision: str = "float32",
    ) -> Encoded:
        """Reads a window of words.

        Args:
          words: `[U]` ids of distinct words.
          char_ids: `[U, W]` their spellings.
          index: `[b, T]` index of the word at each position.
          state: `[b, layers, 2, H]` before the window.
          word_vectors: `[U, D]` their embeddings, if already looked up.
          dropout: None for evaluation.
          precision: of large matrix products.
        """
        training = dropout is not None
        features = []
        if self.char_cnn is not None:
            features.append(self.char_cnn(char_ids, split=training, precision=precision))
        if self.word_embedding is not None:
            looked_up = word_vectors is not None
            features.append(word_vectors if looked_up else self.word_embedding(words))
        x: tf.Tensor = tf.concat(features, axis=-1)
        if dropout:
            x = dropout.words(x, _keys(words, char_ids))
        outputs, states = [], []
        for layer, lstm in enumerate(self.lstms):
            kernel = None
            if dropout and self.config.recurrent_dropout:
                kernel = dropout.weights(lstm.recurrent_kernel.value, layer=layer)
            x, after = lstm(
                x,
                state=state[:, layer],
                index=index if layer == 0 else None,
                recurrent_kernel=kernel,
                precision=precision,
            )
            outputs.append(x)
            states.append(after)
            x = dropout.lanes(x, layer=layer) if dropout else x
        hidden = self._project(x, precision=precision)
        return Encoded(tf.stack(outputs, axis=2), hidden, tf.stack(states, axis=1))

    def _project(self, x: tf.Tensor, *, precision: str) -> tf.Tensor:
        """Projects `[b, T, R]` to `[b, T, D]` where tied weights need it."""
        if self.projection is None:
            return x
        flat = tf.reshape(x, [-1, x.shape[-1]])
        flat = multiply(flat, self.projection.kernel, precision=precision) + self.projection.bias
        projected = tf.reshape(flat, [*tf.unstack(tf.shape(x)[:2]), flat.shape[-1]])
        return tf.ensure_shape(projected, [*x.shape[:2], flat.shape[-1]])

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Returns unnormalised log-probabilities, `[N, D or R]` to `[N, V]`."""
        return tf.matmul(hidden, self.softmax_kernel, transpose_b=True) + self.output_bias


def read_rows(table: tf.Variable, ids: tf.Tensor) -> tf.Tensor:
    """Returns rows `[R, ..]` of a table, in a replica or without a strategy.

    `tf.gather` on a strategy's variable reads the whole variable, which copies it if sparse updates
    ever touch it: 0.2 s for 800,000 rows of 256.
    """
    if isinstance(table, tf.distribute.DistributedValues):
        return tf.raw_ops.ResourceGather(resource=table.handle, indices=ids, dtype=table.dtype)
    return table.sparse_read(ids)


def _keys(words: tf.Tensor, char_ids: tf.Tensor) -> tf.Tensor:
    """Returns `[U]` int32 hashes of each word's id and spelling."""
    factors = [pow(31, place + 1, 1 << 20) for place in range(char_ids.shape[1])]
    return words + tf.reduce_sum(char_ids * tf.constant(factors, tf.int32), axis=1)
