from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.config import TrainConfig
from model.training.optimizer import AdamW, learning_rate

Floats = npt.NDArray[np.float64]


def adamw(
    start: Floats, gradients: list[Floats], *, rates: list[float], decay: float
) -> tuple[Floats, Floats, Floats]:
    """Algorithm 2 of arXiv 1711.05101, in double precision; returns value and both slots."""
    value, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        value = value - rate * (mean / (np.sqrt(square) + 1e-8) + decay * value)
    return value, first, second


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_three_steps_of_adamw(decay: float) -> None:
    random = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 3, 2), ()]
    starts = [np.asarray(random.normal(size=shape)) for shape in shapes]
    gradients = [[np.asarray(random.normal(size=shape)) for shape in shapes] for _ in range(3)]
    rates = [0.1, 0.05, 0.2]
    variables = [tf.Variable(start, dtype=tf.float32) for start in starts]
    optimizer = AdamW(variables, weight_decay=decay)
    for step in range(3):
        optimizer.apply(
            [tf.constant(gradient, tf.float32) for gradient in gradients[step]],
            rate=tf.constant(rates[step]),
            step=tf.constant(step),
            strategy=tf.distribute.get_strategy(),
        )
    for index, (shape, start) in enumerate(zip(shapes, starts, strict=True)):
        expected = adamw(
            start,
            [gradient[index] for gradient in gradients],
            rates=rates,
            decay=decay if len(shape) > 1 else 0.0,  # vectors and scalars are spared
        )
        got = (variables[index], optimizer.first[index], optimizer.second[index])
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def apply_rows(
    optimizer: AdamW, gradient: Floats, ids: list[int], *, step: int, rate: float = 0.1
) -> None:
    optimizer.apply(
        [tf.constant(gradient, tf.float32)],
        rate=tf.constant(rate),
        step=tf.constant(step),
        strategy=tf.distribute.get_strategy(),
        rows=[tf.constant(ids)],
    )


