"""Averages weights over the last part of a training (Izmailov et al. 2018, arXiv 1803.05407)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from model.config import TrainConfig
from model.network.tracing import traced_once

EVERY = 10
"""Steps between two sets of weights that enter the average."""


def enters_average(config: TrainConfig, step: int) -> bool:
    """Returns whether the weights after `step` steps enter the average."""
    return config.average_last > 0 and step > average_begin(config) and step % EVERY == 0


def average_begin(config: TrainConfig) -> int:
    """Returns the step after which the averaged part of a training begins."""
    return config.steps - round(config.average_last * config.steps)


class WeightAverage:
    """The average of a model's weights at some steps."""

    def __init__(self, variables: Sequence[tf.Variable], *, strategy: Any):
        """Allocates the average; call it in the strategy's scope.

        Args:
          variables: the variables to average.
          strategy: the `tf.distribute.Strategy` of the variables.
        """
        self._strategy = strategy
        self._variables = list(variables)
        self.means = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self._variables]
        self.count = 0
        """Number of averaged sets of weights."""

    def add(self) -> None:
        """Adds the present weights to the average."""
        self._add(tf.constant(1.0 / (self.count + 1), tf.float32))
        self.count += 1

    def clear(self) -> None:
        """Resets the average."""
        for mean in self.means:
            mean.assign(tf.zeros(mean.shape))
        self.count = 0

    @traced_once
    def _add(self, share: tf.Tensor) -> None:
        for variable, mean in zip(self._variables, self.means, strict=True):
            self._strategy.extended.update(
                mean, lambda mean, new: mean.assign_add(share * (new - mean)), args=(variable,)
            )

    @traced_once
    def _exchange(self) -> None:
        for variable, mean in zip(self._variables, self.means, strict=True):
            self._strategy.extended.update(variable, _exchange, args=(mean,))

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Swaps in the averaged weights, if there are any, for the duration of the block."""
        if not self.count:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()


def _exchange(one: tf.Variable, other: tf.Variable) -> None:
    value = tf.identity(one)
    one.assign(other)
    other.assign(value)
