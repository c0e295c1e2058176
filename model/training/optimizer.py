"""AdamW with a schedule. Keras' optimizers clip before the all-reduce and reduce again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from model.config import TrainConfig
from model.network.joint_model import read_rows

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def learning_rate(config: TrainConfig, step: int, *, setbacks: int = 0) -> float:
    """Returns the learning rate of a step counted from 0: linear warm-up, then the schedule.

    Args:
      config: peak, warm-up, schedule and steps.
      step: steps done.
      setbacks: validation passes without improvement so far, for the schedule `plateau`.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "plateau":
        return config.learning_rate * max(0.5**setbacks, 0.01)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (0.01 + 0.99 * cosine)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).

    For a table with a row-wise gradient, only these rows and their slots change ("lazy" Adam), so
    the cost of a step does not depend on the table's size.
    """

    def __init__(self, variables: Sequence[tf.Variable], *, weight_decay: float):
        """Creates the slots; call it in the strategy's scope.

        Args:
          variables: trainable variables.
          weight_decay: of matrices.
        """
        self.variables = list(variables)
        self.weight_decay = weight_decay
        self.first = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables]
        self.second = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables]

    def apply(
        self,
        gradients: Sequence[Any],
        *,
        rate: tf.Tensor,
        step: tf.Tensor,
        strategy: Any,
        rows: Sequence[Any] | None = None,
    ) -> None:
        """Applies gradients that are the same on all workers; call it in cross-replica context.

        Args:
          gradients: one per variable.
          rate: scalar learning rate.
          step: scalar int, counted from 0.
          strategy: the `tf.distribute.Strategy` of the variables.
          rows: for each variable None, or `[R]` the distinct rows that the gradient is for.
        """
        power = tf.cast(step + 1, tf.float32)
        powers = (BETA_1**power, BETA_2**power)
        for variable, first, second, gradient, ids in zip(
            self.variables,
            self.first,
            self.second,
            gradients,
            rows or [None] * len(self.variables),
            strict=True,
        ):
            update: Any = self._update if ids is None else self._update_rows
            of_rows = () if ids is None else (ids,)
            arguments = (first, second, gradient, *of_rows, rate, *powers)
            strategy.extended.update(variable, update, args=arguments)

    def update_norm(self, *, rate: tf.Tensor, step: tf.Tensor, without: Sequence[Any]) -> tf.Tensor:
        """Returns the global norm of the update just applied, excluding weight decay.

        Args:
          rate: as for `apply`.
          step: as for `apply`.
          without: tables to leave out because reading them would take too long.
        """
        power = tf.cast(step + 1, tf.float32)
        scale = rate * tf.sqrt(1.0 - BETA_2**power) / (1.0 - BETA_1**power)
        left_out = {id(one) for one in without}
        return tf.linalg.global_norm(
            [
                scale * first / (tf.sqrt(second) + EPSILON)
                for variable, first, second in zip(
                    self.variables, self.first, self.second, strict=True
                )
                if id(variable) not in left_out
            ]
        )

    def _decay(self, variable: tf.Variable) -> float:
        return self.weight_decay if len(variable.shape) > 1 else 0.0

    def _update(
        self,
        variable: tf.Variable,
        first: tf.Variable,
        second: tf.Variable,
        gradient: tf.Tensor,
        rate: tf.Tensor,
        power_1: tf.Tensor,
        power_2: tf.Tensor,
    ) -> None:
        decay = self._decay(variable)
        if decay:
            variable.assign(variable * (1.0 - rate * decay))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=rate,
            beta1=BETA_1,
            beta2=BETA_2,
            epsilon=EPSILON,
            grad=gradient,
        )

    def _update_rows(
        self,
        variable: tf.Variable,
        first: tf.Variable,
        second: tf.Variable,
        gradient: tf.Tensor,
        ids: tf.Tensor,
        rate: tf.Tensor,
        power_1: tf.Tensor,
        power_2: tf.Tensor,
    ) -> None:
        mean = BETA_1 * read_rows(first, ids) + (1.0 - BETA_1) * gradient
        square = BETA_2 * read_rows(second, ids) + (1.0 - BETA_2) * tf.square(gradient)
        scale = rate * tf.sqrt(1.0 - power_2) / (1.0 - power_1)
        value = read_rows(variable, ids) * (1.0 - rate * self._decay(variable))
        first.scatter_update(tf.IndexedSlices(mean, ids))
        second.scatter_update(tf.IndexedSlices(square, ids))
        value -= scale * mean / (tf.sqrt(square) + EPSILON)
        variable.scatter_update(tf.IndexedSlices(value, ids))
