"""The joint model: words and spellings to the next word, trained by one loss.

word_ids `[b, T]` -> word embedding `[b, T, D]`
char_ids `[U, W]` -> char-CNN `[U, F]` -> by char_index -> `[b, T, F]`
joined `[b, T, F + D]` -> LSTM stack -> `[b, T, H]` -> softmax over V words
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.config import ModelConfig
from model.layers import CharCNN, LaneDropout


class Encoded(NamedTuple):
    """What the LSTM stack makes of a window."""

    layers: tf.Tensor
    """`[b, T, layers, H]` output of every LSTM layer."""
    hidden: tf.Tensor
    """`[b, T, D or H]` what the softmax reads."""
    state: tf.Tensor
    """`[b, layers, 2, H]` output and cell of every layer after the window."""


class JointModel(keras.layers.Layer):
    """Char-CNN, word embedding and LSTM stack under one loss."""

    def __init__(self, config: ModelConfig, *, vocab_counts: Sequence[int], seed: int = 0):
        """Builds the model with its variables.

        Args:
          config: sizes and options.
          vocab_counts: `[V]` targets of each word in the training split; the output
            bias starts as the log of their smoothed share.
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
        """Makes what reads words and spellings; returns the size of both joined."""
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
            self.char_cnn(tf.zeros([1, config.max_word_bytes], tf.int32))
            self.char_cnn.trainable = config.char_cnn == "trained"
            size += sum(config.filter_counts)
        return size

    def _build_lstms(self, *, feature_size: int) -> None:
        config = self.config
        self.lstms = [
            keras.layers.LSTM(
                config.lstm_dim, return_sequences=True, return_state=True, name=f"lstm_{index}"
            )
            for index in range(config.lstm_layers)
        ]
        for index, lstm in enumerate(self.lstms):
            lstm.build((None, None, feature_size if index == 0 else config.lstm_dim))

    def _build_output(self) -> None:
        config = self.config
        if not config.tied:
            self.output_kernel = self.add_weight(
                shape=(self.vocab_size, config.lstm_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.05),
                name="output_kernel",
            )
        elif config.lstm_dim != config.word_dim:
            self.projection = keras.layers.Dense(config.word_dim, name="projection")
            self.projection.build((None, config.lstm_dim))
        self.output_bias = self.add_weight(
            shape=(self.vocab_size,), initializer=keras.initializers.Zeros(), name="output_bias"
        )

    def zero_state(self, lanes: int) -> tf.Tensor:
        """Returns `[lanes, layers, 2, H]` zeros."""
        return tf.zeros([lanes, len(self.lstms), 2, self.config.lstm_dim])

    def spell_out(self, char_ids: tf.Tensor) -> tf.Tensor:
        """Returns the char-CNN's vectors of spellings, `[U, W]` to `[U, F]`."""
        assert self.char_cnn is not None, "model.inputs is 'words'"
        return self.char_cnn(char_ids)

    def encode(
        self,
        word_ids: tf.Tensor,
        *,
        char_ids: tf.Tensor,
        char_index: tf.Tensor,
        state: tf.Tensor,
        dropout: LaneDropout | None = None,
    ) -> Encoded:
        """Reads a window of words.

        Args:
          word_ids: `[b, T]`.
          char_ids: `[U, W]` spellings.
          char_index: `[b, T]` which spelling each word has.
          state: `[b, layers, 2, H]` before the window.
          dropout: None at evaluation.
        """
        features = []
        if self.char_cnn is not None:
            features.append(tf.gather(self.spell_out(char_ids), char_index))
        if self.config.inputs != "characters":
            assert self.word_embedding is not None
            features.append(self.word_embedding(word_ids))
        x = tf.concat(features, axis=-1)
        x = dropout(x, place=0) if dropout else x
        outputs, states = [], []
        for index, lstm in enumerate(self.lstms):
            x, output, cell = lstm(x, initial_state=[state[:, index, 0], state[:, index, 1]])
            outputs.append(x)
            states.append(tf.stack([output, cell], axis=1))
            x = dropout(x, place=index + 1) if dropout else x
        hidden = self.projection(x) if self.projection is not None else x
        return Encoded(tf.stack(outputs, axis=2), hidden, tf.stack(states, axis=1))

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Returns unnormalised log-probabilities, `[N, D or H]` to `[N, V]`."""
        kernel = self.output_kernel
        if kernel is None:
            assert self.word_embedding is not None
            kernel = self.word_embedding.embeddings
        return tf.matmul(hidden, kernel, transpose_b=True) + self.output_bias


def unigram_log_probabilities(vocab_counts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Returns `[V]` log((count + 1) / (all counts + V)): the baseline and the first output bias."""
    counts = np.asarray(vocab_counts, np.float64) + 1.0
    return np.asarray(np.log(counts) - np.log(counts.sum()))
