"""Runs a training as worker processes on this machine, and restarts them when some are lost.

On a cluster the workers are pods: cluster/launcher.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from components.train.launching import Follower, IdleRestarts, StopRequests, newest_step
from components.train.local.gpus import share_gpus
from components.train.local.private_network import PrivateNetwork
from components.train.local.worker_group import WorkerGroup
from components.train.training_job import TrainingJob
from model.checkpointing.save_time import is_saving, read_save_limit
from model.errors import CharloomError, Restart, RestartableError, StoppedError, ending_for

_END_SECONDS = 15.0
"""Time for workers that were asked to stop to come to save, and to end once they have saved."""


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
    variables = share_gpus(job.workers, os.environ)
    follower = follower or Follower()
    restarts = 0
    idle = IdleRestarts(newest_step(job.workdir), max_restarts=job.max_restarts)
    with StopRequests() as requests, _open_network(job.workers) as enter:
        while True:
            with WorkerGroup(
                command,
                workdir=job.workdir,
                count=job.workers,
                enter=enter,
                variables=variables,
            ) as group:
                failure = _attempt(group, requests, follower, job)
            if failure is None:
                return
            restart = ending_for(failure).local
            if restart is Restart.NEVER:
                raise failure
            step = newest_step(job.workdir)
            counts = restart is Restart.COUNTED
            restarts += counts
            problem = idle.note(step, str(failure))
            if restarts > job.max_restarts or not job.max_restarts:
                often = f", after {job.max_restarts} restarts" if job.max_restarts else ""
                problem = f"{failure}{often}"
            if problem and not requests.numbers:
                raise RestartableError(
                    f"{problem}; continue from the newest checkpoint with: {job.command()}"
                )
            order = f"{restarts} of {job.max_restarts}" if counts else "not counted"
            if not requests.numbers:
                follower.restarting(f"restarting from step {step} ({order}): {failure}", step=step)
            _pause(idle.pause, requests)
            if requests.numbers:
                raise requests.ended(step=step, how=job.command())


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
    group: WorkerGroup, requests: StopRequests, follower: Follower, job: TrainingJob
) -> CharloomError | None:
    """Follows a group of workers until it ends; returns why it failed."""
    while not group.finished:
        follower.update()
        failure = group.failure()
        if isinstance(failure, StoppedError):  # the others are about to end, too
            _wait_for_end(group, requests, job.workdir)
        if not failure and requests.numbers:
            failure = _stop(group, requests, job.workdir)
        if failure:
            follower.update()
            return failure
        time.sleep(0.2)
    follower.update()
    return None


def _pause(seconds: float, requests: StopRequests) -> None:
    """Waits before a restart, but not once there is a request to stop."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not requests.numbers:
        time.sleep(0.1)


def _stop(group: WorkerGroup, requests: StopRequests, workdir: str) -> CharloomError | None:
    """Stops the workers after saving; returns the outcome, None if they had just finished."""
    group.ask_to_stop()
    _wait_for_end(group, requests, workdir)
    if group.finished:
        return None
    return group.failure() or StoppedError("killed while it saved")


def _wait_for_end(group: WorkerGroup, requests: StopRequests, workdir: str) -> None:
    """Waits for workers that are about to end: as long as a save takes while one is under way."""
    requested, asked = len(requests.numbers), time.monotonic()
    deadline = asked + _END_SECONDS
    while group.running and time.monotonic() < deadline:
        if len(requests.numbers) > max(1, requested):
            return
        if is_saving(workdir):
            last = asked + _END_SECONDS + read_save_limit(workdir)
            deadline = min(time.monotonic() + _END_SECONDS, last)
        time.sleep(0.1)
