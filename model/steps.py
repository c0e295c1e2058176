"""One training step and one evaluation step, on any number of replicas."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from model.batches import Batch
from model.config import Config
from model.layers import LaneDropout
from model.losses import full_softmax, word_log_likelihoods
from model.network import JointModel
from model.optimizer import AdamW

Inputs = dict[str, tf.Tensor]


def batch_inputs(batch: Batch, *, first_lane: int = 0) -> Inputs:
    """Returns a batch as the tensors that the steps take."""
    return {
        "word_ids": tf.constant(batch.word_ids),
        "targets": tf.constant(batch.targets),
        "weights": tf.constant(batch.weights),
        "char_ids": tf.constant(batch.char_ids),
        "char_index": tf.constant(batch.char_index),
        "keep": tf.constant(1.0 - batch.fresh.astype(np.float32)),
        "first_lane": tf.constant(first_lane, tf.int32),
    }


def score_window(
    model: JointModel, inputs: Inputs, state: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores the targets of a window.

    Args:
      model: the model.
      inputs: of `batch_inputs`.
      state: `[b, layers, 2, H]` before the window.

    Returns:
      `[b, T]` log-likelihoods (0 in padding), and the state after the window.
    """
    encoded = model.encode(
        inputs["word_ids"],
        char_ids=inputs["char_ids"],
        char_index=inputs["char_index"],
        state=state * inputs["keep"][:, tf.newaxis, tf.newaxis, tf.newaxis],
    )
    scores = word_log_likelihoods(model, encoded.hidden, inputs["targets"])
    return scores * inputs["weights"], encoded.state


class StepResult(NamedTuple):
    """Sums over all replicas, and the lane states of each."""

    loss: tf.Tensor
    """Scalar, negative log-likelihood in nats."""
    words: tf.Tensor
    """Scalar."""
    gradient_norm: tf.Tensor
    """Scalar, global norm before clipping; 0 at evaluation."""
    state: Any
    """`[b, layers, 2, H]` a replica."""


class Steps:
    """The compiled steps of one training."""

    def __init__(self, model: JointModel, optimizer: AdamW, *, config: Config, strategy: Any):
        """Binds the steps; nothing is traced before the first call."""
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._strategy = strategy

    @tf.function(reduce_retracing=True)
    def train(self, inputs: Any, state: Any, *, step: tf.Tensor, rate: tf.Tensor) -> StepResult:
        """Runs one step and updates the variables.

        Args:
          inputs: of `batch_inputs`, one for each local replica.
          state: `[b, layers, 2, H]` a replica.
          step: scalar int32, steps done.
          rate: scalar learning rate.
        """
        result, gradients = self._strategy.run(self._train_replica, args=(inputs, state, step))
        self._optimizer.apply(gradients, rate=rate, step=step, strategy=self._strategy)
        return self._first_local(result)

    def _train_replica(
        self, inputs: Inputs, state: tf.Tensor, step: tf.Tensor
    ) -> tuple[StepResult, list[tf.Tensor]]:
        config = self._config
        dropout = LaneDropout(
            config.model.dropout,
            seed=tf.stack([config.train.seed, step * (config.model.lstm_layers + 1)]),
            lanes=config.train.lanes,
            first_lane=inputs["first_lane"],
        )
        with tf.GradientTape() as tape:
            encoded = self._model.encode(
                inputs["word_ids"],
                char_ids=inputs["char_ids"],
                char_index=inputs["char_index"],
                state=state,
                dropout=dropout,
            )
            sums = full_softmax(
                self._model, encoded.hidden, targets=inputs["targets"], weights=inputs["weights"]
            )
        gradients = [
            tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(sums.loss, self._optimizer.variables)
        ]
        reduced = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, [*gradients, sums.loss, sums.words]
        )
        loss, words = reduced[-2:]
        clipped, norm = tf.clip_by_global_norm(
            [gradient / words for gradient in reduced[:-2]], config.train.clip_norm
        )
        return StepResult(loss, words, norm, encoded.state), clipped

    @tf.function(reduce_retracing=True)
    def evaluate(self, inputs: Any, state: Any) -> StepResult:
        """Scores one window without training; arguments as for `train`."""
        return self._first_local(self._strategy.run(self._eval_replica, args=(inputs, state)))

    def _eval_replica(self, inputs: Inputs, state: tf.Tensor) -> StepResult:
        scores, state = score_window(self._model, inputs, state)
        loss, words = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, [-tf.reduce_sum(scores), tf.reduce_sum(inputs["weights"])]
        )
        return StepResult(loss, words, tf.zeros([]), state)

    @tf.function
    def gather_state(self, state: Any) -> tf.Tensor:
        """Returns the lane states of all workers, `[B, layers, 2, H]`; all workers call it."""
        return self._strategy.gather(state, axis=0)

    def _first_local(self, result: StepResult) -> StepResult:
        """Keeps one of the equal sums of this worker's replicas, and all the states."""
        loss, words, norm = (
            self._strategy.experimental_local_results(value)[0] for value in result[:3]
        )
        return StepResult(loss, words, norm, result.state)
