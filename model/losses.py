"""Softmax losses. Sums and counts, never means: they add up over lanes, workers and steps."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from model.network import JointModel


class LossSums(NamedTuple):
    """Sums over the targets of a window."""

    loss: tf.Tensor
    """Scalar, negative log-likelihood in nats."""
    words: tf.Tensor
    """Scalar, targets counted."""


def word_log_likelihoods(model: JointModel, hidden: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Scores words by the full softmax.

    Args:
      model: gives the logits.
      hidden: `[b, T, X]`.
      targets: `[b, T]`.

    Returns:
      `[b, T]` natural logarithms of probabilities.
    """
    flat = tf.reshape(hidden, [-1, hidden.shape[-1]])
    negative = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.reshape(targets, [-1]), logits=model.logits(flat)
    )
    return tf.reshape(-negative, tf.shape(targets))


def full_softmax(
    model: JointModel, hidden: tf.Tensor, *, targets: tf.Tensor, weights: tf.Tensor
) -> LossSums:
    """Returns the full-softmax loss of a window; `weights` `[b, T]` is 0 in padding."""
    scores = word_log_likelihoods(model, hidden, targets)
    return LossSums(-tf.reduce_sum(scores * weights), tf.reduce_sum(weights))
