"""Softmax losses, as sums and counts that add up over lanes, workers and steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from model.network.joint_model import JointModel, read_rows
from model.network.lstm import product_types

BLOCK_LOGITS = 1 << 22
"""Logits per block in training: few enough to fit in the processor's cache."""

VOCAB_SLICE = 1 << 14
"""Words per block in evaluation, so that memory does not grow with V."""


class LossSums(NamedTuple):
    """Sums over the targets of a window."""

    loss: tf.Tensor
    """Scalar negative log-likelihood, in nats."""
    words: tf.Tensor
    """Scalar number of targets."""


def softmax_loss(
    hidden: tf.Tensor,
    *,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    candidates: int | None = None,
    precision: str = "float32",
) -> LossSums:
    """Returns the training loss of a window.

    With all V words as `kernel` this is the full softmax. The sampled softmax (Jean et al. 2015,
    arXiv 1412.2007) compares each target with the first few rows only; `bias` must already have the
    log of each row's expected count among these subtracted.

    Args:
      hidden: `[b, T, X]`.
      kernel: `[R, X]` softmax weights of R words.
      bias: `[R]`.
      targets: `[b, T]` rows of `kernel`.
      weights: `[b, T]`, 0 in padding.
      candidates: S, the rows that serve as negatives; None for all.
      precision: of matrix products.
    """
    flat = tf.reshape(hidden, [-1, hidden.shape[-1]])
    rows, counted = tf.reshape(targets, [-1]), tf.reshape(weights, [-1])
    of_target = tf.reduce_sum(flat * tf.gather(kernel, rows), axis=-1) + tf.gather(bias, rows)
    if candidates is None:
        outside = tf.zeros_like(counted)
    else:
        outside = tf.cast(rows >= candidates, tf.float32)  # otherwise it is itself a candidate
        # Their number, which sets the size of a block, is known though that of all rows is not.
        kernel = tf.ensure_shape(kernel[:candidates], [candidates, kernel.shape[1]])
        bias = tf.ensure_shape(bias[:candidates], [candidates])
    loss = _blockwise_loss(flat, kernel, bias, of_target, (outside, counted, precision))
    return LossSums(loss, tf.reduce_sum(counted))


def _blockwise_loss(
    hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, of_target: tf.Tensor, given: Any
) -> tf.Tensor:
    """Returns the loss; computes the gradient along the way, while the logits are available."""

    @tf.custom_gradient
    def loss_of(hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, of_target: tf.Tensor) -> Any:
        loss, gradients = _loss_and_gradients(hidden, kernel, bias, of_target, given)
        return loss, lambda d: [d * gradient for gradient in gradients]

    loss: tf.Tensor = loss_of(hidden, kernel, bias, of_target)
    return loss


def _loss_and_gradients(
    hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, of_target: tf.Tensor, given: Any
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Processes the N targets in blocks.

    Args:
      hidden: `[N, X]`.
      kernel: `[S, X]`.
      bias: `[S]`.
      of_target: `[N]` logits of the targets.
      given: `[N]` 1 where the target is not among the S, `[N]` weights, and the precision.

    Returns:
      The loss, and the gradients of the four arguments.
    """
    outside, weights, precision = given
    dtype, of_gradient = product_types(precision)
    count, size = hidden.shape[0], kernel.shape[0] or 1
    block = max(16, min(count, BLOCK_LOGITS // size))
    blocks = -(-count // block)
    block = -(-count // blocks)
    padded = [
        tf.pad(x, [[0, blocks * block - count]] + [[0, 0]] * (len(x.shape) - 1))
        for x in (hidden, of_target, outside, weights)
    ]
    narrow = tf.cast(kernel, dtype)
    d_hiddens = tf.TensorArray(tf.float32, blocks, element_shape=[block, hidden.shape[1]])
    d_targets = tf.TensorArray(tf.float32, blocks, element_shape=[block])

    def step(at: tf.Tensor, loss: Any, d_kernel: Any, d_bias: Any, arrays: Any) -> Any:
        h, target, out, weight = (x[at * block : (at + 1) * block] for x in padded)
        h_narrow = tf.cast(h, dtype)
        logits = tf.cast(tf.matmul(h_narrow, narrow, transpose_b=True), tf.float32) + bias
        top = tf.maximum(tf.reduce_max(logits, axis=-1), target)
        exponentials = tf.exp(logits - top[:, tf.newaxis])
        of_target = tf.exp(target - top) * out
        total = tf.reduce_sum(exponentials, axis=-1) + of_target
        loss += tf.reduce_sum(weight * (tf.math.log(total) + top - target))
        d_logits = exponentials * (weight / total)[:, tf.newaxis]
        h_part, kernel_part, d = (tf.cast(one, of_gradient) for one in (h_narrow, narrow, d_logits))
        d_h = tf.cast(tf.matmul(d, kernel_part), tf.float32)
        d_kernel += tf.cast(tf.matmul(d, h_part, transpose_a=True), tf.float32)
        d_target = weight * (of_target / total - 1.0)
        arrays = [arrays[0].write(at, d_h), arrays[1].write(at, d_target)]
        return at + 1, loss, d_kernel, d_bias + tf.reduce_sum(d_logits, axis=0), arrays

    start = (0, 0.0, tf.zeros_like(kernel), tf.zeros_like(bias), [d_hiddens, d_targets])
    if blocks == 1:
        _, loss, d_kernel, d_bias, arrays = step(*start)
    else:
        _, loss, d_kernel, d_bias, arrays = tf.while_loop(lambda at, *_: at < blocks, step, start)
    d_hidden, d_target = (array.concat()[:count] for array in arrays)
    return loss, [d_hidden, d_kernel, d_bias, d_target]


def word_log_likelihoods(model: JointModel, hidden: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Scores words by the full softmax, in blocks of the vocabulary.

    Args:
      model: provides the softmax's kernel and bias.
      hidden: `[b, T, X]`.
      targets: `[b, T]`.

    Returns:
      `[b, T]` natural log-probabilities.
    """
    flat = tf.reshape(hidden, [-1, hidden.shape[-1]])
    words = tf.reshape(targets, [-1])
    of_target = tf.reduce_sum(flat * read_rows(model.softmax_kernel, words), axis=-1)
    of_target += read_rows(model.output_bias.value, words)
    scores = tf.minimum(of_target - log_normalizer(model, flat), 0.0)
    return tf.reshape(scores, tf.shape(targets))


def log_normalizer(model: JointModel, hidden: tf.Tensor) -> tf.Tensor:
    """Returns `[N]` log-sum-exp of the logits over all V words."""
    count = model.vocab_size
    size = min(count, VOCAB_SLICE)

    def add(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        words = tf.range(start, tf.minimum(start + size, count))
        logits = tf.matmul(hidden, read_rows(model.softmax_kernel, words), transpose_b=True)
        logits += read_rows(model.output_bias.value, words)
        return start + size, _log_add(total, tf.reduce_logsumexp(logits, axis=-1))

    total = tf.fill([tf.shape(hidden)[0]], tf.float32.min)
    _, total = tf.while_loop(lambda start, _: start < count, add, (0, total))
    return total


def _log_add(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    top = tf.maximum(a, b)
    return top + tf.math.log(tf.exp(a - top) + tf.exp(b - top))
