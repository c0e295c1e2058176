"""Training under `MultiWorkerMirroredStrategy`, in our own loop.

Every worker runs `train_and_evaluate` with the same arguments. What it computes
depends on config, records and step only, so a run that was interrupted and went on
from a checkpoint ends as the undisturbed one.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

from model.batches import Batch, LaneReader, eval_batch, prefetch, train_batch
from model.checkpoints import (
    Checkpoint,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from model.cluster import Cluster, own_lanes
from model.config import Config, to_json
from model.errors import CharloomError, InputError
from model.files import write_whole
from model.network import JointModel
from model.optimizer import AdamW, learning_rate
from model.plan import EvalPlan, TrainPlan
from model.progress import RunLog
from model.records import COMPLETED_FILE, Dataset
from model.steps import StepResult, Steps, batch_inputs

log = logging.getLogger(__name__)

FREE_FIELDS = ("steps", "log_steps", "valid_steps", "checkpoint_steps", "keep_checkpoints")
"""Fields of TrainConfig that may change when a training goes on."""


@dataclasses.dataclass
class Training:
    """A training in progress on one worker."""

    config: Config
    dataset: Dataset
    cluster: Cluster
    model: JointModel
    optimizer: AdamW
    steps: Steps
    lanes: list[range]
    """Lanes of each of this worker's replicas."""
    step: int = 0
    state: Any = None
    """`[b, layers, 2, H]` a replica."""
    valid: tuple[float, int] | None = None
    """Log-likelihood and words of the newest validation pass, if at this very step."""


def check_config(config: Config, dataset: Dataset, *, workers: int = 1) -> Config:
    """Returns `config` with the data section of the records, after checking that it can train.

    Raises:
      InputError: lanes that can't be shared, or fewer words than one batch.
    """
    own_lanes(config.train.lanes, index=0, count=workers)
    train = config.train
    TrainPlan(dataset.lengths("train"), lanes=train.lanes, window=train.window, seed=train.seed)
    return dataclasses.replace(config, data=dataset.config)


def build_training(config: Config, dataset: Dataset, cluster: Cluster) -> Training:
    """Makes model and optimizer with their initial values."""
    strategy = cluster.strategy
    replicas = strategy.num_replicas_in_sync
    local = replicas // cluster.size
    lanes = [
        own_lanes(config.train.lanes, index=cluster.rank * local + index, count=replicas)
        for index in range(local)
    ]
    with strategy.scope():
        model = JointModel(config.model, vocab_counts=dataset.vocab.counts, seed=config.train.seed)
        variables = [variable.value for variable in model.trainable_variables]
        optimizer = AdamW(variables, weight_decay=config.train.weight_decay)
    steps = Steps(model, optimizer, config=config, strategy=strategy)
    training = Training(config, dataset, cluster, model, optimizer, steps, lanes)
    shape = (config.train.lanes, config.model.lstm_layers, 2, config.model.lstm_dim)
    training.state = _deal_state(training, np.zeros(shape, np.float32))
    return training


def _deal_state(training: Training, state: Any) -> Any:
    """Returns each local replica's lanes of a global state `[B, layers, 2, H]`."""
    return _distribute(training, [tf.constant(state[r.start : r.stop]) for r in training.lanes])


def _distribute(training: Training, values: list[Any]) -> Any:
    """Hands one value to each local replica."""
    return training.cluster.strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group % len(values)]
    )


def _inputs(training: Training, batches: list[Batch]) -> Any:
    return _distribute(
        training,
        [
            batch_inputs(batch, first_lane=lanes.start)
            for batch, lanes in zip(batches, training.lanes, strict=True)
        ],
    )


def _named_variables(training: Training) -> dict[str, tf.Variable]:
    named = {f"model/{v.path}": v.value for v in training.model.weights}
    paths = [v.path for v in training.model.trainable_variables]
    named |= {f"adam/first/{p}": v for p, v in zip(paths, training.optimizer.first, strict=True)}
    named |= {f"adam/second/{p}": v for p, v in zip(paths, training.optimizer.second, strict=True)}
    return named


def restore(training: Training, checkpoint: Checkpoint) -> None:
    """Sets weights, optimizer slots, lane states and step from a checkpoint.

    Raises:
      InputError: the checkpoint is of other records or another model.
    """
    meta = checkpoint.meta
    if meta.get("dataset_digest") != training.dataset.digest:
        raise InputError(
            f"{checkpoint.path} was trained on other records than {training.dataset.path}; "
            "choose another --workdir"
        )
    variables = _named_variables(training)
    model, lanes = training.config.model, training.config.train.lanes
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    shapes["state"] = (lanes, model.lstm_layers, 2, model.lstm_dim)
    if shapes != {name: array.shape for name, array in checkpoint.arrays.items()}:
        raise InputError(f"{checkpoint.path} is of another model; choose another --workdir")
    for name, variable in variables.items():
        variable.assign(checkpoint.arrays[name])
    training.state = _deal_state(training, checkpoint.arrays["state"])
    training.step = checkpoint.step


def _save(training: Training) -> dict[str, Any]:
    """Collects a checkpoint's arrays; a collective, so all workers call it."""
    state = training.steps.gather_state(training.state)
    arrays = {name: variable.numpy() for name, variable in _named_variables(training).items()}
    return {**arrays, "state": state.numpy()}


