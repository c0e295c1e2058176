"""Keras layers of the joint model: the character CNN with its highway, and dropout."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from model.config import ModelConfig
from model.network.lstm import multiply, product_types
from model.text.spelling import NUM_CHARS

SHORT_BYTES = 10
"""Spellings up to this length are convolved separately from longer ones, which halves the cost."""


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

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Makes the variables; `shape` is `[U, F]`."""
        self.transform.build(shape)
        self.gate.build(shape)
        self.built = True

    def call(self, x: tf.Tensor, *, precision: str = "float32") -> tf.Tensor:
        """Maps `[U, F]` to `[U, F]`, with products in `precision`."""
        gate, transform = (
            part.activation(multiply(x, part.kernel, precision=precision) + part.bias)
            for part in (self.gate, self.transform)
        )
        return gate * transform + (1.0 - gate) * x


class CharCNN(keras.layers.Layer):
    """Maps spellings to vectors: byte embedding, convolutions, max over the word, highway.

    Kim et al. 2016, "Character-Aware Neural Language Models", arXiv 1508.06615. Padding is zeros,
    and every word counts as followed by unlimited padding, so its vector does not depend on W.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any):
        """Takes the sizes from `config`; the output size F is `sum(filter_counts)`."""
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(NUM_CHARS, config.char_dim, name="embedding")
        self.convolutions = [
            keras.layers.Conv1D(count, width, name=f"width_{width}")
            for width, count in zip(config.filter_widths, config.filter_counts, strict=True)
        ]
        size = sum(config.filter_counts)
        self.highways = [
            Highway(size, name=f"highway_{index}") for index in range(config.highway_layers)
        ]
        self._margin = max(config.filter_widths) - 1

    def call(
        self, char_ids: tf.Tensor, *, split: bool = False, precision: str = "float32"
    ) -> tf.Tensor:
        """Encodes spellings.

        Args:
          char_ids: `[U, W]`.
          split: whether to process short and long words separately, for speed.
          precision: of matrix products.

        Returns:
          `[U, F]`.
        """
        if split and char_ids.shape[1] > SHORT_BYTES:
            x = self._convolve_by_length(char_ids, precision)
        else:
            x = self._convolve(char_ids, precision)
        for highway in self.highways:
            x = highway(x, precision=precision)
        return x

    def _convolve_by_length(self, char_ids: tf.Tensor, precision: str) -> tf.Tensor:
        is_long = tf.cast(char_ids[:, SHORT_BYTES] > 0, tf.int32)
        order = tf.argsort(is_long, stable=True)
        short = tf.size(is_long) - tf.reduce_sum(is_long)
        # One extra row per part: convolutions of zero rows return the wrong shape.
        ordered = tf.pad(tf.gather(char_ids, order), [[1, 1], [0, 0]])
        parts = [
            self._convolve(ordered[: short + 1, :SHORT_BYTES], precision),
            self._convolve(ordered[short + 1 :], precision),
        ]
        return tf.gather(tf.concat(parts, axis=0)[1:-1], tf.math.invert_permutation(order))

    def _convolve(self, char_ids: tf.Tensor, precision: str) -> tf.Tensor:
        """Maps `[U, w]` to `[U, F]`."""
        there = tf.cast(char_ids > 0, tf.float32)[..., tf.newaxis]
        embedded = tf.pad(self.embedding(char_ids) * there, [[0, 0], [0, self._margin], [0, 0]])
        # TensorFlow computes a convolution's gradient in the type of the convolution.
        dtype = product_types(precision)[1]
        embedded = tf.cast(embedded, dtype)
        pooled = []
        for convolution in self.convolutions:
            kernel = tf.cast(convolution.kernel, dtype)
            found = tf.nn.conv1d(embedded, kernel, stride=1, padding="VALID")
            # tanh is monotonic, so max and tanh commute; and padding alone, of which every word has
            # enough, gives the bias.
            best = tf.maximum(_largest(tf.cast(found, tf.float32)), 0.0)
            pooled.append(tf.tanh(best + convolution.bias))
        return tf.concat(pooled, axis=-1)

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Makes the variables; `shape` is `[U, W]`."""
        self.embedding.build(shape)
        for convolution in self.convolutions:
            convolution.build((None, None, self.embedding.output_dim))
        size = sum(convolution.filters for convolution in self.convolutions)
        for highway in self.highways:
            highway.build((None, size))
        self.built = True


@tf.custom_gradient
def _largest(found: tf.Tensor) -> Any:
    """Reduces `[U, w, n]` to `[U, n]`; ties share the gradient, as with `tf.reduce_max`.

    TensorFlow's own gradient divides at each of the w positions; this takes half the time.
    """
    best = tf.reduce_max(found, axis=1)

    def gradient(d: tf.Tensor) -> tf.Tensor:
        reached = tf.cast(found == best[:, tf.newaxis], found.dtype)
        return reached * (d / tf.reduce_sum(reached, axis=1))[:, tf.newaxis]

    return best, gradient


class Dropout:
    """Dropout with masks that depend only on (seed, step, place) and on the lane or the word.

    Masks are drawn for all B lanes and each worker takes its own, so the result does not depend on
    the number of workers.
    """

    WORD_MASKS = 1024

    def __init__(self, config: ModelConfig, *, seed: tf.Tensor, lanes: int, first_lane: tf.Tensor):
        """Binds dropout to one training step.

        Args:
          config: the dropout rates.
          seed: int32 `[2]`, different for every step.
          lanes: B.
          first_lane: scalar int32, the first lane of this worker's batch.
        """
        self._config = config
        self._seed = seed
        self._lanes = lanes
        self._first_lane = first_lane

    def _uniform(self, shape: list[Any], place: int) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, self._seed + tf.constant([0, place], tf.int32))

    def words(self, x: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Applies dropout to the vectors `[U, X]` of distinct words.

        Args:
          x: the vectors.
          keys: `[U]` int32 that identify words; equal keys share a mask, and so do a few others, as
            there are only `WORD_MASKS` masks.
        """
        rate = self._config.input_dropout
        if not rate:
            return x
        masks = self._uniform([self.WORD_MASKS, x.shape[-1]], 0)
        return _drop(x, tf.gather(masks, tf.math.floormod(keys, self.WORD_MASKS)), rate)

    def lanes(self, x: tf.Tensor, *, layer: int) -> tf.Tensor:
        """Applies dropout to the output `[b, T, X]` of an LSTM layer."""
        config = self._config
        rate = config.output_dropout if layer == config.lstm_layers - 1 else config.hidden_dropout
        if not rate:
            return x
        times = 1 if config.dropout_mask == "window" else x.shape[1]
        uniform = self._uniform([self._lanes, times, x.shape[-1]], 1 + 2 * layer)
        own = tf.slice(uniform, [self._first_lane, 0, 0], [tf.shape(x)[0], times, x.shape[-1]])
        return _drop(x, own, rate)

    def weights(self, kernel: tf.Tensor, *, layer: int) -> tf.Tensor:
        """Applies dropout to the recurrent weights of an LSTM layer."""
        rate = self._config.recurrent_dropout
        if not rate:
            return kernel
        return _drop(kernel, self._uniform(list(kernel.shape), 2 + 2 * layer), rate)

    @staticmethod
    def places(config: ModelConfig) -> int:
        """Returns how many seeds a step uses."""
        return 1 + 2 * config.lstm_layers


def _drop(x: tf.Tensor, uniform: tf.Tensor, rate: float) -> tf.Tensor:
    return x * (tf.cast(uniform >= rate, x.dtype) / (1.0 - rate))
