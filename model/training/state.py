"""A training in progress on one worker: built, restored from a checkpoint, saved to one."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from model.arrays import ArrayLike
from model.baselines.byte_ngram import KEYS, learn_spellings
from model.checkpointing.checkpoints import Arrays, Checkpoint, save_checkpoint
from model.checkpointing.origin import describe_warm_start
from model.checkpointing.retention import WholeCheck, prune_checkpoints
from model.checkpointing.trained import check_spelling
from model.checkpointing.variable_names import check_complete, join_named, name_variables, shapes_of
from model.config import Config, to_json
from model.data.plan import own_lanes
from model.data.records import Dataset
from model.distributed.cluster import Cluster
from model.errors import InputError
from model.network.joint_model import JointModel
from model.training.carry_over import carry_over
from model.training.optimizer import AdamW
from model.training.steps import Steps
from model.training.weight_average import WeightAverage

log = logging.getLogger(__name__)


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
    """`[b, layers, 2, H]` per replica."""
    valid: tuple[float, int] | None = None
    """Log-likelihood and words of the newest validation pass, if made at this step."""
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    """Log-likelihood per word of each validation pass that counts, by step."""
    is_rebased: bool = False
    """Whether the state has changed at this step since the checkpoint it was restored from."""
    average: WeightAverage | None = None
    """The average of the weights, if the config asks for one."""
    unreported: tuple[list[float], list[float]] = ([], [])
    """Losses and words of the steps since the last report that were carried over from before a
    restart."""
    spelling: Arrays = dataclasses.field(default_factory=dict)
    """Arrays of the spelling model; made for the first checkpoint."""
    loss_watch: dict[str, Any] = dataclasses.field(default_factory=dict)
    """State of the `LossWatch` from before a restart; empty if there is none."""
    is_whole: WholeCheck = dataclasses.field(default_factory=WholeCheck)
    """Remembers which checkpoints are whole."""
    warm_start: dict[str, Any] | None = None
    """Description of the published model it was warm-started from; None without one."""

    @property
    def history(self) -> list[float]:
        """The scores, oldest first."""
        return list(self.scores.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a checkpoint records about the training's health."""

    losses: list[float]
    """Losses since the previous report, so that a resumed run reports the same."""
    words: list[float]
    """Targets of each of these steps."""
    loss_watch: dict[str, Any]
    """State of the `LossWatch`."""
    good_step: int
    """Newest step after which the model is known to have been good."""


def build_training(config: Config, dataset: Dataset, cluster: Cluster) -> Training:
    """Builds model and optimizer with their initial values."""
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
        average = WeightAverage(variables, strategy=strategy) if config.train.average_last else None
    steps = Steps(model, optimizer, config=config, strategy=strategy)
    training = Training(config, dataset, cluster, model, optimizer, steps, lanes)
    training.average = average
    shape = (config.train.lanes, config.model.lstm_layers, 2, config.model.lstm_dim)
    training.state = deal_state(training, np.zeros(shape, np.float32))
    return training


def deal_state(training: Training, state: Any) -> Any:
    """Returns each local replica's lanes of a global state `[B, layers, 2, H]`."""
    return distribute(training, [tf.constant(state[r.start : r.stop]) for r in training.lanes])


def distribute(training: Training, values: list[Any]) -> Any:
    """Gives one value to each local replica."""
    if len(values) == 1:
        return values[0]  # as steps return it
    return training.cluster.strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group % len(values)]
    )


def _named_variables(training: Training) -> dict[str, tf.Variable]:
    trained = training.model.trainable_variables
    return join_named(
        name_variables("model", training.model.weights),
        name_variables("adam/first", trained, training.optimizer.first),
        name_variables("adam/second", trained, training.optimizer.second),
        name_variables("average", trained, training.average.means) if training.average else {},
    )


def begin_with(training: Training, start: Checkpoint) -> None:
    """Replaces the random initial weights by those of a warm start.

    Raises:
      InputError: they belong to another model.
    """
    variables = name_variables("model", training.model.weights)
    _check_model(start, shapes_of(variables), shapes_of(start.arrays))
    for name, variable in variables.items():
        variable.assign(start.arrays[name])
    training.warm_start = describe_warm_start(start)


def _check_model(
    checkpoint: Checkpoint,
    expected: dict[str, tuple[int, ...]],
    found: dict[str, tuple[int, ...]],
) -> None:
    """Raises InputError unless a checkpoint has exactly the model's arrays."""
    try:
        check_complete(expected, found)
    except ValueError as error:
        raise InputError(
            f"{checkpoint.path} belongs to another model ({error}); choose another --workdir"
        ) from None


