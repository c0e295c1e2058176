"""The LSTM stack of a served model, which reads many texts in parallel, each as if alone.

Every product has the same shape for any input, `[B, .]` in the recurrence and a fixed number of
rows elsewhere, so a text's results are bit-identical whatever texts share the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from model.network.joint_model import JointModel
from model.serving.text_lanes import deal, offsets
from model.serving.words import ROWS, ServedWords, by_rows

LANES = 16
"""B, texts read in parallel; the number of rows in one step of a matrix product."""
WINDOW = 32
"""Steps after which results are stored, so that memory grows only with the results."""


class Reading(NamedTuple):
    """Texts to read."""

    words: tf.Tensor
    """`[U]` distinct words."""
    stream: tf.Tensor
    """`[S]` index of the word at each position, text after text."""
    lengths: tf.Tensor
    """`[N]` words to read of each text."""


class Read(NamedTuple):
    """One window's output, only at positions that have words."""

    positions: tf.Tensor
    """`[n]` positions in the stream."""
    layers: tf.Tensor
    """`[n, layers, R]` outputs of all layers."""


Take = Callable[[Read], tf.Tensor]


class ServedReader(tf.Module):
    """Runs the LSTM stack over texts."""

    def __init__(self, model: JointModel, words: ServedWords):
        """Takes the trained model and its words."""
        super().__init__(name="reader")
        self._model = model
        self._words = words

    def read(self, reading: Reading, take: Take, *, shape: list[int]) -> tf.Tensor:
        """Reads texts and computes something for each word.

        Args:
          reading: the texts.
          take: maps a window's output to `[n, ..]` float32.
          shape: of its result for one word.

        Returns:
          `[S, ..]` in stream order.
        """
        lanes = deal(reading.lengths, lanes=LANES)
        first = tf.cast(offsets(tf.cast(reading.lengths, tf.int32)) == 0, tf.float32)
        places = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=[None])
        values = tf.TensorArray(
            tf.float32, 0, dynamic_size=True, element_shape=[None, *shape], infer_shape=False
        )
        steps = tf.shape(lanes)[1]
        windows = (steps + WINDOW - 1) // WINDOW

        def step(at: tf.Tensor, places: Any, values: Any, state: list[tf.Tensor]) -> Any:
            window = lanes[:, at * WINDOW : tf.minimum(steps, (at + 1) * WINDOW)]
            read, state = self._read_window(reading, window, first, state)
            return at + 1, places.write(at, read.positions), values.write(at, take(read)), state

        _, places, values, _ = tf.while_loop(
            lambda at, *unused: at < windows, step, (0, places, values, self._zero_state())
        )
        count = tf.size(reading.stream)
        found = tf.cond(
            count > 0,
            lambda: tf.scatter_nd(
                places.concat()[:, tf.newaxis], values.concat(), tf.stack([count, *shape])
            ),
            lambda: tf.zeros([0, *shape]),
        )
        return tf.ensure_shape(found, [None, *shape])

    def _zero_state(self) -> list[tf.Tensor]:
        """Returns zeros: output `[B, R]` and cell `[B, H]` of each layer."""
        sizes = [size for one in self._model.lstms for size in (one.output_size, one.units)]
        return [tf.zeros([LANES, size]) for size in sizes]

    def _read_window(
        self, reading: Reading, window: tf.Tensor, first: tf.Tensor, state: list[tf.Tensor]
    ) -> tuple[Read, list[tf.Tensor]]:
        """Reads positions `[B, T]` of the stream; -1 for none."""
        there = window >= 0
        at = tf.maximum(window, 0)
        words, index = tf.unique(tf.reshape(tf.gather(reading.stream, at), [-1]))
        gates = self._words.gates(tf.gather(reading.words, words))
        index = tf.transpose(tf.reshape(index, tf.shape(window)))
        keep = tf.transpose(1.0 - tf.gather(first, at))
        outputs, state = self._scan(gates, index, keep, state)
        mask = tf.transpose(there)
        return Read(
            tf.boolean_mask(tf.transpose(window), mask), tf.boolean_mask(outputs, mask)
        ), state

    def _scan(
        self, gates: tf.Tensor, index: tf.Tensor, keep: tf.Tensor, state: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Runs all layers over a window.

        Args:
          gates: `[U, 4H]` of the window's distinct words.
          index: `[T, B]` index of the word at each position.
          keep: `[T, B]`, 0 where a text starts.
          state: as returned by `_zero_state`.

        Returns:
          `[T, B, layers, R]` outputs, and the state after the window.
        """
        lstms = self._model.lstms
        steps = tf.shape(index)[0]
        shape = [LANES, len(lstms), lstms[0].output_size]
        outputs = tf.TensorArray(tf.float32, steps, element_shape=shape)

        def step(t: tf.Tensor, outputs: Any, state: list[tf.Tensor]) -> Any:
            kept = keep[t][:, tf.newaxis]
            x = tf.gather(gates, index[t])
            after: list[tf.Tensor] = []
            for layer, lstm in enumerate(lstms):
                output, cell = state[2 * layer] * kept, state[2 * layer + 1] * kept
                z = x if layer == 0 else tf.matmul(x, lstm.kernel) + lstm.bias
                z += tf.matmul(output, lstm.recurrent_kernel)
                i, f, new, o = tf.split(z, 4, axis=-1)
                cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(new)
                x = tf.sigmoid(o) * tf.tanh(cell)
                if lstm.projection is not None:
                    x = tf.matmul(x, lstm.projection)
                after += [x, cell]
            outputs = outputs.write(t, tf.stack(after[::2], axis=1))
            return t + 1, outputs, after

        _, outputs, state = tf.while_loop(
            lambda t, *unused: t < steps, step, (0, outputs, state), maximum_iterations=steps
        )
        return outputs.stack(), state

    def hidden(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns the softmax's input from the last layer's outputs: `[n, R]` to `[n, D or R]`."""
        dense = self._model.projection
        if dense is None:
            return outputs
        return by_rows(
            lambda x: tf.matmul(x, dense.kernel) + dense.bias,
            outputs,
            rows=ROWS,
            shape=[dense.units],
        )
