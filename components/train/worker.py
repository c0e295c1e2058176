"""One training worker: `python -m components.train.worker`.

Its place in the group comes from its environment: TF_CONFIG, or, in a pod, JOB_COMPLETION_INDEX,
with host names from `--host-pattern`.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
import time

from components.component_runtime import quick_imports, report_error, reporting_errors
from components.train.cluster import pod
from model.config import read_config
from model.distributed.proxies import keep_from_proxies
from model.distributed.rendezvous import PEER_SECONDS
from model.distributed.stop_signals import StopSignals
from model.distributed.tf_config import format_tf_config
from model.distributed.watchdog import STALL_SECONDS, ExitTimer, Watchdog
from model.errors import (
    EXIT_ORPHANED,
    InputError,
    OrphanedError,
    RestartableError,
    StoppedError,
)

_LEAVE_SECONDS = 30.0
"""Time for TensorFlow to close after everything is done and saved."""

_ORPHAN_SECONDS = 300.0
"""Time for an orphan to save and end."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(arguments: list[str] | None = None) -> None:
    """Joins the worker group and trains; exits with a `CharloomError`'s code on one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--config", required=True, help="JSON file of the whole config")
    parser.add_argument("--threads", type=int, default=0, help="cores for one op; 0: all")
    parser.add_argument("--profile", help="steps to trace, such as 100:110")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs given; with fewer it ends")
    parser.add_argument("--launcher", type=int, help="process id; end when it is gone")
    parser.add_argument("--peer-seconds", type=float, default=PEER_SECONDS)
    parser.add_argument("--stall-seconds", type=float, default=STALL_SECONDS)
    _add_pod_options(parser)
    options = parser.parse_args(arguments)
    signals = StopSignals(lambda reason: _leave_stopped(reason, signals), launcher=options.launcher)
    signals.listen()
    if options.launcher is not None:
        end_with_launcher(options.launcher)
    with reporting_errors(stoppable=False):
        try:
            if options.host_pattern:
                _take_place(options, signals)
            _train(options, signals)
        except RestartableError as error:
            ExitTimer(error.exit_code).set(_LEAVE_SECONDS)
            notes = getattr(error, "__notes__", [])
            if options.host_pattern and notes:  # names and ports of one machine say nothing
                raise type(error)("; ".join([str(error), *notes])) from None
            raise
    ExitTimer(0).set(_LEAVE_SECONDS)


def _add_pod_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("in a pod")
    group.add_argument("--host-pattern", default="", help="host names of all workers, with {index}")
    group.add_argument("--workers", type=int, default=1, help="number of workers")
    group.add_argument("--port", type=int, default=pod.PORT, help="port of each worker")
    group.add_argument("--lease", default="", help="lease renewed by the launcher")
    group.add_argument("--lease-seconds", type=float, default=30.0, help="duration of the lease")


def _take_place(options: argparse.Namespace, signals: StopSignals) -> None:
    """Sets TF_CONFIG, and makes worker 0 watch for the launcher.

    Raises:
      InputError: the place is not given by the pod's environment or the options, or the pod lacks
        the volume.
    """
    hosts = pod.worker_hosts(options.host_pattern, workers=options.workers, port=options.port)
    index = pod.own_index(os.environ, workers=options.workers)
    if not os.path.isdir(options.workdir):
        raise InputError(
            f"{options.workdir} does not exist, though the launcher created it; launcher and workers "
            "must mount the same volume at the same path"
        )
    if api := os.environ.get(pod.API_VARIABLE):
        keep_from_proxies([api], os.environ)
    os.environ["TF_CONFIG"] = format_tf_config(hosts, index)
    attempt = os.environ.get(pod.ATTEMPT_VARIABLE) or "0"
    print(f"worker {index} of {options.workers} at {hosts[index]}, attempt {attempt}", flush=True)
    if options.lease and index == 0:
        from components.train.orphan import LeaseWatch  # importing Kubernetes' client takes a while

        def stop(reason: str) -> None:
            logging.warning("%s: the group ends", reason)
            ExitTimer(EXIT_ORPHANED).set(_ORPHAN_SECONDS)
            signals.stop_orphan()

        LeaseWatch(options.lease, seconds=options.lease_seconds, orphaned=stop).start()


def _train(options: argparse.Namespace, signals: StopSignals) -> None:
    # Imported late, so that a wrong flag is reported without waiting for TensorFlow.
    with quick_imports():
        from model.data.records import Dataset
        from model.distributed.cluster import join_cluster
        from model.training.config_checks import check_config
        from model.training.profiler import ProfileSteps
        from model.training.train import train_and_evaluate

    config = read_config(options.config)
    cluster = join_cluster(
        threads=options.threads,
        peer_seconds=options.peer_seconds,
        gpus=options.gpus,
        deterministic=config.train.deterministic,
    )
    logging.getLogger("tensorflow").handlers.clear()  # its own handler would print every line twice
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO,
        format=f"%(asctime)s worker {cluster.rank}: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.info(
        "rank %d of %d, %d replicas in sync",
        cluster.rank,
        cluster.size,
        cluster.strategy.num_replicas_in_sync,
    )

    def leave_stalled(reason: str) -> None:
        _leave(RestartableError(f"worker {cluster.rank} made {reason}; its log has the stacks"))

    with Dataset.open(options.records) as dataset:
        config = check_config(config, dataset, workers=cluster.size)
        result = train_and_evaluate(
            config,
            dataset=dataset,
            workdir=options.workdir,
            cluster=cluster,
            profile=ProfileSteps.parse(options.profile) if options.profile else None,
            signals=signals,
            watchdog=Watchdog(leave_stalled, seconds=options.stall_seconds),
        )
    logging.info("finished at step %d", result["step"])


def _leave_stopped(reason: str, signals: StopSignals) -> None:
    _leave(OrphanedError(reason) if signals.orphaned else StoppedError(reason))


def _leave(error: RestartableError) -> None:
    """Ends the process from any thread, without waiting for the others."""
    try:
        logging.warning("%s", error)
        report_error(error)
        sys.stdout.flush()
    finally:
        os._exit(error.exit_code)


def end_with_launcher(launcher: int) -> None:
    """Ends this process when its launcher is gone: nobody would read or restart it.

    Args:
      launcher: its process id, passed in because it may be gone before we can query it.
    """
    if sys.platform == "linux":  # immediate, even while no Python thread can run
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


if __name__ == "__main__":
    main()
