from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model.config import TrainConfig
from model.training.weight_average import EVERY, WeightAverage, enters_average

STRATEGIES = [
    tf.distribute.get_strategy,
    lambda: tf.distribute.OneDeviceStrategy("/cpu:0"),
    lambda: tf.distribute.MirroredStrategy(["/cpu:0"]),
]


def make_average(
    strategy: tf.distribute.Strategy | None = None,
) -> tuple[list[tf.Variable], WeightAverage]:
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        variables = [tf.Variable([[1.0, 2.0]]), tf.Variable([3.0])]
        return variables, WeightAverage(variables, strategy=strategy)


def values(variables: list[tf.Variable]) -> list[list[float]]:
    return [variable.numpy().ravel().tolist() for variable in variables]


@pytest.mark.parametrize("make_strategy", STRATEGIES)
def test_the_mean_of_what_was_added(make_strategy: object) -> None:
    variables, average = make_average(make_strategy())  # type: ignore[operator]
    assert values(average.means) == [[0.0, 0.0], [0.0]]
    for count, (one, two) in enumerate([(8.0, 1.0), (4.0, 2.0), (0.0, 6.0), (8.0, 7.0)], start=1):
        variables[0].assign([[one, -one]])
        variables[1].assign([two])
        average.add()
        assert average.count == count
    assert values(average.means) == [[5.0, -5.0], [4.0]]
    assert values(variables) == [[8.0, -8.0], [7.0]]  # training goes on with its own


def test_the_mean_of_many_is_exact_to_rounding() -> None:
    variables, average = make_average()
    random = np.random.default_rng(0)
    added = random.normal(size=(300, 2)).astype(np.float32)
    for one in added:
        variables[0].assign(one[np.newaxis])
        average.add()
    np.testing.assert_allclose(average.means[0], added.mean(axis=0, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("make_strategy", STRATEGIES)
def test_in_use_and_back_again(make_strategy: object) -> None:
    variables, average = make_average(make_strategy())  # type: ignore[operator]
    average.add()
    variables[0].assign([[5.0, 4.0]])
    variables[1].assign([0.1])
    average.add()
    own, mean = values(variables), values(average.means)
    assert mean[0] == [3.0, 3.0]
    for _ in range(2):
        with average.in_use():
            assert values(variables) == mean
        assert values(variables) == own  # bit for bit
        assert values(average.means) == mean
    variables[0].assign([[9.0, 9.0]])
    average.add()
    assert average.means[0].numpy().tolist() == [[5.0, 5.0]]


def test_weights_come_back_when_something_fails() -> None:
    variables, average = make_average()
    average.add()
    variables[1].assign([7.0])
    own = values(variables)
    seen: list[list[list[float]]] = []

    def fail() -> None:
        with average.in_use():
            seen.append(values(variables))
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert seen[0][1] == [3.0]
    assert values(variables) == own


def test_an_average_of_nothing_leaves_the_weights() -> None:
    variables, average = make_average()
    with average.in_use():
        assert values(variables) == [[1.0, 2.0], [3.0]]
    assert values(variables) == [[1.0, 2.0], [3.0]]
    assert average.count == 0


def test_means_are_not_trained() -> None:
    assert not any(mean.trainable for mean in make_average()[1].means)


@pytest.mark.parametrize(
    ("share", "steps", "entering"),
    [
        (0.0, 60, []),
        (0.5, 60, [40, 50, 60]),
        (0.25, 60, [50, 60]),
        (1.0, 30, [10, 20, 30]),
        (0.01, 60, [60]),
        (0.5, 55, [30, 40, 50]),
        (0.5, 9, []),
    ],
)
def test_which_steps_enter(share: float, steps: int, entering: list[int]) -> None:
    assert EVERY == 10
    config = TrainConfig(steps=steps, average_last=share)
    assert [step for step in range(1, steps + 1) if enters_average(config, step)] == entering
