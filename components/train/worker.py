"""One training worker: `python -m components.train.worker`, with TF_CONFIG in its environment."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
import time

from components.task import report_error, reporting_errors
from model.config import read_config
from model.errors import EXIT_RESTARTABLE, RestartableError
from model.stopping import StoppedError, StopSignals
from model.watchdog import ExitTimer, Watchdog

_LEAVE_SECONDS = 30.0
"""How long TensorFlow may take to close when all is done and saved."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(arguments: list[str] | None = None) -> None:
    """Joins the worker group and trains; exits with a `CharloomError`'s code on one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--config", required=True, help="JSON file of the whole config")
    parser.add_argument("--threads", type=int, default=0, help="cores for one op; 0: all")
    parser.add_argument("--profile", help="steps to trace, as in 100:110")
    parser.add_argument("--launcher", type=int, help="process id; end when it is gone")
    parser.add_argument(
        "--peer-seconds", type=float, default=300.0, help="how long to wait for the others"
    )
    parser.add_argument(
        "--stall-seconds", type=float, default=300.0, help="how long to go without progress"
    )
    options = parser.parse_args(arguments)
    signals = StopSignals(_leave_stopped)
    signals.listen()
    if options.launcher is not None:
        _end_with_launcher(options.launcher)
    with reporting_errors():
        try:
            _train(options, signals)
        except RestartableError:
            ExitTimer(EXIT_RESTARTABLE).set(_LEAVE_SECONDS)
            raise
    ExitTimer(0).set(_LEAVE_SECONDS)


def _train(options: argparse.Namespace, signals: StopSignals) -> None:
    # Imported late, so that a wrong flag is told without waiting for TensorFlow.
    from model.cluster import join_cluster
    from model.profiling import ProfileSteps
    from model.records import Dataset
    from model.training import check_config, train_and_evaluate

    cluster = join_cluster(threads=options.threads, peer_seconds=options.peer_seconds)
    logging.getLogger("tensorflow").handlers.clear()  # it has its own; every line came twice
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

    config = read_config(options.config)
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


def _leave_stopped(reason: str) -> None:
    _leave(StoppedError(reason))


def _leave(error: RestartableError) -> None:
    """Ends the process from any thread, without waiting for the others."""
    try:
        logging.warning("%s", error)
        report_error(error)
        sys.stdout.flush()
    finally:
        os._exit(error.exit_code)


def _end_with_launcher(launcher: int) -> None:
    """Ends this process when its launcher is gone: nobody would read or restart it.

    Args:
      launcher: its process id, handed over, as it may be gone before we can ask for it.
    """
    if sys.platform == "linux":  # at once, and also while no thread of Python can run
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


if __name__ == "__main__":
    main()
