"""How texts are dealt to lanes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model.serving.text_lanes import deal, offsets


def test_offsets() -> None:
    assert offsets(tf.constant([3, 0, 1, 2])).numpy().tolist() == [0, 1, 2, 0, 0, 1]
    assert offsets(tf.constant([], tf.int32)).shape == (0,)


def test_long_texts_come_first_to_and_fro() -> None:
    # Positions 0 to 1, 2 to 4, 5, 6 to 9: lengths by rank 4, 3, 2, 1.
    found = deal(tf.constant([2, 3, 1, 4]), lanes=2).numpy().tolist()
    assert found == [[6, 7, 8, 9, 5], [2, 3, 4, 0, 1]]


def test_lanes_that_have_nothing_left() -> None:
    assert deal(tf.constant([2]), lanes=3).numpy().tolist() == [[0, 1], [-1, -1], [-1, -1]]
    assert deal(tf.constant([0, 0]), lanes=2).shape == (2, 0)
    assert deal(tf.constant([], tf.int64), lanes=2).shape == (2, 0)


@pytest.mark.parametrize("seed", range(5))
def test_every_word_is_read_once_and_in_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 40, size=random.integers(1, 60))
    starts = np.cumsum(lengths) - lengths
    found = deal(tf.constant(lengths), lanes=4).numpy()
    assert sorted(found[found >= 0].tolist()) == list(range(lengths.sum()))
    for lane in found:
        read = lane[lane >= 0]
        assert (lane[: len(read)] == read).all()  # nothing is left free in between
        follows = np.diff(read) == 1
        assert np.isin(read[1:][~follows], starts).all()  # only a text's first word
    # The lanes end at about the same time.
    assert found.shape[1] <= lengths.sum() / 4 + lengths.max(initial=0)
