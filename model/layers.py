"""Keras layers of the joint model: the character CNN with its highway, and dropout."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from model.config import ModelConfig
from model.vocab import NUM_CHARS


class Highway(keras.layers.Layer):
    """y = t * relu(W x) + (1 - t) * x (Srivastava et al. 2015, arXiv 1505.00387)."""

    def __init__(self, size: int, **kwargs: Any):
        """Args: size: F. The carry gate starts open (bias -2), as in Kim et al. 2016."""
        super().__init__(**kwargs)
        self.transform = keras.layers.Dense(size, activation="relu", name="transform")
        self.gate = keras.layers.Dense(
            size,
            activation="sigmoid",
            bias_initializer=keras.initializers.Constant(-2.0),
            name="gate",
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`[U, F]` to `[U, F]`."""
        gate = self.gate(x)
        return gate * self.transform(x) + (1.0 - gate) * x


class CharCNN(keras.layers.Layer):
    """Spellings to vectors: byte embedding, convolutions, max over the word, highway.

    Kim et al. 2016, "Character-Aware Neural Language Models", arXiv 1508.06615.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any):
        """Takes the sizes from `config`; the output size F is `sum(filter_counts)`."""
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(NUM_CHARS, config.char_dim, name="embedding")
        self.convolutions = [
            keras.layers.Conv1D(count, width, activation="tanh", name=f"width_{width}")
            for width, count in zip(config.filter_widths, config.filter_counts, strict=True)
        ]
        size = sum(config.filter_counts)
        self.highways = [
            Highway(size, name=f"highway_{index}") for index in range(config.highway_layers)
        ]

    def call(self, char_ids: tf.Tensor) -> tf.Tensor:
        """`[U, W]` to `[U, F]`."""
        embedded = self.embedding(char_ids)
        pooled = [tf.reduce_max(convolution(embedded), axis=1) for convolution in self.convolutions]
        x = tf.concat(pooled, axis=-1)
        for highway in self.highways:
            x = highway(x)
        return x


class LaneDropout:
    """Dropout whose mask depends on (seed, step, place, lane) only.

    One mask a window of T steps (Gal and Ghahramani 2016, arXiv 1512.05287). Masks
    are drawn for all B lanes and each worker takes those of its own, so one worker
    and several workers drop the same values.
    """

    def __init__(self, rate: float, *, seed: tf.Tensor, lanes: int, first_lane: tf.Tensor):
        """Binds dropout to one training step.

        Args:
          rate: share that is dropped.
          seed: int32 `[2]`, unlike for every step.
          lanes: B.
          first_lane: scalar int32, the first lane of this worker's batch.
        """
        self._rate = rate
        self._seed = seed
        self._lanes = lanes
        self._first_lane = first_lane

    def __call__(self, x: tf.Tensor, *, place: int) -> tf.Tensor:
        """Drops from `[b, T, X]`; `place` tells the uses within a step apart."""
        if not self._rate:
            return x
        size = x.shape[-1]
        seed = self._seed + tf.constant([0, place], tf.int32)
        uniform = tf.random.stateless_uniform([self._lanes, 1, size], seed)
        own = tf.slice(uniform, [self._first_lane, 0, 0], [tf.shape(x)[0], 1, size])
        return x * tf.cast(own >= self._rate, x.dtype) / (1.0 - self._rate)