@pytest.mark.parametrize("shape", [(6, 4), (6,)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_rows_are_updated_as_whole_tables_are(shape: tuple[int, ...], decay: float) -> None:
    random = np.random.default_rng(0)
    start = random.normal(size=shape).astype(np.float32)
    by_rows, dense = ([tf.Variable(start)] for _ in range(2))
    lazy, whole = (AdamW(one, weight_decay=decay) for one in (by_rows, dense))
    ids = [4, 0, 5]
    for step in range(4):
        gradient = random.normal(size=(3, *shape[1:])).astype(np.float32)
        apply_rows(lazy, gradient, ids, step=step)
        spread = np.zeros(shape, np.float32)
        spread[ids] = gradient
        whole.apply(
            [tf.constant(spread)],
            rate=tf.constant(0.1),
            step=tf.constant(step),
            strategy=tf.distribute.get_strategy(),
        )
    for ours, theirs in zip(
        (by_rows[0], lazy.first[0], lazy.second[0]),
        (dense[0], whole.first[0], whole.second[0]),
        strict=True,
    ):
        np.testing.assert_allclose(ours.numpy()[ids], theirs.numpy()[ids], rtol=2e-5, atol=5e-6)
    # The other rows are left alone, bit for bit.
    others = [1, 2, 3]
    assert (by_rows[0].numpy()[others] == start[others]).all()
    assert not lazy.first[0].numpy()[others].any()
    assert not lazy.second[0].numpy()[others].any()


def test_rows_that_rest_keep_their_slots() -> None:
    variable = tf.Variable(np.ones((3, 2), np.float32))
    optimizer = AdamW([variable], weight_decay=0.1)
    apply_rows(optimizer, np.ones((1, 2)), [1], step=0)
    before = [one.numpy() for one in (variable, optimizer.first[0], optimizer.second[0])]
    assert before[1][1].all()
    apply_rows(optimizer, np.ones((2, 2)), [0, 2], step=1)
    after = [one.numpy() for one in (variable, optimizer.first[0], optimizer.second[0])]
    for one, other in zip(before, after, strict=True):
        assert (one[1] == other[1]).all()
        assert (one[[0, 2]] != other[[0, 2]]).all()


def test_rows_and_whole_variables_in_one_call() -> None:
    table, bias = tf.Variable(np.ones((3, 2), np.float32)), tf.Variable([1.0, 1.0])
    AdamW([table, bias], weight_decay=0.0).apply(
        [tf.ones([1, 2]), tf.ones([2])],
        rate=tf.constant(0.5),
        step=tf.constant(0),
        strategy=tf.distribute.get_strategy(),
        rows=[tf.constant([2]), None],
    )
    # The first step of Adam goes by the rate, whatever the gradient.
    np.testing.assert_allclose(table, [[1, 1], [1, 1], [0.5, 0.5]], rtol=2e-5)
    np.testing.assert_allclose(bias, [0.5, 0.5], rtol=2e-5)


def test_no_gradient_and_no_rate_change_nothing() -> None:
    variable = tf.Variable([[1.0, -2.0]])
    optimizer = AdamW([variable], weight_decay=0.5)
    strategy = tf.distribute.get_strategy()
    for gradient, rate in ((tf.zeros([1, 2]), 0.0), (tf.ones([1, 2]), 0.0)):
        optimizer.apply([gradient], rate=tf.constant(rate), step=tf.constant(0), strategy=strategy)
    assert variable.numpy().tolist() == [[1.0, -2.0]]
    optimizer.apply(
        [tf.zeros([1, 2])], rate=tf.constant(0.0), step=tf.constant(1), strategy=strategy
    )
    assert (optimizer.first[0].numpy() != 0).all()  # it remembers the gradient


def test_slots_are_not_trained() -> None:
    optimizer = AdamW([tf.Variable([1.0])], weight_decay=0.0)
    assert not any(slot.trainable for slot in (*optimizer.first, *optimizer.second))


CONFIG = TrainConfig(steps=110, warmup_steps=10, learning_rate=0.5)


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.1),
        (4, 0.5),
        (9, 1.0),  # warmed up
        (10, 1.0),
        (60, 0.01 + 0.99 / 2),  # half way
        (109, 0.01 + 0.99 * (1 + math.cos(math.pi * 0.99)) / 2),  # the last step
        (110, 0.01),
        (1000, 0.01),
    ],
)
def test_schedule(step: int, share: float) -> None:
    assert learning_rate(CONFIG, step) == pytest.approx(0.5 * share, rel=1e-12)


def test_schedule_rises_then_falls() -> None:
    rates = [learning_rate(CONFIG, step) for step in range(110)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == 0.5
    assert min(rates) > 0


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (5, 5), (5, 50), (1, 0), (1, 1)])
def test_schedule_of_odd_lengths(steps: int, warmup: int) -> None:
    config = TrainConfig(steps=steps, warmup_steps=warmup, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(steps)]
    assert all(0 < rate <= 1.0 for rate in rates)
    assert rates[0] == (1 / warmup if warmup else 1.0)


PLATEAU = TrainConfig(steps=110, warmup_steps=10, learning_rate=0.5, schedule="plateau")


@pytest.mark.parametrize(
    ("step", "setbacks", "share"),
    [
        (0, 0, 0.1),
        (4, 3, 0.5),  # nothing is halved before the peak
        (10, 0, 1.0),
        (109, 0, 1.0),
        (50, 1, 0.5),
        (50, 3, 0.125),
        (50, 6, 0.015625),
        (50, 7, 0.01),
        (50, 99, 0.01),
    ],
)
def test_plateau(step: int, setbacks: int, share: float) -> None:
    assert learning_rate(PLATEAU, step, setbacks=setbacks) == pytest.approx(0.5 * share, rel=1e-12)


def test_cosine_heeds_no_setbacks() -> None:
    for step in (0, 50, 109):
        assert learning_rate(CONFIG, step, setbacks=5) == learning_rate(CONFIG, step)
