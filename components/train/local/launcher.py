"""Runs a training as worker processes on this machine, and restarts them when some are lost.

On a cluster the workers are pods: cluster/launcher.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from components.train.launching import Follower, StopRequests, newest_step
from components.train.local.private_network import PrivateNetwork
from components.train.local.worker_group import WorkerGroup
from components.train.training_job import TrainingJob
from model.errors import CharloomError, Restart, RestartableError, StoppedError, ending_for

SAVE_SECONDS = 15.0
"""Time for workers that were asked to stop to save before they are killed."""


def launch_local(job: TrainingJob, *, follower: Follower | None = None) -> None:
    """Runs a training as local processes that share the cores and connect over loopback.

    Args:
      job: the training; each worker's output goes to logs/ in its workdir.
      follower: is notified of the progress.

    Raises:
      InputError: a worker found bad input.
      RestartableError: workers were lost too often, or SIGTERM or SIGHUP was received.
      KeyboardInterrupt: Ctrl-C; as with SIGTERM, the workers save first.
      CharloomError: a worker failed.
    """
    command = [sys.executable, "-m", "components.train.worker", *job.worker_arguments()]
    command += ["--threads", str(max(1, (os.cpu_count() or 1) // job.workers))]
    command += ["--launcher", str(os.getpid())]
    follower = follower or Follower()
    restarts = 0
    with StopRequests() as requests, _open_network(job.workers) as enter:
        while True:
            with WorkerGroup(command, workdir=job.workdir, count=job.workers, enter=enter) as group:
                failure = _attempt(group, requests, follower)
            if failure is None:
                return
            restart = ending_for(failure).local
            if restart is Restart.NEVER:
                raise failure
            step = newest_step(job.workdir)
            if requests.numbers:
                raise requests.ended(step=step, how=job.command())
            counts = restart is Restart.COUNTED
            restarts += counts
            if restarts > job.max_restarts or not job.max_restarts:
                often = f", after {job.max_restarts} restarts" if job.max_restarts else ""
                raise RestartableError(
                    f"{failure}{often}; continue from the newest checkpoint with: {job.command()}"
                )
            order = f"{restarts} of {job.max_restarts}" if counts else "not counted"
            line = f"restarting from step {step} ({order}): {failure}"
            follower.restarting(line, step=step)


@contextlib.contextmanager
def _open_network(workers: int) -> Iterator[Callable[[Sequence[str]], list[str]]]:
    """Yields what makes a command run in a network of the workers' own, if the system has one."""
    if workers == 1:  # it listens nowhere
        yield list
        return
    with PrivateNetwork() as network:
        if network.problem:
            print(
                f"warning: other machines can reach the workers' ports: {network.problem}; allow "
                "user namespaces, or close this machine's ports to others",
                file=sys.stderr,
                flush=True,
            )
        yield network.command


def _attempt(
    group: WorkerGroup, requests: StopRequests, follower: Follower
) -> CharloomError | None:
    """Follows a group of workers until it ends; returns why it failed."""
    while not group.finished:
        follower.update()
        failure = group.failure()
        if isinstance(failure, StoppedError):  # the others are about to end, too
            group.end(SAVE_SECONDS)
        if not failure and requests.numbers:
            failure = _stop(group, requests)
        if failure:
            follower.update()
            return failure
        time.sleep(0.2)
    follower.update()
    return None


def _stop(group: WorkerGroup, requests: StopRequests) -> CharloomError | None:
    """Stops the workers after saving; returns the outcome, None if they had just finished."""
    group.ask_to_stop()
    deadline = time.monotonic() + SAVE_SECONDS
    while group.running and time.monotonic() < deadline and len(requests.numbers) < 2:
        time.sleep(0.1)
    if group.finished:
        return None
    return group.failure() or StoppedError("killed while it saved")
