"""Texts dealt to lanes that read side by side, each one text after the other.

  lanes `[B, S]`    position of the flat stream that a lane reads at a step, -1 for none

Long texts are dealt first, to and fro, so lanes end at about the same time; nothing is padded
but their ends. What is read of a text does not depend on its lane, nor on what is before it there.
"""

from __future__ import annotations

import tensorflow as tf


def deal(lengths: tf.Tensor, *, lanes: int) -> tf.Tensor:
    """Deals texts to lanes.

    Args:
      lengths: `[N]` words of each text, whose words follow each other in a flat stream.
      lanes: B.

    Returns:
      `[B, S]` int32 positions of the stream, -1 where a lane has nothing left; each position is
      there once.
    """
    lengths = tf.cast(lengths, tf.int32)
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)
    count = tf.size(lengths)
    rounds = (count + lanes - 1) // lanes
    rank = tf.range(count)
    turn, place = rank // lanes, rank % lanes
    lane = tf.where(turn % 2 == 0, place, lanes - 1 - place)
    at = tf.stack([turn, lane], axis=1)
    dealt = tf.scatter_nd(at, tf.gather(lengths, order), [rounds, lanes])
    first = tf.gather_nd(tf.cumsum(dealt, axis=0, exclusive=True), at)
    # Back in the order of the texts.
    back = tf.math.invert_permutation(order)
    lane, first = tf.gather(lane, back), tf.gather(first, back)
    steps = tf.reduce_max(tf.concat([tf.reduce_sum(dealt, axis=0), [0]], axis=0))
    lane, first = tf.repeat(lane, lengths), tf.repeat(first, lengths)
    places = tf.stack([lane, first + offsets(lengths)], axis=1)
    positions = tf.range(tf.shape(places)[0])
    return tf.scatter_nd(places, positions + 1, tf.stack([lanes, steps])) - 1


def offsets(lengths: tf.Tensor) -> tf.Tensor:
    """Returns `0, 1, .., length - 1` for each of `[N]` lengths, one after the other."""
    starts = tf.cumsum(lengths, exclusive=True)
    return tf.range(tf.reduce_sum(lengths)) - tf.repeat(starts, lengths)
