"""The worker group: from TF_CONFIG to `MultiWorkerMirroredStrategy`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from model.distributed.devices import prepare_devices
from model.distributed.proxies import keep_from_proxies
from model.distributed.rendezvous import PEER_SECONDS, wait_for_peers
from model.distributed.tf_config import format_tf_config, parse_tf_config
from model.distributed.watchdog import ExitTimer
from model.errors import RestartableError

_JOIN_SECONDS = 60.0
"""Time for TensorFlow to join the group once all workers are there."""

_GPU_SECONDS = 300.0
"""Time for it to start GPUs, too, of which some compile their kernels first."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """This process's place in the worker group."""

    rank: int
    size: int
    strategy: tf.distribute.MultiWorkerMirroredStrategy

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the shared files."""
        return self.rank == 0

    def add(self, values: Sequence[float]) -> list[float]:
        """Returns sums over all workers, the same on each; a collective.

        Args:
          values: this worker's numbers, equally many on all; summed as float32.
        """
        if self.size == 1:
            return [float(value) for value in values]
        local = self.strategy.num_replicas_in_sync // self.size
        sums = self._add(tf.constant(list(values), tf.float32)).numpy()
        return [float(total) / local for total in sums]

    def wait_for_all(self) -> None:
        """Returns once all workers have called it."""
        self.add([0.0])

    @functools.cached_property
    def _add(self) -> Callable[[tf.Tensor], tf.Tensor]:
        def in_replica(values: tf.Tensor) -> tf.Tensor:
            return tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.SUM,
                tf.identity(values),  # a bare argument is not placed on a device
            )

        @functools.partial(tf.function, autograph=False)
        def add(values: tf.Tensor) -> tf.Tensor:
            sums = self.strategy.run(in_replica, args=(values,))
            return self.strategy.experimental_local_results(sums)[0]

        return add  # type: ignore[no-any-return]


def join_cluster(
    *,
    threads: int = 0,
    peer_seconds: float = PEER_SECONDS,
    gpus: int = 0,
    deterministic: bool = False,
) -> Cluster:
    """Joins the group in TF_CONFIG; without TF_CONFIG, a group of one.

    Call it before any TensorFlow op. Returns once all workers have joined.

    Args:
      threads: threads within one op; 0 leaves the choice to TensorFlow.
      peer_seconds: how long to wait for the other workers.
      gpus: how many GPUs this worker was given.
      deterministic: whether ops on GPUs must be deterministic.

    Raises:
      InputError: TF_CONFIG is malformed, or TensorFlow sees fewer GPUs.
      RestartableError: a worker did not arrive, or left again. If one leaves just as TensorFlow
        joins the group, this process exits with the restartable code.
    """
    hosts, rank = parse_tf_config(os.environ.get("TF_CONFIG", ""))
    size = len(hosts)
    prepare_devices(gpus=gpus, deterministic=deterministic)
    # TensorFlow reads it, too. One worker alone needs no server, which would listen on all
    # interfaces and do what it is told.
    os.environ["TF_CONFIG"] = format_tf_config(hosts, rank) if size > 1 else "{}"
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    if size > 1:
        keep_from_proxies([host.rpartition(":")[0].strip("[]") for host in hosts], os.environ)
        wait_for_peers(hosts, rank=rank, seconds=peer_seconds)
    timer = ExitTimer()
    seconds = min(peer_seconds, _JOIN_SECONDS)
    seconds += _GPU_SECONDS if tf.config.list_physical_devices("GPU") else 0.0
    timer.set(seconds, f"worker {rank} could not join the others within {seconds:g} s and ends")
    with reporting_lost_peers(rank, "joining the group"):
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    timer.set(0)
    # The strategy's own SIGTERM handler would make a worker ignore it, and a worker that is asked
    # to stop must stop. (With `StopSignals`, a worker has the signal blocked.)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return Cluster(rank=rank, size=size, strategy=strategy)


@contextlib.contextmanager
def reporting_lost_peers(rank: int, doing: str | Callable[[], str]) -> Iterator[None]:
    """Turns a collective's error into one line.

    Args:
      rank: this worker's rank.
      doing: the current activity, such as "step 12".

    Raises:
      RestartableError: a peer has died, or is frozen and missed its heartbeats.
    """
    try:
        yield
    except tf.errors.OpError as error:
        text = str(error)
        lost = isinstance(error, tf.errors.UnavailableError | tf.errors.AbortedError)
        if not lost and "ollective ops is aborted" not in text and "oordination" not in text:
            raise
        # The error of the worker that noticed first comes last in the chain of forwarded errors.
        tasks = re.findall(r"/task:(\d+)", text)
        peer = f"worker {tasks[-1]}" if tasks and int(tasks[-1]) != rank else "its peers"
        reasons = re.findall(r"aborted by: (?!Collective ops)(.+)", text)
        reason = f" ({' '.join(reasons[0].split())[:200]})" if reasons else ""
        where = doing if isinstance(doing, str) else doing()
        raise RestartableError(f"worker {rank} lost {peer} in {where}{reason}") from None
