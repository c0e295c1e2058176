"""Averaging of weights over the last part of a training (Izmailov et al. 2018, arXiv 1803.05407)."""

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
    """Says whether the weights after `step` steps enter the average."""
    return config.average_last > 0 and step > average_begin(config) and step % EVERY == 0


def average_begin(config: TrainConfig) -> int:
    """Returns the step after which the averaged part of a training begins."""
    return config.steps - round(config.average_last * config.steps)


class WeightAverage:
    """The mean of a model's weights at some steps."""

    def __init__(self, variables: Sequence[tf.Variable], *, strategy: Any):
        """Makes room for the mean; call it in the strategy's scope.

        Args:
          variables: what is averaged.
          strategy: the `tf.distribute.Strategy` of the variables.
        """
        self._strategy = strategy
        self._variables = list(variables)
        self.means = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self._variables]
        self.count = 0
        """How many sets of weights the mean is of."""

    def add(self) -> None:
        """Takes the present weights into the mean."""
        self._add(tf.constant(1.0 / (self.count + 1), tf.float32))
        self.count += 1

    def clear(self) -> None:
        """Makes it the mean of nothing again."""
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
        """Lets the model have its mean weights for a while, if there are any."""
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
