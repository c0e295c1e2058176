"""Runs a training as worker processes on this machine, and restarts them when some are lost.

On a cluster the workers are pods instead: launch_jobset.py.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from components.component_runtime import MAX_RESTARTS
from components.train.local.worker_group import WorkerGroup
from model.checkpointing.checkpoints import list_checkpoints
from model.distributed.cluster import PEER_SECONDS
from model.errors import CharloomError, Restart, RestartableError, StoppedError, ending_for

STALL_SECONDS = 300.0

SAVE_SECONDS = 15.0
"""How long workers that were asked to stop may take to save before they are killed."""


class Follower:
    """Hears how a training goes; this one prints restarts only."""

    def update(self) -> None:
        """Is called several times a second while workers run."""

    def restarting(self, line: str, *, step: int) -> None:
        """Hears why the workers are started again, and from which step."""
        print(line, flush=True)


def launch_local(
    *,
    records: str,
    workdir: str,
    config: str,
    workers: int,
    max_restarts: int = MAX_RESTARTS,
    peer_seconds: float = PEER_SECONDS,
    stall_seconds: float = STALL_SECONDS,
    profile: str = "",
    warm_start: str = "",
    follower: Follower | None = None,
) -> None:
    """Runs a training as local processes that share the cores and meet on loopback.

    Args:
      records: folder of records.
      workdir: the training's folder; each worker's output goes to its logs/.
      config: JSON file of the whole config.
      workers: how many processes.
      max_restarts: how often all workers are started again from the newest checkpoint
        after one was lost. A worker that was asked to stop does not count, unless this is
        0: then nothing is ever started again.
      peer_seconds: how long a worker waits for the others to come.
      stall_seconds: how long a worker may make no progress.
      profile: the steps that worker 0 traces, as in `100:110`.
      warm_start: folder of the version with whose weights the training began, which the command
        that goes on must name; the workers find the weights in `workdir`.
      follower: hears how it goes.

    Raises:
      InputError: a worker found bad input.
      RestartableError: workers were lost too often, or SIGTERM or SIGHUP came.
      KeyboardInterrupt: Ctrl-C; like SIGTERM it lets the workers save first.
      CharloomError: a worker failed.
    """
    command = [sys.executable, "-m", "components.train.worker"]
    command += ["--records", records, "--workdir", workdir, "--config", config]
    command += ["--threads", str(max(1, (os.cpu_count() or 1) // workers))]
    command += ["--launcher", str(os.getpid())]
    command += ["--peer-seconds", str(peer_seconds), "--stall-seconds", str(stall_seconds)]
    if profile:
        command += ["--profile", profile]
    limits = {
        "--max-restarts": (max_restarts, MAX_RESTARTS),
        "--peer-seconds": (peer_seconds, PEER_SECONDS),
        "--stall-seconds": (stall_seconds, STALL_SECONDS),
    }
    again = ["charloom", "train", "--records", records, "--workdir", workdir]
    again += ["--config", config, "--workers", str(workers)]
    again += ["--warm-start", warm_start] if warm_start else []
    for flag, (value, default) in limits.items():
        again += [flag, f"{value:g}"] if value != default else []
    follower = follower or Follower()
    restarts = 0
    with StopRequests() as requests:
        while True:
            with WorkerGroup(command, workdir=workdir, count=workers) as group:
                failure = _attempt(group, requests, follower)
            if failure is None:
                return
            restart = ending_for(failure).local
            if restart is Restart.NEVER:
                raise failure
            step = newest_step(workdir)
            if requests.numbers:
                raise requests.ended(step=step, how=shlex.join(again))
            counts = restart is Restart.COUNTED
            restarts += counts
            if restarts > max_restarts or not max_restarts:
                often = f", after {max_restarts} restarts" if max_restarts else ""
                raise RestartableError(
                    f"{failure}{often}; continue from the newest checkpoint with: "
                    f"{shlex.join(again)}"
                )
            order = f"{restarts} of {max_restarts}" if counts else "not counted"
            line = f"restarting from step {step} ({order}): {failure}"
            follower.restarting(line, step=step)


def _attempt(
    group: WorkerGroup, requests: StopRequests, follower: Follower
) -> CharloomError | None:
    """Follows a group of workers to its end; returns why it failed."""
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
    """Lets the workers save; returns what came of it, None if they were just done."""
    group.ask_to_stop()
    deadline = time.monotonic() + SAVE_SECONDS
    while group.running and time.monotonic() < deadline and len(requests.numbers) < 2:
        time.sleep(0.1)
    if group.finished:
        return None
    return group.failure() or StoppedError("killed while it saved")


def newest_step(workdir: str) -> int:
    """Returns the step of the newest checkpoint, whole or not; 0 without one."""
    paths = list_checkpoints(workdir)
    return int(os.path.basename(paths[0]).removeprefix("step-")) if paths else 0


class StopRequests:
    """Collects the signals that ask to stop, in place of what they do otherwise."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def ended(self, *, step: int, how: str) -> BaseException:
        """Returns the exception that tells that a signal ended the run.

        Args:
          step: of the newest checkpoint.
          how: what makes the training go on.
        """
        name = signal.Signals(self.numbers[0]).name
        text = f"stopped by {name}; go on from step {step} with: {how}"
        return KeyboardInterrupt(text) if name == "SIGINT" else RestartableError(text)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.numbers.append(number)
