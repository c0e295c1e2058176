"""The softmax of a served model, computed in blocks of a fixed number of rows."""

from __future__ import annotations

import tensorflow as tf

from model.network.joint_model import JointModel
from model.serving.words import ROWS, by_rows
from model.text.vocab import BOS_ID, UNK_ID

SLICE = 1 << 16
"""Words of the vocabulary per block."""
_PACKET = 64
_NEVER = -1e30
"""Logit of padding: its exponential is 0."""


def _padding(words: int) -> int:
    """Returns the padding after the words of a slice.

    Rows a power of two apart map to the same cache lines, which makes products take twice as long.
    """
    padding = -words % _PACKET
    return padding + (0 if (words + padding) % 1024 else _PACKET)


class ServedSoftmax(tf.Module):
    """Log-likelihoods and next words."""

    def __init__(self, model: JointModel, *, precision: str):
        """Lays out the weights for serving.

        Args:
          model: the trained model.
          precision: of the product with the V words.
        """
        super().__init__(name="softmax")
        size = model.vocab_size
        self._size = size
        self._slices = [(at, min(at + SLICE, size)) for at in range(0, size, SLICE)]
        self._kernels: list[tf.Variable] = []
        self._biases: list[tf.Variable] = []
        for start, stop in self._slices:
            more = [[0, _padding(stop - start)]]
            kernel = tf.pad(tf.transpose(model.softmax_kernel[start:stop]), [[0, 0], *more])
            bias = tf.pad(model.output_bias.value[start:stop], more, constant_values=_NEVER)
            self._kernels.append(tf.Variable(tf.cast(kernel, precision), trainable=False))
            self._biases.append(tf.Variable(bias, trainable=False))

    def log_likelihoods(self, hidden: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns `[n]` natural log-probabilities of words `[n]` after `[n, X]`."""
        return by_rows(self._score, hidden, targets, rows=ROWS)

    def _score(self, hidden: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        total = tf.fill([ROWS], tf.float32.min)
        found = tf.zeros([ROWS])
        for number, (start, stop) in enumerate(self._slices):
            logits = self._logits(hidden, number)
            inside = (targets >= start) & (targets < stop)
            at = tf.where(inside, targets - start, 0)
            found = tf.where(inside, tf.gather(logits, at, batch_dims=1), found)
            part = tf.reduce_logsumexp(logits, axis=-1)
            top = tf.maximum(total, part)
            total = top + tf.math.log(tf.exp(total - top) + tf.exp(part - top))
        return tf.minimum(found - total, 0.0)

    def _logits(self, hidden: tf.Tensor, number: int) -> tf.Tensor:
        """Returns logits `[ROWS, n]` of a slice, padded with `_NEVER` to a multiple of `_PACKET`.

        Without the padding, the exponentials of the last words would be computed one by one in some
        rows but not in others, which changes the last bit.
        """
        kernel = self._kernels[number]
        product = tf.matmul(tf.cast(hidden, kernel.dtype), kernel)
        return tf.cast(product, tf.float32) + self._biases[number]

    def next_words(self, hidden: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns ids `[n, k]` and probabilities `[n, k]` of the likeliest words after `[n, X]`.

        Excludes `<unk>` and `<s>`, which are not real words.
        """
        k = tf.minimum(k, self._size - 2)
        more = [[0, 0], [0, _padding(self._size)]]
        hidden_words = tf.one_hot([UNK_ID, BOS_ID], self._size + more[1][1], on_value=1.0)
        shown = 1.0 - tf.reduce_sum(hidden_words, axis=0)

        def best(block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            parts = [
                self._logits(block, number)[:, : stop - start]
                for number, (start, stop) in enumerate(self._slices)
            ]
            logits = tf.pad(tf.concat(parts, axis=1), more, constant_values=_NEVER)
            values, words = tf.math.top_k(tf.nn.softmax(logits) * shown, k)
            return values, words

        values, words = by_rows(best, hidden, rows=ROWS, shape=[k], dtype=(tf.float32, tf.int32))
        return words, values