def save(training: Training, workdir: str) -> None:
    """Writes a checkpoint; all workers call it, the chief writes."""
    arrays = _save(training)
    if not training.cluster.is_chief:
        return
    meta: dict[str, Any] = {
        "dataset_digest": training.dataset.digest,
        "config": json.loads(to_json(training.config)),
        "workers": training.cluster.size,
    }
    if training.valid:
        meta["valid_log_likelihood"], meta["valid_words"] = training.valid
    path = save_checkpoint(
        workdir,
        step=training.step,
        arrays=arrays,
        meta=meta,
        keep=training.config.train.keep_checkpoints,
    )
    log.info("checkpoint %s", path)


def validate(training: Training, plan: EvalPlan, reader: LaneReader) -> tuple[float, int]:
    """Scores the validation split; all workers call it, each for its lanes.

    Returns:
      Log-likelihood and words over all workers.
    """
    shape = (training.config.train.lanes, *training.model.zero_state(1).shape[1:])
    state = _deal_state(training, np.zeros(shape, np.float32))
    loss, words = 0.0, 0

    def make(step: int) -> list[Batch]:
        return [eval_batch(plan, reader, step, lanes) for lanes in training.lanes]

    for batches in prefetch(make, range(plan.steps)):
        result = training.steps.evaluate(_inputs(training, batches), state)
        state = result.state
        loss += float(result.loss)
        words += int(result.words)
    return -loss, words


def train_and_evaluate(
    config: Config, *, dataset: Dataset, workdir: str, cluster: Cluster
) -> dict[str, Any]:
    """Trains to `config.train.steps`, from the newest whole checkpoint if there is one.

    Args:
      config: as `check_config` returns it.
      dataset: the records.
      workdir: gets checkpoints/, tensorboard/, metrics.jsonl and, last, COMPLETED.
      cluster: this worker's place.

    Returns:
      step, valid_perplexity (None without a validation split).

    Raises:
      InputError: the workdir is of other records or another model.
      CharloomError: the loss is no longer a number.
    """
    training = build_training(config, dataset, cluster)
    newest = newest_checkpoint(workdir)
    if newest:
        restore(training, read_checkpoint(newest))
        log.info("continuing from step %d, checkpoint %s", training.step, newest)
    run_log = RunLog(workdir, step=training.step, steps=config.train.steps, chief=cluster.is_chief)
    try:
        _train_loop(training, workdir, run_log)
    finally:
        run_log.close()
    if cluster.is_chief:
        marker = os.path.join(workdir, COMPLETED_FILE)
        write_whole(marker, f"{training.step}\n")
    valid = math.exp(-training.valid[0] / training.valid[1]) if training.valid else None
    return {"step": training.step, "valid_perplexity": valid}


def _train_loop(training: Training, workdir: str, run_log: RunLog) -> None:
    config, dataset = training.config.train, training.dataset
    lanes, window = config.lanes, config.window
    width = training.config.model.max_word_bytes
    plan = TrainPlan(dataset.lengths("train"), lanes=lanes, window=window, seed=config.seed)
    valid_plan = EvalPlan(dataset.lengths("valid"), lanes=lanes, window=window)
    reader = LaneReader(dataset, "train", max_word_bytes=width, window=window)
    valid_reader = LaneReader(dataset, "valid", max_word_bytes=width, window=window)

    def make(step: int) -> list[Batch]:
        return [train_batch(plan, reader, step, own) for own in training.lanes]

    pending: list[StepResult] = []
    since = time.monotonic()
    for batches in prefetch(make, range(training.step, config.steps)):
        rate = learning_rate(config, training.step)
        result = training.steps.train(
            _inputs(training, batches),
            training.state,
            step=tf.constant(training.step, tf.int32),
            rate=tf.constant(rate, tf.float32),
        )
        training.state, training.valid = result.state, None
        training.step += 1
        pending.append(result)
        last = training.step == config.steps
        if training.step % config.log_steps == 0 or last:
            loss, words = _sum_losses(pending, step=training.step, workdir=workdir)
            run_log.train(
                step=training.step,
                loss=loss / words,
                words_per_second=words / (time.monotonic() - since),
                rate=rate,
            )
            pending, since = [], time.monotonic()
        aside = time.monotonic()
        if valid_plan.steps and (training.step % config.valid_steps == 0 or last):
            training.valid = validate(training, valid_plan, valid_reader)
            run_log.valid(
                step=training.step, log_likelihood=training.valid[0], words=training.valid[1]
            )
        if training.valid or training.step % config.checkpoint_steps == 0 or last:
            _sum_losses(pending, step=training.step, workdir=workdir)  # save no broken model
            save(training, workdir)
        since += time.monotonic() - aside


def _sum_losses(results: list[StepResult], *, step: int, workdir: str) -> tuple[float, int]:
    """Returns loss and words of some steps; raises CharloomError if the model is broken."""
    loss = sum(float(one.loss) for one in results)
    norm = float(results[-1].gradient_norm) if results else 0.0
    if not math.isfinite(loss + norm):
        raise CharloomError(
            f"the loss is {loss} and the gradient's norm {norm} at step {step}; lower "
            f"train.learning_rate, and look at the newest checkpoint in {workdir}"
        )
    return loss, sum(int(one.words) for one in results)