def restore(training: Training, checkpoint: Checkpoint) -> None:
    """Sets weights, optimizer slots, lane states and step from a checkpoint.

    Raises:
      InputError: the checkpoint is from other records, another model or an older charloom.
    """
    meta = checkpoint.meta
    if meta.get("dataset_digest") != training.dataset.digest:
        raise InputError(
            f"{checkpoint.path} was trained on other records than {training.dataset.path}; "
            "choose another --workdir"
        )
    variables = _named_variables(training)
    model, lanes = training.config.model, training.config.train.lanes
    state = {"state": (lanes, model.lstm_layers, 2, model.lstm_dim)}
    of_model = {name: one for name, one in checkpoint.arrays.items() if name not in KEYS}
    _check_model(checkpoint, join_named(shapes_of(variables), state), shapes_of(of_model))
    check_spelling(checkpoint)
    for name, variable in variables.items():
        variable.assign(checkpoint.arrays[name])
    training.state = deal_state(training, checkpoint.arrays["state"])
    training.spelling = {name: checkpoint.arrays[name] for name in KEYS}
    training.step = checkpoint.step
    training.warm_start = meta.get("warm_start")
    _carry_over(training, meta)
    if "valid_words" in meta and training.step in training.scores:
        training.valid = float(meta["valid_log_likelihood"]), int(meta["valid_words"])
    training.unreported = list(meta["unreported_losses"]), list(meta["unreported_words"])
    # Without one (older charloom): training without a fault so far counts as good.
    reported = checkpoint.step - len(training.unreported[0])
    training.loss_watch = meta.get("loss_watch", {"fine": reported})


def _carry_over(training: Training, meta: dict[str, Any]) -> None:
    """Takes over average and scores as far as they are valid under the present config."""
    carried = carry_over(meta, training.config.train)
    training.scores = carried.scores
    if training.average:
        training.average.count = carried.averaged
        if meta["averaged"] and not carried.averaged:
            training.average.clear()
            training.is_rebased = True
    if carried.notes:
        log.warning("step %d: %s", training.step, "; ".join(carried.notes))


class _Unread:
    """A variable as an array that is copied only when it is written."""

    def __init__(self, variable: tf.Variable):
        self._variable = variable
        self.dtype = np.dtype(variable.dtype.as_numpy_dtype)
        self.nbytes = int(np.prod(variable.shape)) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._variable.numpy()


def collect(training: Training) -> dict[str, ArrayLike]:
    """Collects a checkpoint's arrays; a collective, so all workers call it.

    Only the chief gets any, and none of the variables is copied before it is written.
    """
    state = training.steps.gather_state(training.state)
    if not training.cluster.is_chief:
        return {}
    arrays = {name: _Unread(one) for name, one in _named_variables(training).items()}
    return join_named(arrays, {"state": state.numpy()})


def checkpoint_bytes(training: Training) -> int:
    """Returns the approximate size of a checkpoint, in bytes."""
    return sum(
        int(np.prod(variable.shape)) * variable.dtype.size
        for variable in _named_variables(training).values()
    )


def save(training: Training, workdir: str, *, outlook: Outlook) -> None:
    """Writes a checkpoint; all workers call it, the chief writes.

    Args:
      training: what to save.
      workdir: its folder.
      outlook: what the checkpoint records about the training's health.
    """
    arrays = collect(training)
    if not training.cluster.is_chief:
        return
    if not training.spelling:
        # Opens its own files: the training's are in use by the prefetching thread.
        with Dataset.open(training.dataset.path) as dataset:
            training.spelling = learn_spellings(dataset).to_arrays()
    meta: dict[str, Any] = {
        "dataset_digest": training.dataset.digest,
        "config": json.loads(to_json(training.config)),
        "workers": training.cluster.size,
        "history": training.history,
        "history_steps": list(training.scores),
        "averaged": training.average.count if training.average else 0,
        "unreported_losses": outlook.losses,
        "unreported_words": outlook.words,
        "loss_watch": outlook.loss_watch,
    }
    if training.warm_start:
        meta["warm_start"] = training.warm_start
    if training.valid:
        meta["valid_log_likelihood"], meta["valid_words"] = training.valid
    arrays = join_named(arrays, training.spelling)
    path = save_checkpoint(workdir, step=training.step, arrays=arrays, meta=meta)
    prune_checkpoints(
        workdir,
        written=path,
        keep=training.config.train.keep_checkpoints,
        good_step=outlook.good_step,
        is_whole=training.is_whole,
    )
    log.info("checkpoint %s", path)
