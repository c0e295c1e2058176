"""AdamW with a schedule. Keras' optimizers clip before the all-reduce and reduce again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from model.config import TrainConfig

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def learning_rate(config: TrainConfig, step: int) -> float:
    """Returns the rate of a step counted from 0: linear warm-up, cosine decay to 1 %."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (0.01 + 0.99 * cosine)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    def __init__(self, variables: Sequence[tf.Variable], *, weight_decay: float):
        """Makes the slots; call it in the strategy's scope.

        Args:
          variables: what is trained.
          weight_decay: of variables that are matrices.
        """
        self.variables = list(variables)
        self.weight_decay = weight_decay
        self.first = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables]
        self.second = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables]

    def apply(
        self, gradients: Sequence[Any], *, rate: tf.Tensor, step: tf.Tensor, strategy: Any
    ) -> None:
        """Updates the variables by gradients that are the same on all workers.

        Args:
          gradients: one for each variable; call in cross-replica context.
          rate: scalar learning rate.
          step: scalar int, counted from 0.
          strategy: the `tf.distribute.Strategy` of the variables.
        """
        power = tf.cast(step + 1, tf.float32)
        scale = rate * tf.sqrt(1.0 - BETA_2**power) / (1.0 - BETA_1**power)
        for variable, first, second, gradient in zip(
            self.variables, self.first, self.second, gradients, strict=True
        ):
            strategy.extended.update(
                variable, self._update, args=(first, second, gradient, rate, scale)
            )

    def _update(
        self,
        variable: tf.Variable,
        first: tf.Variable,
        second: tf.Variable,
        gradient: tf.Tensor,
        rate: tf.Tensor,
        scale: tf.Tensor,
    ) -> None:
        mean = first.assign(BETA_1 * first + (1.0 - BETA_1) * gradient)
        square = second.assign(BETA_2 * second + (1.0 - BETA_2) * tf.square(gradient))
        decay = rate * self.weight_decay * variable if len(variable.shape) > 1 else 0.0
        variable.assign_sub(scale * mean / (tf.sqrt(square) + EPSILON) + decay)
