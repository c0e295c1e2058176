"""Assigns texts to lanes that are read in parallel, each one text after the other.

  lanes `[B, S]`    position in the flat stream that a lane reads at a step, -1 for none

Long texts are assigned first, back and forth, so that lanes end at about the same time and only
their ends are padded. A text's result does not depend on its lane or on what precedes it there.
"""

from __future__ import annotations

import tensorflow as tf


def deal(lengths: tf.Tensor, *, lanes: int) -> tf.Tensor:
    """Assigns texts to lanes.

    Args:
      lengths: `[N]` words of each text; the texts are consecutive in a flat stream.
      lanes: B.

    Returns:
      `[B, S]` int32 positions in the stream, -1 after a lane's end; each position occurs once.
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
    # Back to the order of the texts.
    back = tf.math.invert_permutation(order)
    lane, first = tf.gather(lane, back), tf.gather(first, back)
    steps = tf.reduce_max(tf.concat([tf.reduce_sum(dealt, axis=0), [0]], axis=0))
    lane, first = tf.repeat(lane, lengths), tf.repeat(first, lengths)
    places = tf.stack([lane, first + offsets(lengths)], axis=1)
    positions = tf.range(tf.shape(places)[0])
    return tf.scatter_nd(places, positions + 1, tf.stack([lanes, steps])) - 1


def offsets(lengths: tf.Tensor) -> tf.Tensor:
    """Returns the concatenation of `0, 1, .., length - 1` for each of `[N]` lengths."""
    starts = tf.cumsum(lengths, exclusive=True)
    return tf.range(tf.reduce_sum(lengths)) - tf.repeat(starts, lengths)
