"""The worker group: TF_CONFIG in, `MultiWorkerMirroredStrategy` out."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from model.errors import InputError


def tf_config(hosts: Sequence[str], index: int) -> str:
    """Returns the TF_CONFIG of one worker.

    Args:
      hosts: `host:port` of every worker; worker 0 is the chief.
      index: which of them this one is.
    """
    return json.dumps(
        {"cluster": {"worker": list(hosts)}, "task": {"type": "worker", "index": index}}
    )


@dataclasses.dataclass(frozen=True)
class Cluster:
    """This process's place in the worker group."""

    rank: int
    size: int
    strategy: tf.distribute.MultiWorkerMirroredStrategy

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes what is shared."""
        return self.rank == 0


def join_cluster(*, threads: int = 0) -> Cluster:
    """Joins the group that TF_CONFIG names; without TF_CONFIG, a group of one.

    Must come before any TensorFlow op. Returns once all workers are there.

    Args:
      threads: cores for one op; 0 leaves the choice to TensorFlow.

    Raises:
      InputError: TF_CONFIG is not of the documented form.
    """
    config = os.environ.get("TF_CONFIG", "")
    try:
        parsed: Any = json.loads(config or '{"cluster": {"worker": ["-"]}, "task": {"index": 0}}')
        size, rank = len(parsed["cluster"]["worker"]), int(parsed["task"]["index"])
        if not 0 <= rank < size:
            raise ValueError(f"task index {rank} of {size} workers")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"TF_CONFIG is malformed ({error}): {config}") from None
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # The strategy's own SIGTERM notice makes a worker deaf to it; one that is asked to
    # stop must stop.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return Cluster(rank=rank, size=size, strategy=strategy)


def own_lanes(lanes: int, *, index: int, count: int) -> range:
    """Returns the contiguous lanes that one of `count` replicas owns.

    Raises:
      InputError: the lanes can't be dealt evenly.
    """
    if lanes % count:
        raise InputError(
            f"train.lanes is {lanes}, which {count} workers can't share evenly; "
            f"use --set train.lanes={max(1, round(lanes / count)) * count}"
        )
    share = lanes // count
    return range(index * share, (index + 1) * share)
