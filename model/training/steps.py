"""A training step and an evaluation step, on any number of replicas."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from model.config import Config, TrainConfig
from model.network.forward import Inputs, score_window
from model.network.joint_model import JointModel, read_rows
from model.network.layers import Dropout
from model.network.losses import LossSums, softmax_loss
from model.network.lstm import FORWARD_BFLOAT16
from model.network.tracing import traced_once
from model.training.optimizer import AdamW


class StepResult(NamedTuple):
    """Sums over all replicas, and the lane states of each."""

    loss: tf.Tensor
    """Scalar, negative log-likelihood in nats."""
    words: tf.Tensor
    """Scalar."""
    gradient_norm: tf.Tensor
    """Scalar global norm before clipping; 0 in evaluation."""
    state: Any
    """`[b, layers, 2, H]` per replica."""


def _reduce_precision(train: TrainConfig) -> str:
    return train.precision if train.reduce_precision == "auto" else train.reduce_precision


def product_precision(train: TrainConfig) -> str:
    """Returns the precision of large products and of their gradients.

    Gradients to be reduced in float32 must not be rounded before, or their sum would depend on how
    a batch is divided.
    """
    exact = train.reduce_precision == "float32" and train.precision == "bfloat16"
    return FORWARD_BFLOAT16 if exact else train.precision


class Steps:
    """The compiled steps of one training."""

    def __init__(self, model: JointModel, optimizer: AdamW, *, config: Config, strategy: Any):
        """Binds the steps; nothing is traced before the first call."""
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._strategy = strategy
        self._tables: list[tuple[str, tf.Variable]] = []
        if config.train.softmax == "sampled":
            self._tables = model.tables()

    @traced_once
    def train(self, inputs: Any, state: Any, *, step: tf.Tensor, rate: tf.Tensor) -> StepResult:
        """Runs one step and updates the variables.

        Args:
          inputs: results of `batch_inputs`, one per local replica.
          state: `[b, layers, 2, H]` per replica.
          step: scalar int32, steps done.
          rate: scalar learning rate.
        """
        result, gradients, rows = self._strategy.run(
            self._train_replica, args=(inputs, state, step)
        )
        tables = {id(table) for _, table in self._tables}
        self._optimizer.apply(
            gradients,
            rate=rate,
            step=step,
            strategy=self._strategy,
            rows=[rows if id(one) in tables else None for one in self._optimizer.variables],
        )
        return self._first_local(result)

    def _train_replica(
        self, inputs: Inputs, state: tf.Tensor, step: tf.Tensor
    ) -> tuple[StepResult, list[tf.Tensor], tf.Tensor]:
        config = self._config
        dropout = Dropout(
            config.model,
            seed=tf.stack([config.train.seed, step * Dropout.places(config.model)]),
            lanes=config.train.lanes,
            first_lane=inputs["first_lane"],
        )
        with tf.GradientTape() as tape:
            tables = {name: read_rows(table, inputs["rows"]) for name, table in self._tables}
            tape.watch(tables)
            sums, state = self._loss(inputs, state, tables=tables, dropout=dropout)
        named = {id(table): name for name, table in self._tables}
        sources = [
            tables[named[id(one)]] if id(one) in named else one for one in self._optimizer.variables
        ]
        gradients = [
            tf.convert_to_tensor(one)
            for one in tape.gradient(sums.loss, sources, unconnected_gradients="zero")
        ]
        *gradients, loss, words = self._reduce(gradients, sums)
        norm = tf.linalg.global_norm(gradients) / words
        scale = tf.minimum(1.0, config.train.clip_norm / norm) / words
        clipped = [gradient * scale for gradient in gradients]
        return StepResult(loss, words, norm, state), clipped, inputs.get("rows", step)

    def _loss(
        self, inputs: Inputs, state: tf.Tensor, *, tables: dict[str, tf.Tensor], dropout: Dropout
    ) -> tuple[LossSums, tf.Tensor]:
        """Returns the training loss and the state after the window.

        Args:
          inputs: result of `batch_inputs`.
          state: `[b, layers, 2, H]`.
          tables: the rows `[R, ..]` used of each table; empty with the full softmax.
          dropout: for this step.
        """
        model, train = self._model, self._config.train
        vectors = None
        if "embedding" in tables:
            vectors = tf.gather(tables["embedding"], inputs["row_of_words"])
        encoded = model.encode(
            inputs["words"],
            char_ids=inputs["char_ids"],
            index=inputs["index"],
            state=state,
            word_vectors=vectors,
            dropout=dropout,
            precision=product_precision(train),
        )
        if not tables:
            kernel, bias = tf.convert_to_tensor(model.softmax_kernel), model.output_bias
            targets, candidates = inputs["targets"], None
        else:
            kernel = tables.get("kernel", tables.get("embedding"))
            bias = tables["bias"] - inputs["log_expected"]
            targets, candidates = inputs["row_of_targets"], train.sampled_words
        sums = softmax_loss(
            encoded.hidden,
            kernel=kernel,
            bias=tf.convert_to_tensor(bias),
            targets=targets,
            weights=inputs["weights"],
            candidates=candidates,
            precision=product_precision(train),
        )
        return sums, encoded.state

    def _reduce(self, gradients: list[tf.Tensor], sums: LossSums) -> list[tf.Tensor]:
        """Returns gradients, loss and words, summed over all replicas."""
        replicas = tf.distribute.get_replica_context()
        if replicas.num_replicas_in_sync == 1:
            return [*gradients, *sums]
        add = tf.distribute.ReduceOp.SUM
        # One long vector: the cost of a collective depends more on the number of calls than on
        # bytes.
        dtype = tf.as_dtype(_reduce_precision(self._config.train))
        packed = tf.concat([tf.reshape(tf.cast(one, dtype), [-1]) for one in gradients], axis=0)
        packed, reduced = replicas.all_reduce(add, packed), replicas.all_reduce(add, [*sums])
        parts = tf.split(packed, [tf.size(one) for one in gradients])
        return [
            *(
                tf.cast(tf.reshape(part, tf.shape(one)), tf.float32)
                for part, one in zip(parts, gradients, strict=True)
            ),
            *reduced,
        ]

    @traced_once
    def evaluate(self, inputs: Any, state: Any) -> StepResult:
        """Scores one window without training; arguments as for `train`."""
        return self._first_local(self._strategy.run(self._eval_replica, args=(inputs, state)))

    def _eval_replica(self, inputs: Inputs, state: tf.Tensor) -> StepResult:
        scores, state = score_window(self._model, inputs, state)
        loss, words = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, [-tf.reduce_sum(scores), tf.reduce_sum(inputs["weights"])]
        )
        return StepResult(loss, words, tf.zeros([]), state)

    @traced_once
    def update_norm(self, *, step: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        """Returns the norm of the last step's update; arguments as for `train`.

        With the sampled softmax, tables are left out.
        """
        tables = [table for _, table in self._tables]
        return self._optimizer.update_norm(rate=rate, step=step, without=tables)

    @traced_once
    def gather_state(self, state: Any) -> tf.Tensor:
        """Returns the lane states of all workers, `[B, layers, 2, H]`; all workers call it."""
        return self._strategy.gather(state, axis=0)

    def _first_local(self, result: StepResult) -> StepResult:
        """Keeps one of the identical sums of this worker's replicas, and all their states."""
        loss, words, norm = (
            self._strategy.experimental_local_results(value)[0] for value in result[:3]
        )
        return StepResult(loss, words, norm, result.state)
