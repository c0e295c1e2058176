from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.network.tracing import TracedOnce, traced_once


def inputs(distinct: int, *, lanes: int = 2) -> dict[str, tf.Tensor]:
    return {
        "words": tf.range(distinct),
        "char_ids": tf.ones([distinct, 3], tf.int32),
        "index": tf.zeros([lanes, 4], tf.int32),
    }


class Counting:
    """Counts how often its function is traced."""

    def __init__(self) -> None:
        self.shapes: list[Any] = []

    @traced_once
    def add(self, batch: dict[str, tf.Tensor], state: tf.Tensor, *, by: tf.Tensor) -> tf.Tensor:
        self.shapes.append((batch["words"].shape.as_list(), batch["char_ids"].shape.as_list()))
        return tf.reduce_sum(batch["words"] + batch["char_ids"][:, 0]) + state + by


def test_batches_of_all_sizes_are_one_graph() -> None:
    counting = Counting()
    for distinct in (5, 5, 7, 1, 64):
        found = counting.add(inputs(distinct), tf.constant(100), by=tf.constant(distinct))
        assert int(found) == distinct * (distinct - 1) // 2 + distinct + 100 + distinct
    assert counting.shapes == [([None], [None, 3])]


def test_other_shapes_are_another_graph() -> None:
    counting = Counting()
    for lanes in (2, 3, 2, 3):
        counting.add(inputs(5, lanes=lanes), tf.constant(0), by=tf.constant(0))
    assert len(counting.shapes) == 2
    counting.add(inputs(5), tf.zeros([2], tf.int32), by=tf.constant(0))
    assert len(counting.shapes) == 3


def test_each_instance_has_its_own_graph() -> None:
    one, other = Counting(), Counting()
    for counting in (one, other, one):
        counting.add(inputs(5), tf.constant(0), by=tf.constant(0))
    assert len(one.shapes) == len(other.shapes) == 1


def test_a_function_without_a_batch_is_traced_once() -> None:
    traced: list[int] = []

    @TracedOnce
    def double(x: tf.Tensor) -> tf.Tensor:
        traced.append(1)
        return x + x

    for value in (1.0, 2.0, 3.0):
        np.testing.assert_array_equal(double(tf.constant([value])), [2.0 * value])
    assert traced == [1]


REPLICAS = """
import tensorflow as tf
from model.network.tracing import TracedOnce

device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
traced = []

@TracedOnce
def step(inputs, state):
    traced.append(1)
    def replica(inputs, state):
        return tf.reduce_sum(inputs["words"]) + state
    return strategy.run(replica, args=(inputs, state))

state = strategy.experimental_distribute_values_from_function(lambda context: tf.constant(0))
for sizes in ((3, 4), (5, 2), (1, 9)):
    inputs = strategy.experimental_distribute_values_from_function(
        lambda context: {"words": tf.range(sizes[context.replica_id_in_sync_group])}
    )
    state = step(inputs, state)
    print([int(one) for one in strategy.experimental_local_results(state)])
print(len(traced))
"""


@pytest.mark.slow
def test_replicas_have_batches_of_their_own_sizes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[3, 6]", "[13, 7]", "[13, 43]", "1"]
